"""Channel groups: the channels that one gate opens or closes together, found on the traced graph."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import fx, nn

from greenprune_core.graph import layout, rules
from greenprune_core.graph.attention import HEADS
from greenprune_core.graph.flow import Flow, has_many_axes, kind_of, opened, parameter_of, tensor_inputs, unfollowed
from greenprune_core.graph.labels import LabelArray, Labels, shrink
from greenprune_core.graph.operators import FUNCTIONS, METHODS, apply_rule
from greenprune_core.graph.parameter_views import is_parameter_view, parameter_behind
from greenprune_core.graph.rows import folds_images
from greenprune_core.graph.trace import is_tensor


@dataclass(frozen=True, kw_only=True)
class Coupling:
    """One walk's result: groups of gates, and the gate of every channel of every tensor."""

    groups: dict[str, int]
    """Number of gates by group; the order is that of the flat gate vector."""
    streams: frozenset[str]
    """Groups coupled through additions (the residual stream), as against inner ones."""
    widths: dict[str, int]
    """Channels of a group's first producing layer that one gate stands for (several in a grouped convolution)."""
    not_gated: dict[str, str]
    """Layers whose output channels are all left open, with the reason."""
    channels: dict[fx.Node, LabelArray]
    """Flat gate index (-1: always open) of the channels of every tensor, broadcastable to its shape without batch."""
    consumers: tuple[fx.Node, ...]
    """Layers that mix channels, in order: gates act at their input."""


def couple(traced: fx.GraphModule, *, ignore: Sequence[str] = (), streams: bool = True) -> Coupling:
    """Find the groups of channels that must be kept or cut together.

    Args:
        traced: a graph with shapes, from `trace`.
        ignore: layers (or prefixes of their names) whose output channels stay open.
        streams: also gate the channels coupled through additions.
    """
    flow = Flow(traced=traced, forced_open=_ignored(traced, ignore), whole=_sharing(traced) | _read_beside(traced))
    from_input: set[fx.Node] = set()
    for node in traced.graph.nodes:
        if node.op == "placeholder" or from_input & set(node.all_input_nodes):
            from_input.add(node)
        if is_parameter_view(node):
            flow.worn[node] = None
            continue
        _keep_parameters_whole(flow, node)
        if node.op != "get_attr" and node not in from_input:
            flow.worn[node] = opened(flow, node, f"{kind_of(flow, node)} does not work on the input")
            continue
        if folds_images(node):
            flow.worn[node] = opened(flow, node, f"{kind_of(flow, node)} has no row for each image")
            continue
        flow.worn[node] = apply_rule(flow, node)
        if _breaks_views(flow, node):
            flow.worn[node] = unfollowed(flow, node)
    numbered = _number_gates(flow.labels, streams, _gated_somewhere(flow))
    gates = np.asarray(numbered.gates, dtype=np.int64)
    channels = {node: gates[worn] for node, worn in flow.worn.items() if isinstance(worn, np.ndarray)}
    channels.update({node: shrink(array) for node, array in channels.items() if HEADS in node.meta})
    not_gated = {}
    for layer, made in flow.made.items():
        if (gates[made] < 0).all():
            not_gated[layer] = numbered.reasons[flow.labels.find(int(made.flat[0]))]
    return Coupling(
        groups=numbered.groups,
        streams=frozenset(numbered.streams),
        widths=numbered.widths,
        not_gated=not_gated,
        channels=channels,
        consumers=tuple(flow.consumers),
    )


@dataclass
class _Numbered:
    gates: list[int]
    groups: dict[str, int] = field(default_factory=dict)
    streams: set[str] = field(default_factory=set)
    widths: dict[str, int] = field(default_factory=dict)
    reasons: dict[int, str] = field(default_factory=dict)


def _gated_somewhere(flow: Flow) -> set[int]:
    """Return the components that a layer reads, where a gate can decide and multiply."""
    read = [flow.array(node.all_input_nodes[0]) for node in flow.consumers]
    return {flow.labels.find(label) for array in read for label in np.unique(array).tolist()}


def _number_gates(labels: Labels, streams: bool, read: set[int]) -> _Numbered:
    """Number the gated components, group by group in the order of the first producing layer."""
    components = labels.components()
    numbered = _Numbered(gates=[-1] * len(labels.producer))
    by_producers: dict[tuple[str, ...], list[int]] = {}
    for root, members in components.items():
        producers = tuple(dict.fromkeys(name for m in members if (name := labels.producer[m]) is not None))
        reason = labels.open_reason(members)
        if reason is None and not streams and labels.is_stream(members):
            reason = "added into the residual stream (streams=False)"
        if reason is None and producers:
            by_producers.setdefault(producers, []).append(root)
        else:
            numbered.reasons[root] = reason or "no layer makes it"
    n_gates = 0
    for producers, roots in sorted(by_producers.items(), key=lambda item: min(item[1])):
        if read.isdisjoint(roots):
            numbered.reasons.update(dict.fromkeys(roots, "read by no layer"))
            continue
        name = _unused(producers[0], numbered.groups)
        numbered.groups[name] = len(roots)
        numbered.widths[name] = sum(labels.producer[m] == producers[0] for m in components[roots[0]])
        if labels.is_stream(components[roots[0]]):
            numbered.streams.add(name)
        for root in sorted(roots):
            for member in components[root]:
                numbered.gates[member] = n_gates
            n_gates += 1
    return numbered


def _unused(name: str, groups: dict[str, int]) -> str:
    if name not in groups:
        return name
    n = 2
    while f"{name}#{n}" in groups:
        n += 1
    return f"{name}#{n}"


def _breaks_views(flow: Flow, node: fx.Node) -> bool:
    """Tell whether another operation than a view reads channels that lie along several axes."""
    inside = any(has_many_axes(flow, source) for source in tensor_inputs(node))
    return inside and node.op != "output" and HEADS not in node.meta and not layout.is_view(flow, node)


def _keep_parameters_whole(flow: Flow, node: fx.Node) -> None:
    """Cut no parameter that anything else reads than an operation by elements, which is cut alongside."""
    table = FUNCTIONS if node.op == "call_function" else METHODS
    if table.get(node.target) is not rules.combines:
        for parameter in map(parameter_behind, node.all_input_nodes):
            if parameter is not None:
                flow.keep_whole(str(parameter.target), f"read by {kind_of(flow, node)}")


def _sharing(traced: fx.GraphModule) -> dict[str, str]:
    reasons: dict[str, str] = {}
    owners: dict[int, str] = {}
    for name, module in traced.named_modules():
        if isinstance(module, nn.modules.container.Sequential):
            continue
        for parameter in module.parameters(recurse=False):
            other = owners.setdefault(id(parameter), name)
            if other != name:
                reasons[name] = reasons[other] = "shares its weights with another layer"
    return reasons


def _read_beside(traced: fx.GraphModule) -> dict[str, str]:
    """Find layers with weights that forward also reads by itself (a decoder with the encoder's weights)."""
    layers = {str(node.target) for node in traced.graph.nodes if node.op == "call_module"}
    owners = {
        id(tensor): layer
        for layer in sorted(layers)
        for tensor in (*traced.get_submodule(layer).parameters(), *traced.get_submodule(layer).buffers())
    }
    reasons = {}
    for node in traced.graph.nodes:
        if node.op == "get_attr" and is_tensor(node) and (owner := owners.get(id(parameter_of(traced, node)))):
            reasons[owner] = reasons[str(node.target)] = "its weights are also read by themselves"
    return reasons


def _ignored(traced: fx.GraphModule, ignore: Sequence[str]) -> dict[str, str]:
    names = (name for name, _ in traced.named_modules())
    return {
        name: "ignored on request"
        for name in names
        if any(name == prefix or name.startswith(f"{prefix}.") for prefix in ignore)
    }
