"""A dense network's cost as terms: how much of it falls with which gates."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from greenprune_core.cost.count import OperatorCost, OperatorCounter, evaluating
from greenprune_core.cost.lifetimes import Ways, shortest, ways_to_output, while_any
from greenprune_core.graph import ChannelStructure
from greenprune_core.graph.parameter_views import is_parameter_view

Gates = tuple[int, ...]
"""Flat gate indices of the channels of a tensor, -1: always open; the empty tuple is a tensor without gates."""

Price = Callable[[OperatorCost], float]
"""Price of one operator, linear in its counts."""

_OPEN: Gates = ()


@dataclasses.dataclass(frozen=True)
class Term:
    """A share of the dense cost: amount * open share of one side * open share of the other * gates of the branches."""

    amount: float
    one: Gates
    other: Gates
    branches: Gates
    padded: tuple[Gates, ...] = ()
    """Tensors whose open channels are rounded up to the lanes of a vector unit: the amount grows by as much."""


def merged(terms: Sequence[Term]) -> list[Term]:
    """Add up terms over the same gates."""
    amounts: dict[tuple[Gates, Gates, Gates, tuple[Gates, ...]], float] = {}
    for term in terms:
        one, other = sorted((term.one, term.other))
        key = (one, other, term.branches, tuple(sorted(term.padded)))
        amounts[key] = amounts.get(key, 0.0) + term.amount
    return [Term(amount, *key) for key, amount in amounts.items() if amount]


def operator_terms(structure: ChannelStructure, price: Price, padded_price: Price | None = None) -> list[Term]:
    """Split the price of every operator into what falls with its inputs, its outputs, both, or its branches only.

    Args:
        structure: which gate decides on which channel.
        price: what is linear in the operator's counts.
        padded_price: what rounds the operator's channels up to lanes, to be added.
    """
    sides = _Sides(structure)
    nodes = {node.name: node for node in structure.graph.graph.nodes}
    terms: list[Term] = []
    for operator in _count_nodes(structure.graph):
        node = nodes[operator.place]
        terms.extend(_terms_of(operator, node, sides, price))
        if padded_price is not None:
            terms.extend(_terms_of(operator, node, sides, padded_price, is_padded=True))
    return terms


def parameter_terms(structure: ChannelStructure) -> list[Term]:
    """Split the number of parameters in the same way; shared ones count once, as long as one of their users runs."""
    sides = _Sides(structure)
    users: dict[int, list[fx.Node]] = {}
    for node in structure.graph.graph.nodes:
        for parameter in _parameters(structure.graph, node):
            users.setdefault(id(parameter), []).append(node)
    terms: list[Term] = []
    for node in structure.graph.graph.nodes:
        outputs = sides.of(node)
        for parameter in _parameters(structure.graph, node):
            if users[id(parameter)][0] is not node:
                continue
            module = structure.graph.get_submodule(str(node.target)) if node.op == "call_module" else None
            if module is not None and parameter is getattr(module, "weight", None) and _mixes_channels(module):
                one, other = sides.of_source(node), outputs
            else:
                one, other = _OPEN if parameter.numel() % max(len(outputs), 1) else outputs, _OPEN
            ways = shortest(way for user in users[id(parameter)] for way in sides.ways(user))
            for sign, branches in while_any(ways):
                terms.append(Term(float(sign * parameter.numel()), one, other, branches))
    return terms


class _Sides:
    """The gates of the channels of every node's value, and of the branches around it."""

    def __init__(self, structure: ChannelStructure) -> None:
        self._structure = structure
        self._ways = ways_to_output(structure)

    def of(self, node: fx.Node) -> Gates:
        channels = self._structure.coupling.channels
        array = channels.get(node)
        if array is None and isinstance(node.meta.get("shape"), list):  # a maximum and its place, read one by one
            array = next((channels[part] for part in node.users if part in channels), None)
        if array is None or (array < 0).all():
            return _OPEN
        return tuple(array.reshape(-1).tolist())

    def of_source(self, node: fx.Node) -> Gates:
        sources = _sources(node)
        return self.of(sources[0]) if sources else _OPEN

    def of_parameter(self, node: fx.Node) -> Gates:
        """Return the gates of the parameter that a function reads: a map over places is not cut with the channels."""
        parameters = [one for one in node.all_input_nodes if one.op == "get_attr" or is_parameter_view(one)]
        return self.of(parameters[0]) if len(parameters) == 1 else _OPEN

    def ways(self, node: fx.Node) -> Ways:
        return self._ways[node]


