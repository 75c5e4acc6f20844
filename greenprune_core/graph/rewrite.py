"""Layout operations after a cut: sizes, split points and channel orders that were written for the dense network."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional
from torch import fx, nn

from greenprune_core.graph import layout
from greenprune_core.graph.cutter import Cutter
from greenprune_core.graph.flow import tensor_inputs
from greenprune_core.graph.labels import shrink, varying_axes
from greenprune_core.graph.sizes import axis_of_size, is_size
from greenprune_core.graph.trace import is_tensor, replace_by_constant

_SPLITS = ("chunk", "split")
_RESHAPES = ("view", "reshape", "expand")
_OTHER_LAYOUT = (
    "unflatten",
    "flatten",
    "permute",
    "transpose",
    "swapaxes",
    "unsqueeze",
    "squeeze",
    "contiguous",
    "getitem",
)


def rewrite_layout(cutter: Cutter, node: fx.Node) -> None:
    """Adapt the copy of one operation to the channels that stay, if it depends on their number or order."""
    name = str(getattr(node.target, "__name__", node.target))
    if node.op == "call_module":
        # The name of a layer is its author's; nn.Flatten is the one that views.
        name = "flatten" if isinstance(cutter.dense.get_submodule(name), nn.Flatten) else ""
    if name in ("cat", "concat", "concatenate") and not isinstance(node.args[0], fx.Node):
        _drop_empty_parts(cutter, node)
    elif name == "pad":
        _shrink_padding(cutter, node)
    elif is_size(node) and (kept := cutter.kept(tensor_inputs(node)[0])) is not None and not kept.any():
        _read_from_example(cutter, node)
    elif name == "squeeze" and len(node.args) == 1 and not node.kwargs:
        _write_squeezed_axes(cutter, node)
    elif name in _SPLITS and _is_cut(cutter, tensor_inputs(node)[0]):
        _resize_parts(cutter, node)
    elif is_tensor(node) and name in (*_RESHAPES, *_OTHER_LAYOUT) and tensor_inputs(node):
        source = tensor_inputs(node)[0]
        if not is_tensor(source) or not _is_cut(cutter, source) or cutter.kept(node) is None:
            return
        if _n_varying(cutter, source) > 1:
            _reorder(cutter, node)
        elif _n_varying(cutter, node) <= 1 and name == "getitem":
            _take_kept(cutter, node)
        elif _n_varying(cutter, node) <= 1 and name == "unflatten":
            _resize_parts_of_axis(cutter, node)
        elif _n_varying(cutter, node) <= 1 and name in _RESHAPES:
            _resize_shape(cutter, node)


def _is_cut(cutter: Cutter, node: fx.Node) -> bool:
    kept = cutter.kept(node)
    return kept is not None and not kept.all()


def _n_varying(cutter: Cutter, node: fx.Node) -> int:
    return len(varying_axes(cutter.structure.coupling.channels[node]))


def _drop_empty_parts(cutter: Cutter, node: fx.Node) -> None:
    copy = cutter.copies[node]
    parts: Any = node.args[0]
    kept = [cutter.kept(part) for part in parts]
    pairs = zip(parts, copy.args[0], kept, strict=True)  # type: ignore[arg-type]
    alive = [copied for _, copied, mask in pairs if mask is None or mask.any()]
    copy.args = (alive, *copy.args[1:])


def _resize_parts(cutter: Cutter, node: fx.Node) -> None:
    """Replace a split by one with the sizes of what is kept."""
    source = tensor_inputs(node)[0]
    axis = layout.axis_of(node, node.args[2] if len(node.args) > 2 else node.kwargs.get("dim", 0))
    sizes = [shape[axis] for shape in node.meta["shape"]]
    kept = cutter.kept(source)
    assert kept is not None
    if kept.shape[axis - 1] == 1:
        return
    line = kept.reshape(-1)
    counts = [int(part.sum()) for part in np.split(line, np.cumsum(sizes)[:-1])]
    copy = cutter.copies[node]
    with cutter.graph.inserting_before(copy):
        resized = cutter.graph.call_function(torch.split, (copy.args[0], counts, axis))
    cutter.replace(node, resized)


def _read_from_example(cutter: Cutter, node: fx.Node) -> None:
    """Let sizes of a tensor without channels be those of the example, lest they keep its layers in the network."""
    shape, copy = tensor_inputs(node)[0].meta["shape"], cutter.copies[node]
    image = next(one for one in cutter.graph.nodes if one.op == "placeholder")
    with cutter.graph.inserting_before(copy):
        sizes = (cutter.graph.call_method("size", (image, 0)), *shape[1:])
    is_one = isinstance(node.meta["value"], int)
    replace_by_constant(copy, sizes[axis_of_size(node, len(shape))] if is_one else sizes)


def _take_kept(cutter: Cutter, node: fx.Node) -> None:
    """Replace a slice by one that starts and ends where the kept channels do."""
    source = tensor_inputs(node)[0]
    kept = cutter.kept(source)
    assert kept is not None
    (axis,) = varying_axes(kept) or (0,)
    index, place = _written_out(node.args[1], axis + 1, len(source.meta["shape"]))
    if place is None or index[place] == slice(None):
        return
    positions = np.arange(source.meta["shape"][axis + 1])[index[place]]
    before = np.cumsum(kept.reshape(-1)) - 1
    order = [int(before[p]) for p in np.atleast_1d(positions) if kept.reshape(-1)[p]]
    if isinstance(index[place], int):
        index[place] = order[0] if order else 0
    elif order == list(range(order[0], order[0] + len(order))) if order else True:
        index[place] = slice(order[0], order[0] + len(order)) if order else slice(0, 0)
    else:
        index[place] = order
    cutter.copies[node].args = (cutter.copies[node].args[0], tuple(index))


def _written_out(index: Any, axis: int, n_axes: int) -> tuple[list[Any], int | None]:
    """Return an index without `...`, and the place in it of the entry for one axis of the source (None: not there)."""
    parts = index if isinstance(index, tuple) else (index,)
    n_named = sum(part is not None and part is not Ellipsis for part in parts)
    written: list[Any] = []
    for part in parts:
        written.extend([slice(None)] * (n_axes - n_named) if part is Ellipsis else [part])
    places = [place for place, part in enumerate(written) if part is not None]
    return written, places[axis] if axis < len(places) else None


def _resize_shape(cutter: Cutter, node: fx.Node) -> None:
    """Write the number of kept channels into the sizes of a view, reshape or expansion."""
    copy = cutter.copies[node]
    kept = cutter.kept(node)
    assert kept is not None
    axes = varying_axes(kept)
    sizes: Any = copy.args[1:]
    nested = len(sizes) == 1 and isinstance(sizes[0], (tuple, list, torch.Size))
    sizes = list(sizes[0] if nested else sizes)
    if not axes or len(sizes) != len(node.meta["shape"]):
        return
    place = axes[0] + 1
    if sizes[place] != -1:
        sizes[place] = int(kept.sum())
    copy.args = (copy.args[0], tuple(sizes)) if nested else (copy.args[0], *sizes)


def _resize_parts_of_axis(cutter: Cutter, node: fx.Node) -> None:
    """Write the number of kept channels into the sizes that an axis is unflattened to."""
    copy = cutter.copies[node]
    kept = cutter.kept(node)
    assert kept is not None
    arguments: Any = copy.args
    source, dim, sizes = arguments[0], arguments[1] % len(tensor_inputs(node)[0].meta["shape"]), list(arguments[2])
    for axis in varying_axes(kept):
        place = axis + 1 - dim
        if 0 <= place < len(sizes) and sizes[place] != -1:
            sizes[place] = int(kept.sum())
    copy.args = (source, dim, tuple(sizes))


def _write_squeezed_axes(cutter: Cutter, node: fx.Node) -> None:
    """Name the axes that the dense network squeezes away: a group cut to one channel keeps its axis."""
    source = tensor_inputs(node)[0]
    if is_tensor(source) and _is_cut(cutter, source):
        axes = tuple(axis for axis, size in enumerate(source.meta["shape"]) if axis and size == 1)
        cutter.copies[node].args = (cutter.copies[node].args[0], axes)


def _reorder(cutter: Cutter, node: fx.Node) -> None:
    """Replace a chain of views that permutes channels (a channel shuffle) by one selection of the kept ones.

    Reshaping to groups and back only works while every group keeps equally many channels; a selection always does.
    """
    if _n_varying(cutter, node) > 1:
        return
    chain = [node]
    while _n_varying(cutter, tensor_inputs(chain[-1])[0]) > 1:
        chain.append(tensor_inputs(chain[-1])[0])
    entry = tensor_inputs(chain[-1])[0]
    array = cutter.structure.coupling.channels[entry]
    (axis,) = varying_axes(array) or (0,)
    moved: Any = np.arange(array.size).reshape(array.shape)
    for step in reversed(chain):
        moved = layout.move(step, moved) if step.target != "contiguous" else moved
    (out_axis,) = varying_axes(moved)
    kept_in, kept_out = cutter.kept(entry), cutter.kept(node)
    assert kept_in is not None
    assert kept_out is not None
    assert out_axis == axis
    place = np.cumsum(kept_in.reshape(-1)) - 1
    order = place[shrink(moved).reshape(-1)[kept_out.reshape(-1)]]
    copy, start = cutter.copies[node], cutter.copies[entry]
    index = cutter.add_buffer(f"{node.name}_order", torch.from_numpy(order.copy()))
    with cutter.graph.inserting_before(copy):
        selected = cutter.graph.call_function(torch.index_select, (start, axis + 1, cutter.graph.get_attr(index)))
    cutter.replace(node, selected)


def _shrink_padding(cutter: Cutter, node: fx.Node) -> None:
    """Pad with as many zero channels as are kept among those that the dense network pads with."""
    kept = cutter.kept(node)
    if kept is None or kept.all() or kept.shape[0] == 1:
        return
    copy = cutter.copies[node]
    pads: Any = list(node.args[1] if len(node.args) > 1 else node.kwargs["pad"])  # type: ignore[arg-type]
    from_last = 2 * (len(node.meta["shape"]) - 2)
    if len(pads) <= from_last:
        return
    line = kept.reshape(-1)
    before, after = pads[from_last], pads[from_last + 1]
    pads[from_last] = int(line[:before].sum())
    pads[from_last + 1] = int(line[len(line) - after :].sum())
    copy.args = (copy.args[0], tuple(pads), *copy.args[2:])
    copy.kwargs = {name: value for name, value in copy.kwargs.items() if name != "pad"}
