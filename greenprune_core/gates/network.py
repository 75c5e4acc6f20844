"""A network with gates: dense while they are open, gated while they are learnt, constant once frozen."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn

from greenprune_core.errors import ConfigError
from greenprune_core.gates.families import MakeGate
from greenprune_core.gates.placement import ADDED, place_gates
from greenprune_core.gates.scale import Products
from greenprune_core.graph import ChannelStructure, on_copy

Mode = Literal["open", "dynamic", "frozen"]
Masks = dict[str, Tensor]

_OF_ONE_PASS = ("probabilities", "open_probability", "decision_mean", "decisions")
"""What belongs to the last forward pass and its autograd graph: a copy starts without."""


class GatedNetwork(nn.Module):
    """A copy of a network with gates on channel groups, residual branches, or both.

    Three modes: "open" (as attached) runs the plain dense graph and computes no gate, so it costs what dense costs;
    "dynamic" lets every gate decide per image; "frozen" multiplies by constant masks. The layers are the same objects
    in all modes and the names in `state_dict` do not change; the mode itself is not stored.

    Attributes:
        network: the dense network as a graph of torch.nn layers; parameters keep their names below it.
        groups: number of gates by group name, in the order of the flat gate vector.
        group_slices: place of every group in the flat gate vector.
        n_gates: length of the flat gate vector.
        not_gated: layers left dense, with the reason.
        structure: which gate decides on which channel of which node.
        mode: "open", "dynamic" or "frozen".
        probabilities: after a dynamic forward, p per image, shape (N or 1, n_gates), differentiable.
        open_probability: after a dynamic forward, mean over the batch of p, shape (n_gates,), differentiable.
        decision_mean: after a dynamic forward, mean over the batch of the decisions, shape (n_gates,),
            differentiable straight through.
        decisions: after a dynamic forward, the decision of every gate for every image, shape (N, n_gates), detached.
    """

    probabilities: Tensor
    open_probability: Tensor
    decision_mean: Tensor
    decisions: Tensor

    def __init__(self, structure: ChannelStructure, make_gate: MakeGate, *, floor: int = 1) -> None:
        super().__init__()
        self.structure = structure
        self.groups = structure.groups
        self.group_slices = structure.group_slices
        self.n_gates = structure.n_gates
        self.not_gated = structure.not_gated
        self.floor = floor
        self.mode: Mode = "open"
        self.network = structure.graph
        self._products = Products()
        self._graph, gates, self.gates = place_gates(structure, make_gate, self._products)
        reference = next(p for p in self.network.parameters() if p.is_floating_point())
        self.gates.to(device=reference.device, dtype=reference.dtype)
        self._group_gates = gates
        self._n_seen = 0
        self._n_open: Tensor | None = None
        self._link()

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of a batch."""
        if self.mode == "open":
            return self.network(x)  # type: ignore[no-any-return]
        with self._products.made_anew():
            logits, probabilities, decisions = self._gated[0](x)
        if self.mode == "frozen":
            return logits  # type: ignore[no-any-return]
        decided = _precise(torch.cat(decisions, 1))
        self.probabilities = _precise(torch.cat(probabilities, 1))
        self.open_probability = self.probabilities.mean(0)
        self.decision_mean = decided.mean(0)
        self.decisions = decided.detach().expand(x.shape[0], -1)
        if self._n_open is not None and not self.training:
            self._n_open = self._n_open + self.decisions.sum(0, dtype=torch.float64)
            self._n_seen += x.shape[0]
        return logits  # type: ignore[no-any-return]

    def open_gates(self) -> None:
        """Run dense from now on."""
        self._set_mode("open")

    def release_gates(self) -> None:
        """Let the gates decide from now on."""
        self._set_mode("dynamic")

    def freeze(self, masks: Mapping[str, Tensor] | None = None) -> None:
        """Hold the gates at constant masks from now on.

        Args:
            masks: a mask of bool, shape (size of the group,), by group name; groups left out stay open. Without
                masks: the consensus over the statistics gathered so far.

        Raises:
            ConfigError: unknown group, wrong length or type, or no statistics to take a consensus from.
        """
        chosen = self.consensus() if masks is None else masks
        self._check_masks(chosen)
        for name, gate in self._group_gates.items():
            gate.mask.fill_(True)
            if name in chosen:
                gate.mask.copy_(chosen[name].to(torch.bool))
        self._set_mode("frozen")

    @property
    def masks(self) -> Masks:
        """Copies of the frozen masks by group; all open before the freeze."""
        return {name: self._group_gates[name].mask.clone() for name in self.groups}

    def set_noise(self, scale: float) -> None:
        """Set the scale of the gates' noise while training, >= 0."""
        if not scale >= 0:
            raise ConfigError(f"noise needs a scale >= 0, but got {scale}; use 0 for none")
        for gate in self._group_gates.values():
            gate.gate.noise = scale

    def revive(self, gates: Sequence[int]) -> None:
        """Open gates, given by their flat indices, again as at the start: the counter-measure to a collapse."""
        for name, place in self.group_slices.items():
            local = [gate - place.start for gate in gates if place.start <= gate < place.stop]
            if local:
                group = self._group_gates[name]
                group.gate.revive(torch.tensor(local, device=group.mask.device))

    def gate_parameters(self) -> Iterator[nn.Parameter]:
        """Go through the parameters of the gates."""
        return self.gates.parameters()

    def weight_parameters(self) -> Iterator[nn.Parameter]:
        """Go through the parameters of the network itself."""
        return self.network.parameters()

    def start_statistics(self) -> None:
        """Count decisions from now on, in dynamic forwards in evaluation mode."""
        self._n_seen = 0
        device = next(iter(self._group_gates.values())).mask.device
        self._n_open = torch.zeros(self.n_gates, dtype=torch.float64, device=device)

    @property
    def has_statistics(self) -> bool:
        """Tell whether any image has been counted."""
        return self._n_open is not None and self._n_seen > 0

    @property
    def open_fraction(self) -> Tensor:
        """Share of the counted images for which each gate was open, shape (n_gates,), float64."""
        if self._n_open is None or self._n_seen == 0:
            raise ConfigError(
                "a consensus needs statistics, but no dynamic forward in evaluation mode was counted; call "
                "start_statistics(), release_gates() and eval(), then run some batches"
            )
        return self._n_open / self._n_seen

    @property
    def disagreement(self) -> Tensor:
        """Share of the counted images on which each gate differs from its majority, in [0, 0.5]."""
        fraction = self.open_fraction
        return torch.minimum(fraction, 1 - fraction)

    def consensus(self) -> Masks:
        """Return each gate's majority (open at a tie), with at least `floor` gates of a channel group left open."""
        fraction = self.open_fraction
        masks = {}
        for name, place in self.group_slices.items():
            part = fraction[place]
            mask = part >= 0.5
            if self.structure.kinds[name] != "branch" and int(mask.sum()) < self.floor:
                best = part.argsort(descending=True, stable=True)[: self.floor]
                mask[best] = True
            masks[name] = mask
        return masks

    def flatten_masks(self, masks: Mapping[str, Tensor]) -> Tensor:
        """Lay masks out as one flat vector of bool, shape (n_gates,); groups left out count as open."""
        self._check_masks(masks)
        parts = [masks[name].to(torch.bool).cpu() if name in masks else torch.ones(n, dtype=torch.bool)
                 for name, n in self.groups.items()]  # fmt: skip
        return torch.cat(parts)

    def _check_masks(self, masks: Mapping[str, Tensor]) -> None:
        if not isinstance(masks, Mapping):
            raise ConfigError(
                f"masks are a dictionary from group to mask, but got {type(masks).__name__}; see GatedNetwork.groups"
            )
        for name, mask in masks.items():
            self._check_mask(name, mask)

    def _check_mask(self, name: str, mask: Tensor) -> None:
        if name not in self.groups:
            import difflib

            near = ", ".join(difflib.get_close_matches(str(name), self.groups, n=3)) or ", ".join(list(self.groups)[:3])
            raise ConfigError(f"a mask belongs to a group of the network, but got {name!r}; near names: {near}")
        if not isinstance(mask, Tensor):
            raise ConfigError(
                f"a mask is a tensor of bool, but that of {name!r} is of type {type(mask).__name__}; wrap it in "
                "torch.tensor"
            )
        if mask.shape != (self.groups[name],):
            raise ConfigError(
                f"the mask of {name!r} has one entry per gate ({self.groups[name]}), but got shape "
                f"{tuple(mask.shape)}; see GatedNetwork.groups"
            )
        if mask.dtype != torch.bool and not bool(((mask == 0) | (mask == 1)).all()):
            raise ConfigError(
                f"a mask holds True and False only, but {name!r} has other values; compare with a threshold"
            )

    def _set_mode(self, mode: Mode) -> None:
        self.mode = mode
        for gate in self._group_gates.values():
            gate.is_frozen = mode == "frozen"

    def __deepcopy__(self, memo: dict[int, Any]) -> "GatedNetwork":
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        own = {name: value for name, value in vars(self).items() if name not in ("structure", "_gated", *_OF_ONE_PASS)}
        vars(twin).update(copy.deepcopy(own, memo))
        twin.structure = on_copy(self.structure, twin.network)
        twin._link()
        return twin

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise ConfigError(
            "a gated network is stored by its state_dict(), but it was pickled; store that and attach gates again, or "
            "extract() first: what it returns pickles"
        )

    def _link(self) -> None:
        """Build the gated graph over the shared layers; kept out of the registered modules, whose names it repeats."""
        root = fx.GraphModule(self.network, self.structure.graph.graph)
        root.add_module(ADDED, self.gates)
        self._gated = (fx.GraphModule(root, self._graph, class_name="Gated"),)

    def _apply(self, fn: Any, recurse: bool = True) -> "GatedNetwork":
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._link()  # buffers outside of layers are replaced when a network moves to another device
        return self


def _precise(tensor: Tensor) -> Tensor:
    """Leave half precision before averaging: bfloat16 knows no share of images between 0.992 and 0.996."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor
