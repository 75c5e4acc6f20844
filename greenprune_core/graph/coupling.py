"""Channel groups: the channels that one gate opens or closes together, found on the traced graph."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import fx, nn

from greenprune_core.graph.flow import Flow
from greenprune_core.graph.labels import LabelArray, Labels
from greenprune_core.graph.operators import apply_rule
from greenprune_core.graph.trace import is_tensor


@dataclass(frozen=True, kw_only=True)
class Coupling:
    """One walk's result: groups of gates, and the gate of every channel of every tensor."""

    groups: dict[str, int]
    """Number of gates by group; the order is that of the flat gate vector."""
    streams: frozenset[str]
    """Groups coupled through additions (the residual stream), as against inner ones."""
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
    flow = Flow(traced=traced, forced_open=_forced_open(traced, ignore))
    for node in traced.graph.nodes:
        flow.worn[node] = apply_rule(flow, node)
    gates, groups, stream_groups, reasons = _number_gates(flow.labels, streams)
    lookup = np.asarray(gates, dtype=np.int64)
    channels = {node: lookup[worn] for node, worn in flow.worn.items() if isinstance(worn, np.ndarray)}
    not_gated = {}
    for layer, made in flow.made.items():
        if (lookup[made] < 0).all():
            not_gated[layer] = reasons[flow.labels.find(int(made.flat[0]))]
    return Coupling(
        groups=groups,
        streams=frozenset(stream_groups),
        not_gated=not_gated,
        channels=channels,
        consumers=tuple(node for node in flow.consumers if is_tensor(node)),
    )


def _number_gates(labels: Labels, streams: bool) -> tuple[list[int], dict[str, int], set[str], dict[int, str]]:
    """Number the gated components, group by group in the order of the first producing layer."""
    components = labels.components()
    reasons: dict[int, str] = {}
    by_producers: dict[tuple[str, ...], list[int]] = {}
    stream_roots = set()
    for root, members in components.items():
        made_by = dict.fromkeys(labels.producer[member] for member in members)
        producers = tuple(name for name in made_by if name is not None)
        reason = labels.open_reason(members)
        is_stream = labels.is_stream(members)
        if reason is None and is_stream and not streams:
            reason = "added into the residual stream (streams=False)"
        if reason is not None or not producers:
            reasons[root] = reason or "no layer makes it"
            continue
        by_producers.setdefault(producers, []).append(root)
        if is_stream:
            stream_roots.add(root)
    gates = [-1] * len(labels.producer)
    groups: dict[str, int] = {}
    stream_groups: set[str] = set()
    n_gates = 0
    for producers, roots in sorted(by_producers.items(), key=lambda item: min(item[1])):
        name = _unused(producers[0], groups)
        groups[name] = len(roots)
        if roots[0] in stream_roots:
            stream_groups.add(name)
        for root in sorted(roots):
            for member in components[root]:
                gates[member] = n_gates
            n_gates += 1
    return gates, groups, stream_groups, reasons


def _unused(name: str, groups: dict[str, int]) -> str:
    if name not in groups:
        return name
    n = 2
    while f"{name}#{n}" in groups:
        n += 1
    return f"{name}#{n}"


def _forced_open(traced: fx.GraphModule, ignore: Sequence[str]) -> dict[str, str]:
    reasons: dict[str, str] = {}
    owners: dict[int, str] = {}
    for name, module in traced.named_modules():
        if isinstance(module, nn.modules.container.Sequential):
            continue
        for parameter in module.parameters(recurse=False):
            other = owners.setdefault(id(parameter), name)
            if other != name:
                reasons[name] = reasons[other] = "shares its weights with another layer"
    for name, _ in traced.named_modules():
        if any(name == prefix or name.startswith(f"{prefix}.") for prefix in ignore):
            reasons.setdefault(name, "ignored on request")
    return reasons
