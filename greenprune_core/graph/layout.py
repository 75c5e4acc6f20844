"""Operations that only move channels about: reshape, permute, split, index, reduce.

Each of them acts on the label array as it acts on the tensor, so a channel shuffle or a flattening needs no rule of its
own.
"""

from typing import Any

import numpy as np
import torch
from torch import fx, nn

from greenprune_core.graph.flow import Flow, Worn, entry_of, has_many_axes, tensor_inputs, unfollowed
from greenprune_core.graph.labels import LabelArray, shrink, spread, varying_axes
from greenprune_core.graph.trace import is_tensor

_RESHAPES = ("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze")
_VIEWS = (*_RESHAPES, "permute", "transpose", "swapaxes", "getitem", "contiguous")


def move(node: fx.Node, array: LabelArray) -> LabelArray | list[LabelArray] | None:
    """Apply a layout operation to an array that broadcasts to its input without the batch axis.

    Returns:
        The array of the output (a list for a split), or None where the batch axis itself is moved.
    """
    name = _name(node)
    if name in ("permute", "transpose", "movedim", "swapaxes"):
        return _permuted(node, array)
    if name in ("chunk", "split", "unbind"):
        return _split(node, array)
    if name == "getitem":
        return _taken(node, array)
    return _reshaped(node, array)


def is_view(flow: Flow, node: fx.Node) -> bool:
    """Tell whether an operation may stand in a chain of views, which is cut by replacing it with one selection."""
    if node.op == "call_module":
        return isinstance(flow.module(node), nn.Flatten | nn.Unflatten)
    return node.op in ("call_function", "call_method") and _name(node) in _VIEWS


def reshapes(flow: Flow, node: fx.Node) -> Worn:
    """Carry labels through a reshape that leaves the batch axis alone."""
    return _moved_or_unknown(flow, node)


def permutes(flow: Flow, node: fx.Node) -> Worn:
    """Carry labels through a permutation of the axes other than the batch."""
    return _moved_or_unknown(flow, node)


def splits(flow: Flow, node: fx.Node) -> Worn:
    """Carry labels through a split along an axis other than the batch."""
    return _moved_or_unknown(flow, node)


def takes(flow: Flow, node: fx.Node) -> Worn:
    """Carry labels through `value[index]`: a part of a split, or a slice of a tensor."""
    source = node.args[0]
    assert isinstance(source, fx.Node)
    worn = flow.worn.get(source)
    if isinstance(worn, list):
        index: Any = node.args[1]
        parts: Worn = worn[index]
        return parts
    if not is_tensor(node):
        return None
    return _moved_or_unknown(flow, node)


def expands(flow: Flow, node: fx.Node) -> Worn:
    """Carry labels through an expansion: the array broadcasts already."""
    sources = tensor_inputs(node)
    if len(sources) != 1 or len(sources[0].meta["shape"]) != len(node.meta["shape"]):
        return unfollowed(flow, node)
    return flow.array(sources[0])


def reduces(flow: Flow, node: fx.Node) -> Worn:
    """Carry labels through a mean or sum over axes along which channels do not differ."""
    sources = tensor_inputs(node)
    dims: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    if not sources or not is_tensor(node) or dims is None:
        return unfollowed(flow, node)
    source, array = sources[0], flow.array(sources[0])
    n_axes = len(source.meta["shape"])
    if isinstance(dims, bool):  # a standard deviation of everything, told whether it is unbiased
        return unfollowed(flow, node)
    axes = sorted({d % n_axes for d in ([dims] if isinstance(dims, int) else dims)})
    if 0 in axes or any(array.shape[axis - 1] > 1 for axis in axes):
        return unfollowed(flow, node)
    if len(node.meta["shape"]) == n_axes:
        return array
    return np.squeeze(array, axis=tuple(axis - 1 for axis in axes))


def extremes(flow: Flow, node: fx.Node) -> Worn:
    """Carry labels through a maximum or minimum along an axis, which is a value and its place."""
    if not isinstance(node.meta["shape"], list):
        return unfollowed(flow, node)
    source, array = tensor_inputs(node)[0], flow.array(tensor_inputs(node)[0])
    dim: Any = node.args[1] if len(node.args) > 1 else node.kwargs["dim"]
    axis = axis_of(node, dim)
    if axis < 1 or array.shape[axis - 1] > 1:
        return unfollowed(flow, node)
    has_axis = len(node.meta["shape"][0]) == len(source.meta["shape"])
    return [array if has_axis else np.squeeze(array, axis=axis - 1) for _ in node.meta["shape"]]


