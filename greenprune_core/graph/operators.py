"""What each kind of operation does to channel labels: a table from its kind to a small function.

To add a layer, write `def rule(flow, node) -> labels of its value` and enter it in `MODULES`, `FUNCTIONS` or `METHODS`.
A kind that is in no table keeps the channels that it reads open, so an unknown layer is never cut by mistake.
"""

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import fx, nn

from greenprune_core.graph import layout
from greenprune_core.graph.flow import Flow, Worn, tensor_inputs
from greenprune_core.graph.labels import LabelArray, along, varying_axes
from greenprune_core.graph.trace import ADDITIONS, is_tensor

Rule = Callable[[Flow, fx.Node], Worn]


def apply_rule(flow: Flow, node: fx.Node) -> Worn:
    """Return the labels that the value of a node wears, joining and opening labels on the way."""
    if node.op == "placeholder":
        return flow.labels.always_open(len(node.meta["shape"]) - 1, "input of the network")
    if node.op == "get_attr":
        return None
    if node.op == "output":
        for source in tensor_inputs(node):
            _keep_open(flow, source, "output of the network")
        return None
    if node.op == "call_module":
        rule = MODULES.get(type(flow.module(node)))
    else:
        rule = (FUNCTIONS if node.op == "call_function" else METHODS).get(node.target)
    return (rule or unknown)(flow, node)


def unknown(flow: Flow, node: fx.Node) -> Worn:
    """Keep all channels open that an operation outside the tables reads."""
    return _opened(flow, node, f"read by {_kind(flow, node)}, which is not in the table of operations")


def mixes(flow: Flow, node: fx.Node) -> Worn:
    """Keep the channels open that an operation mixes or normalises over (LayerNorm, softmax)."""
    return _opened(flow, node, f"{_kind(flow, node)} works across channels")


def passes(flow: Flow, node: fx.Node) -> Worn:
    """Pass on the labels of an element-wise operation with one tensor."""
    sources = tensor_inputs(node)
    if len(sources) != 1 or not is_tensor(node):
        return unknown(flow, node)
    return flow.array(sources[0])


def per_channel(flow: Flow, node: fx.Node) -> Worn:
    """Pass on the labels through a layer with one parameter per channel of axis 1 (batch normalisation)."""
    module: Any = flow.module(node)
    n_channels = getattr(module, "num_features", None) or module.num_parameters
    if n_channels == 1:
        return passes(flow, node)
    worn = passes(flow, node)
    assert isinstance(worn, np.ndarray)
    channels = along(worn, 0, n_channels)
    if channels is None:
        return unknown(flow, node)
    flow.reads(node, channels)
    return worn


def pools(flow: Flow, node: fx.Node) -> Worn:
    """Pass on the labels through an operation over the spatial axes, which are all but the first after the batch."""
    worn = passes(flow, node)
    if not is_tensor(node) or not isinstance(worn, np.ndarray) or varying_axes(worn) not in ((), (0,)):
        return unknown(flow, node)
    return worn


def convolution(flow: Flow, node: fx.Node) -> Worn:
    """Read the channels of axis 1 and make new ones; a grouped convolution couples each of its groups as a whole."""
    module: Any = flow.module(node)
    array = flow.array(node.all_input_nodes[0])
    channels = along(array, 0, module.in_channels)
    if channels is None or len(node.all_input_nodes) != 1 or array.ndim != len(module.kernel_size) + 1:
        return unknown(flow, node)
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
        return unknown(flow, node)
    flow.reads(node, channels)
    flow.consumers.append(node)
    return flow.outputs(node, (1,) * (array.ndim - 1) + (module.out_features,))


def combines(flow: Flow, node: fx.Node) -> Worn:
    """Join the labels of two tensors that are added, multiplied, ... element by element."""
    tensors = [n for n in node.all_input_nodes if is_tensor(n)]
    activations = [n for n in tensors if n.op != "get_attr"]
    if not is_tensor(node) or not activations or len(node.meta["shape"]) < 1:
        return unknown(flow, node)
    if any(n.meta["shape"][:1] != node.meta["shape"][:1] for n in activations):
        return unknown(flow, node)
    if len(activations) == 1:
        worn = flow.array(activations[0])
        for parameter in tensors:
            if parameter.op == "get_attr":
                _wear_parameter(flow, parameter, worn, len(node.meta["shape"]))
        return worn
    first, second = activations[0], activations[-1]
    left, right = _aligned(flow, first, second), _aligned(flow, second, first)
    if left.ndim != right.ndim:
        return unknown(flow, node)
    flow.labels.union(left, right)
    if node.target in ADDITIONS and len(varying_axes(left)) == len(varying_axes(right)) == 1:
        flow.labels.mark_stream(left)
    return left if left.size >= right.size else right


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
    shape = tuple(parameter.meta["shape"])
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
        return
    if cut.size == 1 and worn.size > 1:
        return
    earlier = flow.worn.get(parameter)
    if isinstance(earlier, np.ndarray):
        flow.labels.union(earlier.reshape(-1), cut.reshape(-1))
    else:
        flow.worn[parameter] = cut


def joins(flow: Flow, node: fx.Node) -> Worn:
    """Concatenate labels along an axis other than the batch."""
    parts = node.args[0] if node.args else node.kwargs["tensors"]
    axis = layout.axis_of(node, node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0))
    if axis < 1 or not isinstance(parts, (list, tuple)):
        return unknown(flow, node)
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
    full = [np.broadcast_to(a, [a.shape[i] if i == axis - 1 else n for i, n in enumerate(other)]) for a in arrays]
    return np.concatenate(full, axis=axis - 1)


