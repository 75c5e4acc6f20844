"""Where gates go: a copy of the dense graph with decisions and multiplications written into it.

A channel gate multiplies at the input of the layers that read the channel, so cutting is exact whatever stands between
its producer and its readers (normalisation, bias, activation, squeeze-excitation, addition). A branch gate multiplies
the branch before the addition.
"""

import operator
from collections.abc import Sequence

import numpy as np
from torch import fx, nn

from greenprune_core.gates.families import MakeGate
from greenprune_core.gates.nodes import GroupGate, Multiply
from greenprune_core.gates.scale import Products
from greenprune_core.graph import ChannelStructure
from greenprune_core.graph.branches import Branch
from greenprune_core.graph.flow import tensor_inputs
from greenprune_core.graph.labels import LabelArray, varying_axes

ADDED = "gates_of_greenprune"
"""What stands before the names of the added modules: the layers of the network keep theirs, and `gates` is common."""

_N_AXES_OF_TOKENS = 3


def place_gates(
    structure: ChannelStructure, make_gate: MakeGate, products: Products
) -> tuple[fx.Graph, dict[str, GroupGate], nn.ModuleDict]:
    """Write gates into a copy of the dense graph.

    Returns:
        The gated graph, whose output is (logits, open probabilities by group, decisions by group); the gates by group
        name; and the added modules by the name under which the graph calls them (below `ADDED`).
    """
    placement = _Placement(structure, make_gate, products)
    for point, readers in _gating_points(structure):
        placement.gate_channels(point, readers)
    for branch in structure.branches:
        placement.gate_branch(branch)
    placement.finish()
    return placement.graph, placement.gates, placement.modules


class _Placement:
    def __init__(self, structure: ChannelStructure, make_gate: MakeGate, products: Products) -> None:
        self.structure = structure
        self.make_gate = make_gate
        self.products = products
        self.graph = fx.Graph()
        self.copies: dict[fx.Node, fx.Node] = {}
        dense = structure.graph.graph
        self.result = self.graph.graph_copy(dense, self.copies)
        self.gates: dict[str, GroupGate] = {}
        self.modules = nn.ModuleDict()
        self.decisions: dict[str, tuple[fx.Node, fx.Node]] = {}
        self.group_of = np.repeat(list(structure.groups), list(structure.groups.values()))
        self.order = {node: i for i, node in enumerate(dense.nodes)}

    def gate_channels(self, point: fx.Node, readers: Sequence[fx.Node]) -> None:
        """Multiply one tensor for the layers that read it, deciding first for groups met here for the first time."""
        array = self.structure.coupling.channels[point]
        (axis,) = varying_axes(array) or (0 if array.ndim != 2 else 1,)
        gates = array.reshape(-1)
        names = list(dict.fromkeys(self.group_of[gate] for gate in gates if gate >= 0))
        with self.graph.inserting_before(self.copies[min(readers, key=self.order.__getitem__)]):
            for name in names:
                if name not in self.decisions:
                    positions = np.flatnonzero((gates >= 0) & (self.group_of[gates] == name))
                    self._decide(
                        name, self.copies[point], axis + 1, None if len(positions) == len(gates) else positions
                    )
            module = Multiply(axis + 1, self._index(gates, names), self.products)
            key = f"multiply_{len(self.modules)}"
            self.modules[key] = module
            arguments = (self.copies[point], *(self.decisions[name][1] for name in names))
            masked = self.graph.call_module(f"{ADDED}.{key}", arguments)
        for reader in readers:
            self.copies[reader].replace_input_with(self.copies[point], masked)

    def gate_branch(self, branch: Branch) -> None:
        """Multiply a branch before its addition; it decides on the value that the branch starts from."""
        first = min(branch.inside, key=self.order.__getitem__)
        axis = self._channel_axis(branch.entry)
        with self.graph.inserting_before(self.copies[first]):
            self._decide(branch.name, self.copies[branch.entry], axis, None)
        addition, operand = self.copies[branch.addition], self.copies[branch.branch]
        key = f"multiply_{len(self.modules)}"
        self.modules[key] = Multiply(0, None, self.products)
        with self.graph.inserting_before(addition):
            masked = self.graph.call_module(f"{ADDED}.{key}", (operand, self.decisions[branch.name][1]))
        addition.replace_input_with(operand, masked)

    def _channel_axis(self, node: fx.Node) -> int:
        """Return the axis that its layers made channels on, where that is known; else the usual one."""
        array = self.structure.coupling.channels.get(node)
        axes = () if array is None else varying_axes(array)
        usual = 2 if len(node.meta["shape"]) == _N_AXES_OF_TOKENS else 1
        return axes[0] + 1 if len(axes) == 1 else usual

    def finish(self) -> None:
        """Return the decisions beside the logits, in the order of the flat gate vector."""
        names = list(self.structure.groups)
        probabilities = tuple(self.decisions[name][0] for name in names)
        decisions = tuple(self.decisions[name][1] for name in names)
        self.graph.output((self.result, probabilities, decisions))
        self.graph.lint()

    def _decide(self, name: str, source: fx.Node, axis: int, positions: LabelArray | None) -> None:
        n_gates = self.structure.groups[name]
        n_features = source.meta["shape"][axis] if positions is None else len(positions)
        where = None if positions is None else [int(i) for i in positions]
        self.gates[name] = GroupGate(self.make_gate(n_features, n_gates), n_gates, axis, where, self.products)
        key = f"group_{len(self.gates) - 1}"
        self.modules[key] = self.gates[name]
        both = self.graph.call_module(f"{ADDED}.{key}", (source,))
        probability = self.graph.call_function(operator.getitem, (both, 0))
        self.decisions[name] = (probability, self.graph.call_function(operator.getitem, (both, 1)))

    def _index(self, gates: LabelArray, names: Sequence[str]) -> list[int] | None:
        slices = self.structure.group_slices
        offsets, total = {}, 0
        for name in names:
            offsets[name] = total - slices[name].start
            total += self.structure.groups[name]
        index = [total if gate < 0 else int(gate) + offsets[self.group_of[gate]] for gate in gates.tolist()]
        return None if len(names) == 1 and index == list(range(total)) else index


def _gating_points(structure: ChannelStructure) -> list[tuple[fx.Node, list[fx.Node]]]:
    """Pair every tensor that is gated with the layers for which it is, in order."""
    channels = structure.coupling.channels
    points: dict[fx.Node, list[fx.Node]] = {}
    for reader in structure.coupling.consumers:
        source = reader.all_input_nodes[0]
        if source not in channels or (channels[source] < 0).all():
            continue
        upstream = tensor_inputs(source)
        # Before a flattening that repeats each channel h*w times there is less to decide and to look up.
        if len(upstream) == 1 and set(source.users) == {reader} and _spreads(channels, upstream[0], source):
            points.setdefault(upstream[0], []).append(source)
        else:
            points.setdefault(source, []).append(reader)
    order = {node: i for i, node in enumerate(structure.graph.graph.nodes)}
    return sorted(points.items(), key=lambda item: min(order[reader] for reader in item[1]))


def _spreads(channels: dict[fx.Node, LabelArray], before: fx.Node, after: fx.Node) -> bool:
    if before not in channels or len(varying_axes(channels[before])) != 1:
        return False
    return channels[before].size < channels[after].size and before.meta["shape"].numel() == after.meta["shape"].numel()