def halves(flow: Flow, node: fx.Node) -> Worn:
    """Couple each channel of a gated linear unit with the one that gates it, so that both halves stay of one size."""
    source, array = tensor_inputs(node)[0], flow.array(tensor_inputs(node)[0])
    module: Any = flow.module(node) if node.op == "call_module" else None
    dim: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", -1)
    axis = axis_of(node, dim if module is None else module.dim)
    if axis < 1:
        return unfollowed(flow, node)
    if array.shape[axis - 1] == 1:
        return array
    values, gates = np.split(_spread_axis(array, axis - 1, source.meta["shape"][axis]), 2, axis=axis - 1)
    flow.labels.union(values, gates)
    return values


def axis_of(node: fx.Node, dim: Any) -> int:
    """Return a possibly negative axis of a node's input as one counted from 0 (the batch)."""
    first = next(n for n in node.all_input_nodes if is_tensor(n))
    return int(dim) % len(first.meta["shape"])


def _moved_or_unknown(flow: Flow, node: fx.Node) -> Worn:
    sources = tensor_inputs(node)
    if len(sources) != 1 or not is_tensor(sources[0]):
        return unfollowed(flow, node)
    moved = move(node, flow.array(sources[0]))
    if moved is None or (isinstance(moved, np.ndarray) and not _ends_where_it_began(flow, sources[0], moved)):
        return unfollowed(flow, node)
    return moved


def _ends_where_it_began(flow: Flow, source: fx.Node, moved: LabelArray) -> bool:
    """Tell whether a chain of views that ends here leaves the channels on their axis, so that a selection can do it."""
    if not has_many_axes(flow, source) or len(varying_axes(moved)) > 1:
        return True
    return varying_axes(moved) == varying_axes(flow.array(entry_of(flow, source)))


def _name(node: fx.Node) -> str:
    """Name an operation; a layer (`nn.Flatten`) has a name of its author's."""
    return "" if node.op == "call_module" else str(getattr(node.target, "__name__", node.target))


def _input_shape(node: fx.Node) -> torch.Size:
    shape = tensor_inputs(node)[0].meta["shape"]
    assert isinstance(shape, torch.Size)
    return shape


def _reshaped(node: fx.Node, array: LabelArray) -> LabelArray | None:
    before, after = _input_shape(node), node.meta["shape"]
    if not after or before[0] != after[0] or len(after) < 2:
        return None
    return shrink(spread(array, before[1:]).reshape(tuple(after[1:])))


def _permuted(node: fx.Node, array: LabelArray) -> LabelArray | None:
    n_axes = len(_input_shape(node))
    arguments: Any = node.args[1:] or tuple(node.kwargs.values())
    if _name(node) == "permute":
        order = [d % n_axes for d in (arguments if isinstance(arguments[0], int) else arguments[0])]
    elif _name(node) in ("transpose", "swapaxes"):
        one, other = (d % n_axes for d in arguments)
        order = list(range(n_axes))
        order[one], order[other] = order[other], order[one]
    else:
        return None
    if order[0] != 0:
        return None
    return array.transpose([axis - 1 for axis in order[1:]])


def _split(node: fx.Node, array: LabelArray) -> list[LabelArray] | None:
    dim = node.args[2] if len(node.args) > 2 else node.kwargs.get("dim", 0)
    axis = axis_of(node, dim)
    shapes = node.meta["shape"]
    if axis < 1 or not isinstance(shapes, list) or _name(node) == "unbind":
        return None
    full = _spread_axis(array, axis - 1, _input_shape(node)[axis])
    ends = np.cumsum([shape[axis] for shape in shapes])
    return [shrink(part) for part in np.split(full, ends[:-1].tolist(), axis=axis - 1)]


def _taken(node: fx.Node, array: LabelArray) -> LabelArray | None:
    index: Any = node.args[1]
    index = index if isinstance(index, tuple) else (index,)
    if not all(_is_plain(part) for part in index):
        return None
    shape = _input_shape(node)
    if index[0] is Ellipsis:
        has_images = sum(part is not None for part in index[1:]) < len(shape)  # among the axes that are left out
    else:
        has_images, index = index[0] == slice(None), index[1:]
    if not has_images:
        return None
    taken = spread(array, shape[1:])[index]
    if taken.ndim != len(node.meta["shape"]) - 1:
        return None
    return shrink(taken)


def _is_plain(part: Any) -> bool:
    if isinstance(part, slice):
        return all(isinstance(end, int | None) for end in (part.start, part.stop, part.step))
    return part is None or part is Ellipsis or isinstance(part, int)


def _spread_axis(array: LabelArray, axis: int, size: int) -> LabelArray:
    shape = list(array.shape)
    shape[axis] = size
    return np.broadcast_to(array, shape)