def _terms_of(
    operator: OperatorCost, node: fx.Node, sides: _Sides, price: Price, is_padded: bool = False
) -> Iterator[Term]:
    for term in _terms_while_open(operator, node, sides, price, is_padded):
        for sign, branches in while_any(sides.ways(node)):
            yield dataclasses.replace(term, amount=sign * term.amount, branches=branches)


def _terms_while_open(
    operator: OperatorCost, node: fx.Node, sides: _Sides, price: Price, is_padded: bool
) -> Iterator[Term]:
    """Split the price of an operator whose node runs."""
    read, made = sides.of_source(node), sides.of(node)
    n_read, n_made = operator.channels
    # closed heads of attention leave the channels of a product as they are
    pad_read = (read,) if is_padded and read and len(read) == n_read else ()
    pad_made = (made,) if is_padded and made and len(made) == n_made else ()
    idle = dataclasses.replace(
        operator, macs=0, element_ops=0, matrix_bytes=0, vector_bytes=0, read_bytes=0, written_bytes=0,
        channels=(0 if pad_read else n_read, 0 if pad_made else n_made),
    )  # fmt: skip
    launch = price(idle)

    def amount(**counts: Any) -> float:
        return price(dataclasses.replace(idle, **counts)) - launch

    yield Term(launch, _OPEN, _OPEN, ())
    # a group of a grouped convolution is kept or closed as a whole: its cost falls with one side
    source = read if operator.kind in ("conv", "matmul") else _OPEN
    yield Term(amount(macs=operator.macs), source, made, (), (*pad_read, *pad_made))
    is_product = operator.kind in ("conv", "grouped_conv", "matmul")
    one, other = (source, made) if is_product or node.op == "call_module" else (sides.of_parameter(node), _OPEN)
    yield Term(amount(matrix_bytes=operator.matrix_bytes), one, other, ())
    yield Term(amount(element_ops=operator.element_ops), made, _OPEN, ())
    yield Term(amount(written_bytes=operator.written_bytes), made, _OPEN, (), pad_made)
    n_values = operator.vector_bytes // getattr(torch, operator.dtype).itemsize
    one = _OPEN if n_values % max(len(made), 1) else made
    yield Term(amount(vector_bytes=operator.vector_bytes), one, _OPEN, ())
    for node_read, n_bytes in _reads(node, operator):
        yield Term(amount(read_bytes=n_bytes), sides.of(node_read), _OPEN, (), pad_read)


def _reads(node: fx.Node, operator: OperatorCost) -> list[tuple[fx.Node, int]]:
    """Split the bytes that an operator reads over the nodes that they come from."""
    sources = _sources(node)
    n_bytes = [math.prod(source.meta["shape"][1:]) * source.meta["dtype"].itemsize for source in sources]
    if len(sources) > 1 and sum(n_bytes) == operator.read_bytes:
        return list(zip(sources, n_bytes, strict=True))
    return [(sources[0] if sources else node, operator.read_bytes)]


def _sources(node: fx.Node) -> list[fx.Node]:
    """Return the activations that a node reads."""
    return [n for n in node.all_input_nodes if n.op != "get_attr" and isinstance(n.meta.get("shape"), torch.Size)]


def _mixes_channels(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or getattr(module, "groups", None) == 1


def _parameters(graph: fx.GraphModule, node: fx.Node) -> list[nn.Parameter]:
    if node.op == "call_module":
        return list(graph.get_submodule(str(node.target)).parameters())
    if node.op != "get_attr":
        return []
    value: Any = graph
    for part in str(node.target).split("."):
        value = getattr(value, part)
    return [value] if isinstance(value, nn.Parameter) else []


def _count_nodes(graph: fx.GraphModule) -> tuple[OperatorCost, ...]:
    """Count every operator, with the name of its node as its place."""
    (placeholder,) = [node for node in graph.graph.nodes if node.op == "placeholder"]
    weights = [*graph.parameters(), *graph.buffers()]
    example = torch.zeros(placeholder.meta["shape"], dtype=placeholder.meta["dtype"], device=weights[0].device)
    counter = OperatorCounter(weights, batch_size=example.shape[0])
    with evaluating(graph), torch.no_grad(), counter:
        _NodeRunner(graph, counter).run(example)
    return tuple(counter.operators)


class _NodeRunner(fx.Interpreter):
    """Runs a graph and tells the counter which node is running."""

    def __init__(self, graph: fx.GraphModule, counter: OperatorCounter) -> None:
        super().__init__(graph)
        self._counter = counter

    def run_node(self, n: fx.Node) -> Tensor:
        self._counter.place = n.name
        return super().run_node(n)  # type: ignore[no-any-return]
