"""The artefact: a static sub-network in three files that open without this project, and never by unpickling.

`program.pt2` is the exported program (`torch.export`, any batch size), for inference with torch alone.
`weights.safetensors` holds the weights and, in its header, the description of the graph, from which the eager network
is made again. `card.json` says what it is and carries the hashes of the other two. All take raw images in [0, 1]: the
normalisation is part of the network.
"""

import copy
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save as to_safetensors
from torch import fx, nn

from greenprune_core.artefact import CARD, PROGRAM, WEIGHTS, hash_file, verify_files, write_aside
from greenprune_core.card import CARD_VERSION, check_card, read_card
from greenprune_core.errors import ConfigError, VerificationError
from greenprune_core.extract import extract
from greenprune_core.gates import GatedNetwork
from greenprune_core.graph.trace import copy_network
from greenprune_core.graph.tracer import first_line, trace_graph
from greenprune_core.portable_graph import describe, rebuild

_HEADER_KEY = "greenprune.network"


def save_subnetwork(
    folder: str | Path, network: nn.Module, example_input: torch.Tensor, card: Mapping[str, Any]
) -> dict[str, Any]:
    """Save a network with its card; the network itself is left as it was.

    Args:
        folder: where the three files go; made if needed.
        network: a network of torch.nn layers that torch.fx can trace.
        example_input: one batch [N, C, H, W] of the right shape and type; its values do not matter unless they are
            whole numbers (indices of words), of which the first are taken.
        card: figures and facts, see `greenprune_core.card`. With `normalisation` = {"mean": [C], "std": [C]} the
            network is given these as its first step, so that it takes raw images.

    Returns:
        The complete card, as written.

    Raises:
        ConfigError: the card is not valid, the network is a gated one, or it does not run on the example.
        UnsupportedNetworkError: the network cannot be described as plain layers of torch.nn.
        VerificationError: the network made again from its files answers differently.
    """
    folder = Path(folder)
    batch = _two_images(example_input)
    whole = _normalised(network, card.get("normalisation"), example_input)
    _check_runs(whole, batch)
    weights = {name: tensor.detach().contiguous().clone() for name, tensor in whole.state_dict().items()}
    description = describe(whole)
    _verify_same(whole, rebuild(description, weights), batch)
    folder.mkdir(parents=True, exist_ok=True)
    header = {_HEADER_KEY: json.dumps(description, separators=(",", ":"))}
    write_aside(folder / WEIGHTS, to_safetensors(weights, metadata=header))
    _write_program(folder / PROGRAM, whole, batch)
    full = {
        **card,
        "schema_version": CARD_VERSION,
        "input_shape": list(example_input.shape[1:]),
        "params": sum(parameter.numel() for parameter in whole.parameters()),
        "files": {name: hash_file(folder / name) for name in (WEIGHTS, PROGRAM)},
    }
    check_card(full)
    write_aside(folder / CARD, json.dumps(full, indent=2).encode())
    return full


def check_savable(gated: GatedNetwork) -> None:
    """Find out before a training whether what it ends with can be saved.

    Raises:
        UnsupportedNetworkError: the network holds what the description of a saved one cannot.
    """
    whole = extract(gated, {name: torch.ones(n, dtype=torch.bool) for name, n in gated.groups.items()})
    _leave_out_stochastic_depth(whole)
    describe(whole)


def load_subnetwork(folder: str | Path) -> fx.GraphModule:
    """Return the eager network, in evaluation mode; it can be trained further, changed and exported.

    It takes raw images in [0, 1], float [N, C, H, W], and gives logits. The hashes on the card are checked first.
    Stochastic depth of whole batches was left out at saving, since torch.nn has none; of single images it is a dropout.

    Raises:
        ConfigError: a file is missing or its hash is not the card's.
        UnsupportedNetworkError: the description holds what this version does not admit.
    """
    folder = Path(folder)
    verify_files(folder, read_card(folder))
    with safe_open(folder / WEIGHTS, framework="pt") as file:
        header = file.metadata() or {}
        # cloned: in a file a tensor begins anywhere, and kernels give other last digits where it is not aligned
        weights = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - it is no dictionary
    if _HEADER_KEY not in header:
        raise ConfigError(f"{WEIGHTS} holds the network's description, but that in {folder} does not; save it again")
    return rebuild(json.loads(header[_HEADER_KEY]), weights)


