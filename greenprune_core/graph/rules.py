"""What operations do to channel labels: one small function per kind; `operators` says which kind has which."""

import operator
from typing import Any

import numpy as np
import torch
from torch import fx
from torch.nn.modules.instancenorm import _InstanceNorm

from greenprune_core.graph import layout
from greenprune_core.graph.attention import HEADS
from greenprune_core.graph.flow import Flow, Worn, kind_of, opened, tensor_inputs, unfollowed
from greenprune_core.graph.labels import LabelArray, along, spread, varying_axes
from greenprune_core.graph.parameter_views import lay_along, parameter_behind
from greenprune_core.graph.rows import has_row_per_image
from greenprune_core.graph.trace import ADDITIONS, is_tensor

_FOLDED = "works on another number of rows than images (parts of an image as a batch)"


def mixes(flow: Flow, node: fx.Node) -> Worn:
    """Keep the channels open that an operation mixes or normalises over (LayerNorm, softmax)."""
    return opened(flow, node, f"{kind_of(flow, node)} works across channels")


def passes(flow: Flow, node: fx.Node) -> Worn:
    """Pass on the labels of an element-wise operation with one tensor; a parameter beside it is one number."""
    sources = tensor_inputs(node)
    beside = [n for n in node.all_input_nodes if n.op == "get_attr" and is_tensor(n) and n.meta["shape"].numel() > 1]
    if len(sources) != 1 or not is_tensor(node) or beside:
        return unfollowed(flow, node)
    return flow.array(sources[0])


def per_channel(flow: Flow, node: fx.Node) -> Worn:
    """Pass on the labels through a layer with one parameter per channel of axis 1 (batch normalisation)."""
    module: Any = flow.module(node)
    n_channels = getattr(module, "num_features", None) or module.num_parameters
    if n_channels == 1:
        return passes(flow, node)
    if isinstance(module, _InstanceNorm) and _reads_one_image(flow, node):
        return unfollowed(flow, node)
    worn = passes(flow, node)
    assert isinstance(worn, np.ndarray)
    channels = along(worn, 0, n_channels)
    if channels is None:
        return unfollowed(flow, node)
    flow.reads(node, channels)
    return worn


def pools(flow: Flow, node: fx.Node) -> Worn:
    """Pass on the labels through an operation over the spatial axes, which are all but the first after the batch."""
    worn = passes(flow, node)
    is_spatial = isinstance(worn, np.ndarray) and varying_axes(worn) in ((), (0,)) and not _reads_one_image(flow, node)
    return worn if is_tensor(node) and is_spatial else unfollowed(flow, node)


def _reads_one_image(flow: Flow, node: fx.Node) -> bool:
    """Tell whether a layer takes its input for a single image: `max_pool1d` of a tensor (N, C) pools its channels."""
    kind = type(flow.module(node)).__name__ if node.op == "call_module" else str(getattr(node.target, "__name__", ""))
    n_sides = int(kind[-2]) if kind.endswith("d") and kind[-2].isdigit() else 0
    return len(tensor_inputs(node)[0].meta["shape"]) < n_sides + 2


def convolution(flow: Flow, node: fx.Node) -> Worn:
    """Read the channels of axis 1 and make new ones; a grouped convolution couples each of its groups as a whole."""
    module: Any = flow.module(node)
    array = flow.array(node.all_input_nodes[0])
    channels = along(array, 0, module.in_channels)
    if channels is None or len(node.all_input_nodes) != 1 or array.ndim != len(module.kernel_size) + 1:
        return unfollowed(flow, node)
    if not has_row_per_image(node.all_input_nodes[0]):
        return opened(flow, node, _FOLDED)
    flow.reads(node, channels)
    made = flow.outputs(node, (module.out_channels,) + (1,) * len(module.kernel_size))
    if module.groups == 1:
        flow.consumers.append(node)
    else:
        inside = channels.reshape(module.groups, -1)
        flow.labels.union(inside[:, :1], inside)
        flow.labels.union(inside[:, :1], made.reshape(module.groups, -1))
    return made


def linear(flow: Flow, node: fx.Node) -> Worn:
    """Read the channels of the last axis and make new ones."""
    module: Any = flow.module(node)
    array = flow.array(node.all_input_nodes[0])
    channels = along(array, array.ndim - 1, module.in_features)
    if channels is None or array.ndim < 1:
        return unfollowed(flow, node)
    if not has_row_per_image(node.all_input_nodes[0]):
        return opened(flow, node, _FOLDED)
    flow.reads(node, channels)
    flow.consumers.append(node)
    return flow.outputs(node, (1,) * (array.ndim - 1) + (module.out_features,))


