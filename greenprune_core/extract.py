"""From masks to a smaller static network of plain torch.nn layers, and the proof that it computes the same."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from greenprune_core.errors import ConfigError, VerificationError
from greenprune_core.evaluation import exact_outputs
from greenprune_core.gates.network import GatedNetwork
from greenprune_core.graph.cut import cut
from greenprune_core.graph.cutter import Slices

NETWORK_PREFIX = "network."
"""What stands before a parameter's name in a gated network, against the static one."""


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """A static network, and where each of its parameters and buffers comes from."""

    network: fx.GraphModule
    slices: Slices
    """For every parameter and buffer of the static network, by name: pairs (axis, kept positions) to take from the
    tensor of the same name in the dense network; no pair means all of it."""


def extract(gated: GatedNetwork, masks: Mapping[str, Tensor] | None = None, *, round_to: int = 1) -> fx.GraphModule:
    """Cut a gated network down to what its masks keep.

    The result is a torch.fx.GraphModule of torch.nn layers without gates: it pickles, exports and trains where this
    package is not installed. (Layers with torch.nn.utils.parametrizations do not pickle, as torch refuses them in any
    network; remove the parametrisations before gates are attached.) Weights are copies. The gated network is left
    frozen at the masks that were cut by, so that `verify` and `slice_like` compare like with like; where the cut is
    refused it is left as it was. The result takes any batch size, and any image size that the network takes, unless a
    whole group is closed whose readers do not lead to an addition: what they give then is folded at the size of the
    example input.

    Args:
        gated: a frozen network, or any when `masks` are given.
        masks: a mask per group, as for `GatedNetwork.freeze`; without them the frozen ones.
        round_to: keep a multiple of so many channels per group (the group's size at most) by opening further gates,
            those first that were open most often.

    Raises:
        ConfigError: not frozen and no masks, a wrong mask, or masks that cut every path from input to output.
    """
    return extract_with_map(gated, masks, round_to=round_to).network


def extract_with_map(
    gated: GatedNetwork, masks: Mapping[str, Tensor] | None = None, *, round_to: int = 1
) -> Extraction:
    """Do what `extract` does, and tell how every parameter and buffer was sliced."""
    if masks is None and gated.mode != "frozen":
        raise ConfigError(
            f"a network is cut by frozen masks, but its gates are {gated.mode}; call freeze() first or pass masks"
        )
    if not isinstance(round_to, int) or round_to < 1:
        raise ConfigError(
            f"round_to needs a whole number of at least 1, but got {round_to!r}; 8 is what hardware likes"
        )
    chosen = gated.masks if masks is None else masks
    flat = gated.flatten_masks(chosen)
    if round_to > 1:
        chosen = round_masks(gated, chosen, round_to)
        flat = gated.flatten_masks(chosen)
    static, slices = cut(gated.structure, flat.numpy())
    if masks is not None or round_to > 1:
        gated.freeze(chosen)  # after the cut, which may refuse them
    return Extraction(network=static, slices=slices)


def round_masks(gated: GatedNetwork, masks: Mapping[str, Tensor], round_to: int) -> dict[str, Tensor]:
    """Open further gates until every channel group keeps a multiple of `round_to` channels.

    Gates that were open most often come first, where statistics were gathered, else those with the lowest index. A
    group that is closed entirely stays so; one that has fewer channels in all is kept whole.

    Raises:
        ConfigError: `round_to` below 1.
    """
    if round_to < 1:
        raise ConfigError(f"round_to needs at least 1, but got {round_to}; 8 is what hardware likes")
    fraction = gated.open_fraction.cpu() if gated.has_statistics else torch.zeros(gated.n_gates)
    rounded = {}
    for name, mask in masks.items():
        mask = mask.to(torch.bool).cpu().clone()
        width = gated.structure.coupling.widths.get(name, 1)
        n_kept = int(mask.sum())
        if gated.structure.kinds[name] != "branch" and n_kept:
            wanted = n_kept
            while wanted < len(mask) and wanted * width % round_to:
                wanted += 1
            order = fraction[gated.group_slices[name]].masked_fill(mask, -1).argsort(descending=True, stable=True)
            mask[order[: wanted - n_kept]] = True
        rounded[name] = mask
    return rounded


def slice_like(gated: GatedNetwork, static: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Carry tensors that belong to parameters (momenta, averages) over a cut.

    Args:
        gated: the network that was cut, frozen at the same masks.
        static: what `extract` made of it.
        tensors: by parameter name in the gated network; each of its parameter's shape, without axes (a step count), or
            with axes of size 1, over which it sums (Adafactor's variances: those stay sums over what was cut away too).

    Returns:
        Sliced copies by parameter name in the static network; what belongs to gates or to removed layers is left out.

    Raises:
        ConfigError: a tensor has another shape than its parameter.
    """
    slices = extract_slices(gated)
    kept = {}
    for name, _ in static.named_parameters():
        source = tensors.get(NETWORK_PREFIX + name, tensors.get(name))
        if source is None:
            continue
        dense = gated.network.get_parameter(name).shape
        fits = source.dim() in (0, len(dense)) and all(
            size in (1, whole) for size, whole in zip(source.shape, dense, strict=False)
        )
        if not fits:
            raise ConfigError(
                f"a tensor that is carried over has its parameter's shape, but for {name} got {tuple(source.shape)} "
                f"instead of {tuple(dense)}; pass it as the optimiser keeps it"
            )
        pairs = tuple((axis, kept) for axis, kept in slices[name] if source.dim() and source.shape[axis] == dense[axis])
        sliced = take(source, pairs)
        kept[name] = sliced
    return kept


def extract_slices(gated: GatedNetwork) -> Slices:
    """Tell how every parameter and buffer is sliced by the frozen masks, by name in the static network."""
    return extract_with_map(gated).slices


def take(tensor: Tensor, pairs: tuple[tuple[int, Tensor], ...]) -> Tensor:
    """Return a copy of the kept part of a tensor."""
    for axis, kept in pairs:
        tensor = tensor.index_select(axis, kept.to(tensor.device))
    return tensor.detach().clone()


def verify(gated: GatedNetwork, static: nn.Module, inputs: Tensor, tolerance: float = 1e-5) -> float:
    """Compare a cut network with the frozen gated one, in evaluation mode; on a GPU in float64.

    Args:
        gated: a frozen network.
        static: what `extract` made of it.
        inputs: a batch, shape as the example input but for N.
        tolerance: largest difference allowed, relative to the largest output.

    Returns:
        The largest absolute difference of the outputs.

    Raises:
        VerificationError: the difference is larger, or the outputs are not finite.
        ConfigError: the gated network is not frozen.
    """
    if gated.mode != "frozen":
        raise ConfigError(f"verify compares with frozen gates, but they are {gated.mode}; call freeze() first")
    expected, got = exact_outputs(gated, inputs), exact_outputs(static, inputs)
    if expected.shape != got.shape:
        raise VerificationError(f"cut outputs have shape {tuple(expected.shape)}, but got {tuple(got.shape)}")
    if not bool(expected.isfinite().all()):
        raise VerificationError(
            "a comparison needs finite outputs, but the frozen network itself gives some that are not; look for NaN in "
            "the inputs or the weights"
        )
    difference = float((expected - got).abs().max())
    scale = float(expected.abs().max())
    if not difference <= tolerance * max(scale, torch.finfo(expected.dtype).tiny):
        raise VerificationError(
            f"a cut network differs by at most {tolerance:g} of its largest output ({scale:g}), but got "
            f"{difference:g}; this is a defect of the cut: keep the masks and report it"
        )
    return difference