def _two_images(example_input: torch.Tensor) -> torch.Tensor:
    """Make a batch of two: one image would fix the batch size in the exported program."""
    if not isinstance(example_input, torch.Tensor) or example_input.dim() < 1 or not len(example_input):
        got = tuple(example_input.shape) if isinstance(example_input, torch.Tensor) else type(example_input).__name__
        raise ConfigError(f"the example input is a batch of at least one image, but got {got}; pass a tensor [1, ...]")
    if not example_input.is_floating_point():
        return torch.cat([example_input[:1], example_input[:1]]).cpu()
    generator = torch.Generator().manual_seed(0)  # the caller's own stays as it was
    return torch.rand(2, *example_input.shape[1:], dtype=example_input.dtype, generator=generator)


def _check_runs(network: nn.Module, batch: torch.Tensor) -> None:
    try:
        with torch.no_grad():
            network(batch)
    except (RuntimeError, TypeError, ValueError, LookupError) as error:
        raise ConfigError(
            f"a network that is saved runs on the example input, but with images of shape {tuple(batch.shape[1:])} and "
            f"dtype {batch.dtype} it raised {type(error).__name__}: {first_line(error)}; pass an example of the right "
            "shape and dtype"
        ) from error


def _normalised(
    network: nn.Module, normalisation: Mapping[str, Sequence[float]] | None, example_input: torch.Tensor
) -> fx.GraphModule:
    """Copy the network into a graph on the CPU in evaluation mode, with the normalisation as its first step."""
    if isinstance(network, GatedNetwork):
        raise ConfigError(
            f"what is saved is a network without gates, but got a {type(network).__name__}; save what extract() returns"
        )
    traced = network if isinstance(network, fx.GraphModule) else trace_graph(copy_network(network).eval())
    whole = copy.deepcopy(traced).cpu().eval()
    _lay_out_plainly(whole)
    _leave_out_stochastic_depth(whole)
    if normalisation is not None:
        _prepend(whole, normalisation, example_input)
    return whole


def _lay_out_plainly(network: nn.Module) -> None:
    """Lay all weights out as files do: with channels last, other kernels would give other last digits."""
    for tensor in (*network.parameters(), *network.buffers()):
        # contiguous() keeps the strides of a tensor with axes of size 1, by which kernels are chosen too
        tensor.data = torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor.data)


def _leave_out_stochastic_depth(network: nn.Module) -> None:
    """Put in the place of what tracing left of it what it is in evaluation mode: files hold layers of torch.nn only."""
    for name, module in list(network.named_modules()):
        if type(module).__module__ == "torchvision.ops.stochastic_depth":
            network.set_submodule(name, nn.Identity())


def _prepend(
    network: fx.GraphModule, normalisation: Mapping[str, Sequence[float]], example_input: torch.Tensor
) -> None:
    n_channels = example_input.shape[1]
    for name in ("mean", "std"):
        values = normalisation.get(name)
        if values is None or len(values) != n_channels:
            raise ConfigError(
                f"normalisation has mean and std for {n_channels} channels, but {name} is {values}; give both"
            )
        tensor = torch.tensor(values, dtype=example_input.dtype).reshape(1, n_channels, 1, 1)
        network.register_buffer(f"input_{name}", tensor)
    graph = network.graph
    image = next(node for node in graph.nodes if node.op == "placeholder")
    with graph.inserting_after(image):
        mean, std = (graph.get_attr(f"input_{name}") for name in ("mean", "std"))
    with graph.inserting_after(max(mean, std)):
        centred = graph.call_function(torch.sub, (image, mean))
    with graph.inserting_after(centred):
        scaled = graph.call_function(torch.div, (centred, std))
    image.replace_all_uses_with(scaled, delete_user_cb=lambda user: user not in (centred, scaled))
    network.recompile()


def _verify_same(network: nn.Module, again: nn.Module, batch: torch.Tensor) -> None:
    with torch.no_grad():
        difference = float((network(batch) - again(batch)).abs().max())
    if not difference == 0.0:
        raise VerificationError(
            f"a network made again from its files gives the same outputs, but they differ by {difference:.3g}; "
            "a layer keeps state outside its constructor's arguments and its weights"
        )


def _write_program(target: Path, network: fx.GraphModule, batch: torch.Tensor) -> None:
    with torch.no_grad():
        program = torch.export.export(network, (batch,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    write_aside(target, buffer.getvalue())
