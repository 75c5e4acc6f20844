"""The channel structure of a network: which gate decides on which channel of which node."""

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, fx, nn

from greenprune_core.errors import ConfigError, UnsupportedNetworkError
from greenprune_core.graph.branches import Branch, find_branches
from greenprune_core.graph.coupling import Coupling, couple
from greenprune_core.graph.flow import tensor_inputs
from greenprune_core.graph.labels import varying_axes
from greenprune_core.graph.sizes import write_out_sizes
from greenprune_core.graph.trace import trace


@dataclass(frozen=True, kw_only=True)
class NodeChannels:
    """The gates of one node of the graph."""

    inputs: Tensor | None
    """Flat gate index (int64, -1: always open) of every channel of the node's first tensor input; None if that has
    no channel axis. For a layer that reads channels the length is its `in_channels` or `in_features`."""
    outputs: Tensor | None
    """The same for the node's value."""
    branches: tuple[int, ...]
    """Flat indices of the branch gates; the node runs only if all of them are open."""


@dataclass(frozen=True, kw_only=True)
class ChannelStructure:
    """Where the gates of a network act: one label map for cutting and for expected costs."""

    graph: fx.GraphModule
    """The traced dense network; `node.meta["shape"]` and `node.meta["dtype"]` come from the example input."""
    nodes: dict[str, NodeChannels]
    """Gates by node name."""
    groups: dict[str, int]
    """Number of gates by group, in the order of the flat gate vector: channel groups, then branches."""
    kinds: dict[str, Literal["inner", "stream", "branch"]]
    """What a group's gates close."""
    not_gated: dict[str, str]
    """Layers left dense, with the reason."""
    coupling: Coupling
    branches: tuple[Branch, ...]

    @property
    def n_gates(self) -> int:
        """Length of the flat gate vector."""
        return sum(self.groups.values())

    @property
    def group_slices(self) -> dict[str, slice]:
        """Place of every group in the flat gate vector."""
        slices, start = {}, 0
        for name, size in self.groups.items():
            slices[name] = slice(start, start + size)
            start += size
        return slices


def build_structure(
    network: nn.Module,
    example_input: Tensor,
    *,
    granularity: Literal["channel", "layer", "both"] = "channel",
    ignore: Sequence[str] = (),
    streams: bool = True,
) -> ChannelStructure:
    """Trace a network and find what can be gated.

    Args:
        network: any module that torch.fx can trace; it is left as it was.
        example_input: a batch of inputs, e.g. of shape (1, 3, 32, 32).
        granularity: gate channel groups, residual branches ("layer"), or both.
        ignore: layers (or prefixes of their names) that are left dense.
        streams: also gate channel groups that are coupled through additions.

    Raises:
        UnsupportedNetworkError: it cannot be traced, or nothing in it can be gated.
        ConfigError: the granularity, a name in `ignore` or the example input is wrong.
    """
    if granularity not in ("channel", "layer", "both"):
        raise ConfigError(f"granularity is channel, layer or both, but got {granularity!r}; choose one of them")
    _check_ignored(network, ignore)
    traced = trace(network, example_input)
    coupling = couple(traced, ignore=ignore, streams=streams)
    if granularity == "layer":
        coupling = without_gates(coupling)
    write_out_sizes(traced, coupling.channels)
    branches = [] if granularity == "channel" else [b for b in find_branches(traced) if not _is_ignored(b, ignore)]
    groups = {**coupling.groups, **{branch.name: 1 for branch in branches}}
    if not groups:
        raise UnsupportedNetworkError(_nothing_to_gate(network, granularity, coupling))
    kinds: dict[str, Literal["inner", "stream", "branch"]] = {
        name: "stream" if name in coupling.streams else "inner" for name in coupling.groups
    }
    kinds.update({branch.name: "branch" for branch in branches})
    return ChannelStructure(
        graph=traced,
        nodes=_node_channels(traced, coupling, branches),
        groups=groups,
        kinds=kinds,
        not_gated=coupling.not_gated if granularity != "layer" else _outside(coupling, branches),
        coupling=coupling,
        branches=tuple(branches),
    )


