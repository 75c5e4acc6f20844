"""Operations in place written as ones that hand on a value of their own.

`relu_(x)` changes what every later reader of `x` sees without an edge in the graph. Gates and cuts follow edges, so the
traced copy gets them: later readers of `x` read the operation instead, and it no longer writes over its input.
"""

import inspect
import operator
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from greenprune_core.errors import UnsupportedNetworkError

_OPERATORS: dict[Any, Any] = {
    getattr(operator, f"i{name}"): getattr(operator, name)
    for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul")
} | {operator.iand: operator.and_, operator.ior: operator.or_, operator.ixor: operator.xor}


class _Span(NamedTuple):
    """Where a tensor lies in memory."""

    storage: int
    dtype: torch.dtype
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int

    def overlaps(self, other: "_Span") -> bool:
        if self == other or self.storage != other.storage:
            return self == other
        return self.dtype != other.dtype or bool(torch.isin(self._places(), other._places()).any())

    def _places(self) -> Tensor:
        places = torch.tensor([self.offset])
        for size, stride in zip(self.size, self.stride, strict=True):
            places = (places[:, None] + torch.arange(size) * stride).reshape(-1)
        return places


def hand_on_values(traced: fx.GraphModule, example_input: Tensor) -> None:
    """Rewrite the operations in place of a traced graph.

    Raises:
        UnsupportedNetworkError: one writes over a part or a view of a value that is read later by another name, or has
            no twin that does not write over its input.
    """
    watcher = _Watcher(traced)
    with torch.no_grad():
        watcher.run(example_input.clone())
    order = {node: i for i, node in enumerate(traced.graph.nodes)}
    for node, target in watcher.written.items():
        _reroute(watcher.spans, order, node, target)
        _write_elsewhere(traced, node)
    for module in traced.modules():
        if getattr(module, "inplace", False):
            setattr(module, "inplace", False)  # noqa: B010 (the type knows no such attribute)
    traced.graph.lint()
    traced.recompile()


class _Watcher(fx.Interpreter):
    """Runs the graph and notes which node writes over what, and where every value lies."""

    def __init__(self, traced: fx.GraphModule) -> None:
        # Kept values keep their memory, so that equal addresses mean the same tensor.
        super().__init__(traced, garbage_collect_values=False)
        self.traced = traced
        self.spans: dict[fx.Node, list[_Span]] = {}
        self.written: dict[fx.Node, _Span] = {}

    def run_node(self, n: fx.Node) -> Any:
        sources = [source for source in n.all_input_nodes if isinstance(self.env[source], Tensor)]
        before = {source: _version(self.env[source]) for source in sources}
        spans = {source: self.spans[source] for source in sources}
        value = super().run_node(n)
        parts = value if isinstance(value, tuple | list) else [value]
        self.spans[n] = [_span(part) for part in parts if _lies_in_memory(part)]
        changed = [source for source in sources if _version(self.env[source]) != before[source]]
        if not changed and sources and self._is_declared(n):
            changed = sources[:1]  # dropout writes in training only
        if changed and n.op != "output" and spans[changed[0]] and changed[0].op != "get_attr":
            self.written[n] = spans[changed[0]][0]
        return value

    def _is_declared(self, node: fx.Node) -> bool:
        if node.op == "call_module":
            return bool(getattr(self.traced.get_submodule(str(node.target)), "inplace", False))
        return bool(node.kwargs.get("inplace", False))


def _version(value: Tensor) -> int:
    return 0 if value.is_inference() else value._version


def _lies_in_memory(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout is torch.strided


def _span(value: Tensor) -> _Span:
    storage = value.untyped_storage().data_ptr()
    return _Span(storage, value.dtype, tuple(value.shape), value.stride(), int(value.storage_offset()))


def _reroute(spans: dict[fx.Node, list[_Span]], order: dict[fx.Node, int], node: fx.Node, target: _Span) -> None:
    """Let every later reader of what a node writes over read the node."""
    for alias in [one for one in order if order[one] < order[node]]:
        later = [user for user in alias.users if order[user] > order[node]]
        if not later or not any(span.overlaps(target) for span in spans[alias]):
            continue
        if spans[alias] == spans[node] == [target]:
            for user in later:
                user.replace_input_with(alias, node)
        elif any(not _takes_another_part(spans, user, target) for user in later):
            raise UnsupportedNetworkError(
                f"an operation in place writes over a value that is read later by the same name only, but {node.name} "
                f"writes over a part or a view of {alias.name}, which {later[0].name} reads; use the operation that is "
                "not in place and join its result"
            )


def _takes_another_part(spans: dict[fx.Node, list[_Span]], user: fx.Node, target: _Span) -> bool:
    return user.target is operator.getitem and not any(span.overlaps(target) for span in spans[user])


def _write_elsewhere(traced: fx.GraphModule, node: fx.Node) -> None:
    """Put the operation that does not write over its input in the place of one that does."""
    name = str(getattr(node.target, "__name__", node.target))
    target: Any = node.target
    if node.op == "call_module":
        return
    if target in _OPERATORS:
        node.target = _OPERATORS[target]
    elif node.op == "call_method" and hasattr(Tensor, name.removesuffix("_")):
        node.target = name.removesuffix("_")
    elif name.endswith("_") and (twin := _function_named(name.removesuffix("_"))) is not None:
        node.target = twin
    elif inspect.isfunction(target) and "inplace" in inspect.signature(target).parameters:
        bound = inspect.signature(target).bind(*node.args, **node.kwargs)
        bound.arguments["inplace"] = False
        node.args, node.kwargs = bound.args, bound.kwargs
    else:
        raise UnsupportedNetworkError(
            f"operations in place have a twin that is not, but {name} ({node.name}) of {type(traced).__name__} has "
            "none; write its result to a new value"
        )


def _function_named(name: str) -> Any:
    return getattr(nn.functional, name, None) or getattr(torch, name, None)