def combines(flow: Flow, node: fx.Node) -> Worn:
    """Join the labels of two tensors that are added, multiplied, ... element by element."""
    tensors = [n for n in node.all_input_nodes if is_tensor(n)]
    activations = [n for n in tensors if parameter_behind(n) is None and not _is_number(n)]
    if not is_tensor(node) or not activations or len(node.meta["shape"]) < 1:
        return unfollowed(flow, node)
    if any(n.meta["shape"][:1] != node.meta["shape"][:1] for n in activations):
        return unfollowed(flow, node)
    if len(activations) == 1:
        worn = flow.array(activations[0])
        for parameter in tensors:
            if parameter_behind(parameter) is not None:
                _wear_parameter(flow, parameter, worn, len(node.meta["shape"]))
        return worn
    first, second = activations[0], activations[-1]
    left, right = _aligned(flow, first, second), _aligned(flow, second, first)
    if left.ndim != right.ndim:
        return unfollowed(flow, node)
    flow.labels.union(left, right)
    if node.target in ADDITIONS and len(varying_axes(left)) == len(varying_axes(right)) == 1:
        flow.labels.mark_stream(left)
    return left if left.size >= right.size else right


def chooses(flow: Flow, node: fx.Node) -> Worn:
    """Join the labels of a condition and of what it chooses from, element by element."""
    sources = tensor_inputs(node)
    arrays = [flow.array(source) for source in sources]
    has_parameter = any(n.op == "get_attr" for n in node.all_input_nodes)
    is_alike = all(source.meta["shape"] == node.meta["shape"] for source in sources)
    if has_parameter or not sources or not is_alike:
        return unfollowed(flow, node)
    for array in arrays[1:]:
        flow.labels.union(arrays[0], array)
    return max(arrays, key=lambda array: array.size)


def largest(flow: Flow, node: fx.Node) -> Worn:
    """Carry labels through `max` and `min`: of two tensors, or along an axis."""
    return combines(flow, node) if len(tensor_inputs(node)) == len(("x", "y")) else layout.extremes(flow, node)


def _is_number(node: fx.Node) -> bool:
    """Tell whether a tensor is one number made of parameters (a temperature), which is the same to all channels."""
    return bool(node.meta["shape"].numel() == 1) and not has_row_per_image(node)


def _aligned(flow: Flow, node: fx.Node, other: fx.Node) -> LabelArray:
    """Labels of an operand; where it is truly broadcast along the other's channels, it is kept open and uncoupled."""
    worn = flow.array(node)
    theirs = flow.array(other)
    shape, other_shape = node.meta["shape"][1:], other.meta["shape"][1:]
    if worn.ndim == theirs.ndim:
        for axis in varying_axes(theirs):
            if shape[axis] == 1 and other_shape[axis] > 1:
                flow.labels.keep_open(worn, "one channel is spread over several")
                # Standing in for the other's own labels couples nothing: a union with oneself.
                return theirs
    return worn


def _wear_parameter(flow: Flow, parameter: fx.Node, worn: LabelArray, n_axes: int) -> None:
    """Give a parameter of the network the labels of the channels that it scales or shifts, so that it is cut too."""
    shape, root = tuple(parameter.meta["shape"]), parameter_behind(parameter)
    assert root is not None
    if len(shape) == n_axes:  # a leading axis of size 1 in the place of the batch
        shape = shape[1:]
    lead = worn.ndim - len(shape)
    cut = worn
    for axis in varying_axes(worn):
        inner = axis - lead
        if inner < 0 or shape[inner] == 1:
            cut = cut.take([0], axis=axis)
    if len(varying_axes(cut)) not in (0, len(varying_axes(worn))) or lead < 0:
        flow.labels.keep_open(worn, "scaled by a parameter of another layout")
        flow.keep_whole(str(root.target), "of another layout than the channels")
        return
    if cut.size == 1 and worn.size > 1:
        if max(shape, default=1) > 1:
            flow.keep_whole(str(root.target), "lies along another axis than the channels")
        return
    flow.reads(root, cut.reshape(-1))
    flow.worn[parameter] = cut.reshape(cut.shape[lead:])
    if parameter is not root:
        flow.worn[root] = lay_along(cut, root)