def shape_query(flow: Flow, node: fx.Node) -> Worn:
    """A shape or a type is no activation."""
    return None if node.meta["shape"] is None else unknown(flow, node)


def _opened(flow: Flow, node: fx.Node, reason: str) -> Worn:
    for source in tensor_inputs(node):
        _keep_open(flow, source, reason)
    if isinstance(node.meta["shape"], list):
        return [flow.labels.always_open(max(len(shape or ()) - 1, 0), reason) for shape in node.meta["shape"]]
    if node.meta["shape"] is None:
        return None
    return flow.labels.always_open(max(len(node.meta["shape"]) - 1, 0), reason)


def _keep_open(flow: Flow, node: fx.Node, reason: str) -> None:
    worn = flow.worn.get(node)
    for array in worn if isinstance(worn, list) else [worn]:
        if array is not None:
            flow.labels.keep_open(array, reason)


def _kind(flow: Flow, node: fx.Node) -> str:
    if node.op == "call_module":
        return f"{type(flow.module(node)).__name__} {node.target}"
    return str(getattr(node.target, "__name__", node.target))


_ELEMENTWISE = (
    "ReLU ReLU6 GELU SiLU Mish Hardswish Hardsigmoid Sigmoid Tanh Hardtanh LeakyReLU ELU CELU SELU Softplus Softsign "
    "LogSigmoid Identity Dropout Dropout1d Dropout2d Dropout3d AlphaDropout FeatureAlphaDropout Hardshrink Softshrink "
    "Tanhshrink Threshold"
).split()
_PER_CHANNEL = (
    "BatchNorm1d BatchNorm2d BatchNorm3d SyncBatchNorm InstanceNorm1d InstanceNorm2d InstanceNorm3d PReLU"
).split()
_POOLS = [
    f"{kind}{n}d" for n in (1, 2, 3) for kind in ("MaxPool", "AvgPool", "LPPool", "AdaptiveAvgPool", "AdaptiveMaxPool")
    if hasattr(nn, f"{kind}{n}d")
] + ["Upsample", "UpsamplingNearest2d", "UpsamplingBilinear2d", "ZeroPad1d", "ZeroPad2d", "ZeroPad3d"]
_CONVOLUTIONS = [f"{kind}{n}d" for n in (1, 2, 3) for kind in ("Conv", "ConvTranspose")]
_MIXERS = "LayerNorm GroupNorm RMSNorm LocalResponseNorm Softmax Softmax2d LogSoftmax Softmin".split()


def _module_table() -> dict[type, Rule]:
    table: dict[type, Rule] = {nn.Linear: linear, nn.Flatten: layout.reshapes, nn.Unflatten: layout.reshapes}
    for names, rule in (
        (_ELEMENTWISE, passes),
        (_PER_CHANNEL, per_channel),
        (_POOLS, pools),
        (_CONVOLUTIONS, convolution),
        (_MIXERS, mixes),
    ):
        table.update({getattr(nn, name): rule for name in names})
    from torchvision.ops import StochasticDepth

    table[StochasticDepth] = passes
    return table


_FUNCTION_NAMES: dict[str, Rule] = {
    **dict.fromkeys("relu relu_ sigmoid sigmoid_ tanh tanh_ clone exp abs sqrt clamp clamp_ neg square".split(), passes),
    **dict.fromkeys("add sub mul div true_divide maximum minimum add_ mul_ sub_ div_".split(), combines),
    **dict.fromkeys("flatten reshape unsqueeze squeeze unflatten".split(), layout.reshapes),
    **dict.fromkeys("permute transpose movedim swapaxes".split(), layout.permutes),
    **dict.fromkeys("chunk split unbind".split(), layout.splits),
    **dict.fromkeys("mean sum amax amin".split(), layout.reduces),
    **dict.fromkeys("cat concat".split(), joins),
    **dict.fromkeys("softmax log_softmax".split(), mixes),
}
_FUNCTIONAL_NAMES: dict[str, Rule] = {
    **dict.fromkeys(
        "relu relu_ relu6 gelu silu mish hardswish hardsigmoid sigmoid tanh leaky_relu elu celu selu softplus "
        "dropout dropout2d dropout3d".split(),
        passes,
    ),
    **dict.fromkeys(
        "max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d "
        "adaptive_avg_pool3d adaptive_max_pool2d interpolate".split(),
        pools,
    ),
    **dict.fromkeys("layer_norm group_norm softmax log_softmax".split(), mixes),
}
_METHOD_NAMES: dict[str, Rule] = {
    **_FUNCTION_NAMES,
    **dict.fromkeys("contiguous detach to float".split(), passes),
    **dict.fromkeys("view view_as reshape_as".split(), layout.reshapes),
    **dict.fromkeys("size dim ndimension numel".split(), shape_query),
    "expand": layout.expands,
}


def _function_table() -> dict[Any, Rule]:
    table: dict[Any, Rule] = {
        getattr(torch, name): rule for name, rule in _FUNCTION_NAMES.items() if hasattr(torch, name)
    }
    table.update({getattr(F, name): rule for name, rule in _FUNCTIONAL_NAMES.items()})
    arithmetic = (operator.add, operator.iadd, operator.sub, operator.mul, operator.imul, operator.truediv)
    table.update(dict.fromkeys(arithmetic, combines))
    table[operator.isub] = table[operator.itruediv] = combines
    table[operator.neg] = passes
    table[operator.getitem] = layout.takes
    table[getattr] = shape_query
    return table


MODULES: dict[type, Rule] = _module_table()
FUNCTIONS: dict[Any, Rule] = _function_table()
METHODS: dict[Any, Rule] = dict(_METHOD_NAMES)
