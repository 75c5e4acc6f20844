"""Sizes that forward reads: a number of channels stays that of the dense network, however many of them are kept.

`x * x.shape[1] ** -0.5` means the width that the network was written with, and so does the gated network, whose tensors
are dense. Views that are given the number are rewritten with the kept channels when a network is cut.
"""

import operator
from typing import Any

from torch import fx

from greenprune_core.graph.labels import LabelArray, varying_axes
from greenprune_core.graph.trace import replace_by_constant

_CALLS = ("call_function", "call_method")
_PLACES = {"view": 1, "reshape": 1, "expand": 1, "unflatten": 2}
"""Which argument of a view is its shape."""


def write_out_sizes(traced: fx.GraphModule, channels: dict[fx.Node, LabelArray]) -> None:
    """Write the dense number of channels in the place of every size along an axis whose channels are gated.

    Views that are given a shape get its sizes one by one, so that those of channels can be rewritten.

    Args:
        traced: a graph with shapes; changed.
        channels: flat gate index (-1: always open) of every tensor's channels, from `couple`.
    """
    for node in list(traced.graph.nodes):
        source = node.args[0] if node.args else None
        if not isinstance(source, fx.Node) or source not in channels or not is_size(node):
            continue
        shape = source.meta["shape"]
        gated = [axis + 1 for axis in varying_axes(channels[source]) if (channels[source] >= 0).any()]
        if not gated:
            continue
        if isinstance(node.meta["value"], int):
            axis = axis_of_size(node, len(shape))
            if axis in gated:
                replace_by_constant(node, shape[axis])
        else:
            with traced.graph.inserting_after(node):
                one_by_one = [traced.graph.call_function(operator.getitem, (node, axis)) for axis in range(len(shape))]
            for axis, size in enumerate(one_by_one):
                size.meta.update(shape=None, dtype=None, value=shape[axis])
            own = set(one_by_one)
            _spell(node, tuple(shape[axis] if axis in gated else size for axis, size in enumerate(one_by_one)), own)
    for node in list(traced.graph.nodes):
        _take_shape_apart(traced, node)
    for node in reversed(list(traced.graph.nodes)):
        if node.op.startswith("call_") and not node.users and isinstance(node.meta["value"], int | tuple):
            traced.graph.erase_node(node)
    traced.graph.lint()
    traced.recompile()


def is_size(node: fx.Node) -> bool:
    """Tell whether a node reads the shape, or one size, of a tensor."""
    return node.target == "size" or (node.target is getattr and str(node.args[1]) == "shape")


def axis_of_size(node: fx.Node, n_axes: int) -> int:
    """Return the axis, counted from 0 (the batch), whose size a node reads."""
    axis: Any = node.args[1] if len(node.args) > 1 else node.kwargs["dim"]
    return int(axis) % n_axes


def _take_shape_apart(traced: fx.GraphModule, node: fx.Node) -> None:
    """Give a view the sizes of a shape one by one, as in `x.view(y.shape[:1] + (8,) + y.shape[2:])`."""
    place = _PLACES.get(str(getattr(node.target, "__name__", node.target))) if node.op in _CALLS else None
    whole = node.args[place] if place is not None and len(node.args) > place else None
    if place is None or not isinstance(whole, fx.Node) or not isinstance(whole.meta["value"], tuple):
        return
    with traced.graph.inserting_before(node):
        sizes = tuple(traced.graph.call_function(operator.getitem, (whole, i)) for i in range(len(whole.meta["value"])))
    for size, value in zip(sizes, whole.meta["value"], strict=True):
        size.meta.update(shape=None, dtype=None, value=value)
    node.args = (*node.args[:place], sizes, *node.args[place + 1 :])


def _spell(node: fx.Node, sizes: tuple[Any, ...], own: set[fx.Node]) -> None:
    """Put sizes in the place of a node that holds them, and of what is picked from it or joined to it."""
    for user in [one for one in node.users if one not in own]:
        value: Any = None
        if user.target is operator.getitem:
            value = sizes[user.args[1]]  # type: ignore[index]
        elif user.target is operator.add and all(one is node or isinstance(one, tuple) for one in user.args):
            parts: Any = [sizes if one is node else one for one in user.args]
            value = (*parts[0], *parts[1])
        if isinstance(value, tuple):
            _spell(user, value, own)
        elif isinstance(value, fx.Node):
            user.replace_all_uses_with(value)
        elif value is not None:
            replace_by_constant(user, value)
        else:
            user.args = fx.node.map_arg(user.args, lambda one: sizes if one is node else one)
            user.kwargs = fx.node.map_arg(user.kwargs, lambda one: sizes if one is node else one)
