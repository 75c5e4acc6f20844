"""Views that put a parameter's channels on another axis: `x * self.scale.view(1, -1, 1, 1)`.

Each chain of them is written as one reshape whose sizes fit however many of the channels are cut, and is then read as
the parameter itself.
"""

import operator
from typing import Any

from torch import fx

from greenprune_core.graph.labels import LabelArray

_VIEW = "is_view_of_parameter"
_VIEWS = ("view", "reshape", "flatten", "unflatten", "unsqueeze", "squeeze", "permute", "transpose", "contiguous")


def write_out_parameter_views(traced: fx.GraphModule) -> None:
    """Rewrite the views of parameters and buffers that have one axis longer than 1; the graph has shapes."""
    for node in list(traced.graph.nodes):
        parameter = _source(node)
        if parameter is not None and _longest(node) == _longest(parameter) > 1:
            with traced.graph.inserting_before(node):
                sizes = tuple(1 if size == 1 else -1 for size in node.meta["shape"])
                view = traced.graph.call_method("reshape", (parameter, sizes))
            view.meta = dict(node.meta) | {_VIEW: True}
            node.replace_all_uses_with(view)
    for node in reversed(list(traced.graph.nodes)):
        if node.op.startswith("call_") and not node.users:
            traced.graph.erase_node(node)
    traced.recompile()


def parameter_behind(node: fx.Node) -> fx.Node | None:
    """Return the node of the parameter or buffer that a node stands for: itself, or what it is a view of."""
    if _VIEW in node.meta:
        (node,) = node.all_input_nodes
    return node if node.op == "get_attr" else None


def is_parameter_view(node: fx.Node) -> bool:
    """Tell whether a node was written here."""
    return _VIEW in node.meta


def lay_along(labels: LabelArray, parameter: fx.Node) -> LabelArray:
    """Lay the labels of a view along the axis that the parameter itself has its channels on."""
    shape = parameter.meta["shape"]
    axis = next((axis for axis, size in enumerate(shape) if size > 1), 0)
    return labels.reshape((-1, *[1] * (len(shape) - axis - 1)))


def _source(node: fx.Node) -> fx.Node | None:
    """Return the parameter that a node views, through views that are written already."""
    name = str(getattr(node.target, "__name__", node.target))
    is_named = node.op in ("call_function", "call_method") and name in _VIEWS
    if not is_named and not (node.target is operator.getitem and _keeps_all(node.args[1])):
        return None
    tensors = [n for n in node.all_input_nodes if n.meta["dtype"] is not None]
    parameter = parameter_behind(tensors[0]) if len(tensors) == 1 else None
    return parameter if parameter is not None and parameter.meta["dtype"] == node.meta["dtype"] else None


def _keeps_all(index: Any) -> bool:
    parts = index if isinstance(index, tuple) else (index,)
    return all(part is None or part is Ellipsis or part == slice(None) for part in parts)


def _longest(node: fx.Node) -> int:
    """Return the length of the only axis longer than 1; 0 if there are several, or none."""
    sizes = [size for size in node.meta["shape"] if size > 1]
    return int(sizes[0]) if len(sizes) == 1 else 0