def on_copy(structure: ChannelStructure, graph: fx.GraphModule) -> ChannelStructure:
    """Return the same structure for a deep copy of its graph: it is keyed by nodes, and a copy has its own."""
    twins = dict(zip(structure.graph.graph.nodes, graph.graph.nodes, strict=True))
    for node, twin in twins.items():
        twin.meta = dict(node.meta)
    coupling = structure.coupling
    return dataclasses.replace(
        structure,
        graph=graph,
        coupling=dataclasses.replace(
            coupling,
            channels={twins[node]: array for node, array in coupling.channels.items()},
            consumers=tuple(twins[node] for node in coupling.consumers),
        ),
        branches=tuple(_branch_on(branch, twins) for branch in structure.branches),
    )


def _branch_on(branch: Branch, twins: dict[fx.Node, fx.Node]) -> Branch:
    return Branch(
        name=branch.name,
        addition=twins[branch.addition],
        branch=twins[branch.branch],
        shortcut=twins[branch.shortcut],
        entry=twins[branch.entry],
        inside=frozenset(twins[node] for node in branch.inside),
    )


def without_gates(coupling: Coupling) -> Coupling:
    """Leave every channel open: for gates on residual branches only."""
    return Coupling(
        groups={},
        streams=frozenset(),
        widths={},
        not_gated={},
        channels={node: np.full_like(array, -1) for node, array in coupling.channels.items()},
        consumers=coupling.consumers,
    )


def _outside(coupling: Coupling, branches: Sequence[Branch]) -> dict[str, str]:
    inside = set[fx.Node]().union(*(branch.inside for branch in branches))
    return {str(node.target): "in no residual branch" for node in coupling.consumers if node not in inside}


def _node_channels(traced: fx.GraphModule, coupling: Coupling, branches: Sequence[Branch]) -> dict[str, NodeChannels]:
    first_branch = sum(coupling.groups.values())
    nodes = {}
    for node in traced.graph.nodes:
        sources = tensor_inputs(node)
        nodes[node.name] = NodeChannels(
            inputs=_channel_vector(sources[0], coupling) if sources else None,
            outputs=_channel_vector(node, coupling),
            branches=tuple(first_branch + i for i, branch in enumerate(branches) if node in branch.inside),
        )
    return nodes


def _channel_vector(node: fx.Node, coupling: Coupling) -> Tensor | None:
    """Gate of every channel of a node's value: along the axis on which gates differ, else along the usual one."""
    array = coupling.channels.get(node)
    if array is None or array.ndim < 1:
        return None
    axes = varying_axes(array)
    if len(axes) > 1:
        return None
    shape = node.meta["shape"][-array.ndim :]
    axis = axes[0] if axes else (0 if len(shape) != 2 else len(shape) - 1)
    return torch.from_numpy(np.broadcast_to(array.reshape(-1), (shape[axis],)).copy())


def _check_ignored(network: nn.Module, ignore: Sequence[str]) -> None:
    if isinstance(ignore, str):
        raise ConfigError(f"ignore is a list of names of layers, but got the text {ignore!r}; write [{ignore!r}]")
    if not isinstance(ignore, Collection) or not all(isinstance(name, str) for name in ignore):
        raise ConfigError(
            f"ignore is a list of names of layers, but got {ignore!r}; give names as named_modules() does, or none: []"
        )
    names = {name for name, _ in network.named_modules()}
    for name in ignore:
        if name not in names:
            import difflib

            near = ", ".join(difflib.get_close_matches(name, sorted(names), n=3)) or ", ".join(sorted(names)[1:4])
            raise ConfigError(f"ignore names layers of the network, but got {name!r}; near names: {near}")


def _is_ignored(branch: Branch, ignore: Sequence[str]) -> bool:
    """Tell whether a branch holds a layer that stays: closed it would take that along."""
    layers = [str(node.target) for node in branch.inside if node.op == "call_module"]
    return any(layer == prefix or layer.startswith(f"{prefix}.") for layer in layers for prefix in ignore)


def _nothing_to_gate(network: nn.Module, granularity: str, coupling: Coupling) -> str:
    if granularity == "layer":
        return (
            f"layer gates need residual branches, but {type(network).__name__} adds none; gate its channels with "
            'granularity="channel"'
        )
    listed = "; ".join(f"{layer}: {reason}" for layer, reason in list(coupling.not_gated.items())[:8])
    return (
        f"a gated network has channels that can be cut, but in {type(network).__name__} none can "
        f"({listed or 'no convolution or linear layer'}); ignore fewer layers or use another network"
    )