def joins(flow: Flow, node: fx.Node) -> Worn:
    """Concatenate labels along an axis other than the batch."""
    parts = node.args[0] if node.args else node.kwargs["tensors"]
    if not isinstance(parts, (list, tuple)):
        return unfollowed(flow, node)
    axis = layout.axis_of(node, node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0))
    if axis < 1:
        return unfollowed(flow, node)
    arrays = []
    for part in parts:
        assert isinstance(part, fx.Node)
        array, shape = flow.array(part), list(part.meta["shape"][1:])
        sizes = [shape[i] if i == axis - 1 else array.shape[i] for i in range(array.ndim)]
        arrays.append(np.broadcast_to(array, sizes))
    other = [max(sizes) for sizes in zip(*(a.shape for a in arrays), strict=True)]
    for array in arrays[1:]:
        for i in range(array.ndim):
            if i != axis - 1 and other[i] > 1:
                flow.labels.union(arrays[0].take([0], axis=axis - 1), array.take([0], axis=axis - 1))
    is_along_channels = any(n > 1 for i, n in enumerate(other) if i != axis - 1)
    if is_along_channels and all(flow.array(part).shape[axis - 1] == 1 for part in parts):
        return max((flow.array(part) for part in parts), key=lambda array: array.size)
    full = [np.broadcast_to(a, [a.shape[i] if i == axis - 1 else n for i, n in enumerate(other)]) for a in arrays]
    return np.concatenate(full, axis=axis - 1)


def pads(flow: Flow, node: fx.Node) -> Worn:
    """Carry labels through padding; channels that are padded with zeros (ResNet's parameter-free shortcut) are new."""
    sources = tensor_inputs(node)
    if not sources:
        return unfollowed(flow, node)
    amounts: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("pad")
    mode, value = (*node.args[2:], *[None] * 2)[:2]
    array = flow.array(sources[0])
    n_axes = len(node.meta["shape"])
    if not all(isinstance(amount, int) for amount in amounts) or varying_axes(array) not in ((), (0,)):
        return unfollowed(flow, node)
    if len(amounts) <= 2 * (n_axes - 2):
        return array
    is_zero = (mode or node.kwargs.get("mode", "constant")) == "constant" and not (value or node.kwargs.get("value"))
    if not is_zero or len(amounts) > 2 * (n_axes - 1) or min(amounts[-2:]) < 0:
        return unfollowed(flow, node)
    rest = (1,) * (array.ndim - 1)
    before, after = (flow.labels.create((n, *rest), None) for n in amounts[-2:])
    own = np.broadcast_to(array, (sources[0].meta["shape"][1], *rest))
    return np.concatenate((before, own, after), axis=0)


def attends(flow: Flow, node: fx.Node) -> Worn:
    """Couple all channels of a head, in queries, keys and values: a head stays or goes as a whole.

    Only in attention that `write_out_attention` wrote: elsewhere the views around it are the author's own.
    """
    if HEADS not in node.meta or len(node.args) != 3 or node.kwargs or not is_tensor(node):
        return unfollowed(flow, node)
    arrays = [_by_head(flow, operand) for operand in node.args if isinstance(operand, fx.Node)]
    first = arrays[0]
    if first is None or any(array is None or len(array) != len(first) for array in arrays):
        return unfollowed(flow, node)
    for array in arrays:
        assert array is not None
        flow.labels.union(first[:, :1, :1], array)
    return arrays[-1]


def _by_head(flow: Flow, operand: fx.Node) -> LabelArray | None:
    array, shape = flow.array(operand), operand.meta["shape"]
    if array.ndim != 3 or array.shape[1] > 1:
        return None
    return spread(array, (shape[1], 1, shape[3]))


def shape_query(flow: Flow, node: fx.Node) -> Worn:
    """A shape or a type is no activation; a number of elements depends on the cut, so the channels stay open."""
    if node.meta["shape"] is not None:
        return unfollowed(flow, node)
    return opened(flow, node, "the number of its elements is read") if _counts_elements(node) else None


def _counts_elements(node: fx.Node) -> bool:
    """Tell whether a node, or what is made of the shape that it reads, is a number of elements."""
    if node.target == "numel":
        return True
    if not isinstance(node.meta["value"], torch.Size):
        return False
    # One size of a shape is a number too: `sizes` writes it out.
    return any(
        _counts_elements(user) or (isinstance(user.meta["value"], int) and user.target is not operator.getitem)
        for user in node.users
    )
