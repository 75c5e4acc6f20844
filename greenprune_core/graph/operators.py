"""What each kind of operation does to channel labels: a table from its kind to a small function.

To add a layer, write `def rule(flow, node) -> labels of its value` and enter it in `MODULES`, `FUNCTIONS` or `METHODS`
(a class of another package in `FOREIGN_MODULES`).
A kind that is in no table keeps the channels that it reads open, so an unknown layer is never cut by mistake.
"""

import operator
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from greenprune_core.graph import layout, rules
from greenprune_core.graph.flow import Flow, Worn, keep_open, tensor_inputs, unknown

Rule = Callable[[Flow, fx.Node], Worn]


def apply_rule(flow: Flow, node: fx.Node) -> Worn:
    """Return the labels that the value of a node wears, joining and opening labels on the way."""
    if node.op == "placeholder":
        return flow.labels.always_open(len(node.meta["shape"]) - 1, "input of the network")
    if node.op == "get_attr":
        return None
    if node.op == "output":
        for source in tensor_inputs(node):
            keep_open(flow, source, "output of the network")
        return None
    if node.op == "call_module":
        module = flow.module(node)
        rule = None if module._forward_hooks or module._forward_pre_hooks else _module_rule(type(module))
    else:
        rule = (FUNCTIONS if node.op == "call_function" else METHODS).get(node.target)
    return (rule or unknown)(flow, node)


def _module_rule(kind: type[nn.Module]) -> Rule | None:
    return MODULES.get(kind) or FOREIGN_MODULES.get(f"{kind.__module__}.{kind.__qualname__}")


def _named(source: Any, rule: Rule, names: str) -> Iterable[tuple[Any, Rule]]:
    return ((getattr(source, name), rule) for name in names.split() if hasattr(source, name))


_MODULE_NAMES: tuple[tuple[Rule, str], ...] = (
    (rules.passes, "ReLU ReLU6 GELU SiLU Mish Hardswish Hardsigmoid Sigmoid Tanh Hardtanh LeakyReLU ELU CELU SELU"),
    (rules.passes, "Softplus Softsign LogSigmoid Hardshrink Softshrink Tanhshrink Threshold Identity"),
    (rules.passes, "Dropout Dropout1d Dropout2d Dropout3d AlphaDropout FeatureAlphaDropout"),
    (rules.per_channel, "BatchNorm1d BatchNorm2d BatchNorm3d SyncBatchNorm PReLU"),
    (rules.per_channel, "InstanceNorm1d InstanceNorm2d InstanceNorm3d"),
    (rules.pools, "MaxPool1d MaxPool2d MaxPool3d AvgPool1d AvgPool2d AvgPool3d LPPool1d LPPool2d LPPool3d"),
    (rules.pools, "AdaptiveAvgPool1d AdaptiveAvgPool2d AdaptiveAvgPool3d"),
    (rules.pools, "AdaptiveMaxPool1d AdaptiveMaxPool2d AdaptiveMaxPool3d"),
    (rules.pools, "Upsample UpsamplingNearest2d UpsamplingBilinear2d ZeroPad1d ZeroPad2d ZeroPad3d"),
    (rules.pools, "ReflectionPad1d ReflectionPad2d ReflectionPad3d CircularPad1d CircularPad2d CircularPad3d"),
    (rules.pools, "ReplicationPad1d ReplicationPad2d ReplicationPad3d ConstantPad1d ConstantPad2d ConstantPad3d"),
    (rules.convolution, "Conv1d Conv2d Conv3d ConvTranspose1d ConvTranspose2d ConvTranspose3d"),
    (rules.linear, "Linear"),
    (rules.mixes, "LayerNorm GroupNorm RMSNorm LocalResponseNorm Softmax Softmax2d LogSoftmax Softmin"),
    (layout.reshapes, "Flatten Unflatten"),
    (layout.halves, "GLU"),
)
_TENSOR_NAMES: tuple[tuple[Rule, str], ...] = (
    (rules.passes, "relu sigmoid tanh clone exp expm1 log log1p abs sqrt rsqrt clamp neg square pow reciprocal"),
    (rules.passes, "sin cos erf floor round nan_to_num sign ceil trunc tan atan sinh cosh clamp_min clamp_max clip"),
    (rules.passes, "zeros_like ones_like"),
    (rules.combines, "add sub mul div true_divide maximum minimum eq ne lt le gt ge"),
    (rules.chooses, "where"),
    (rules.largest, "max min"),
    (rules.joins, "cat concat concatenate"),
    (rules.mixes, "softmax log_softmax"),
    (layout.reshapes, "flatten reshape unsqueeze squeeze unflatten"),
    (layout.permutes, "permute transpose swapaxes"),
    (layout.splits, "chunk split"),
    (layout.reduces, "mean sum amax amin std var"),
)
_FUNCTIONAL_NAMES: tuple[tuple[Rule, str], ...] = (
    (rules.passes, "relu relu6 gelu silu mish hardswish hardsigmoid sigmoid tanh leaky_relu elu celu selu"),
    (rules.passes, "softplus softsign logsigmoid hardtanh hardshrink softshrink tanhshrink threshold"),
    (rules.passes, "dropout dropout1d dropout2d dropout3d"),
    (rules.pools, "max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d"),
    (rules.pools, "adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool2d interpolate"),
    (rules.pads, "pad"),
    (rules.mixes, "layer_norm group_norm softmax log_softmax"),
    (layout.halves, "glu"),
)
_METHOD_NAMES: tuple[tuple[Rule, str], ...] = (
    *_TENSOR_NAMES,
    (rules.passes, "contiguous detach to float"),
    (rules.combines, "expand_as"),
    (rules.shape_query, "size dim ndimension numel"),
    (layout.reshapes, "view"),
    (layout.expands, "expand"),
)
_OPERATOR_NAMES: tuple[tuple[Rule, str], ...] = (
    (rules.combines, "add sub mul truediv eq ne lt le gt ge"),
    (rules.passes, "neg pow"),
    (layout.takes, "getitem"),
)

# By name: importing torchvision for one class loads torch._dynamo too, 4 of the 8 s that a worker takes to start.
FOREIGN_MODULES: dict[str, Rule] = {"torchvision.ops.stochastic_depth.StochasticDepth": rules.passes}
MODULES: dict[Any, Rule] = {
    **{kind: rule for rule, names in _MODULE_NAMES for kind, rule in _named(nn, rule, names)},
}
FUNCTIONS: dict[Any, Rule] = {
    getattr: rules.shape_query,
    functional.scaled_dot_product_attention: rules.attends,
    **{kind: rule for rule, names in _TENSOR_NAMES for kind, rule in _named(torch, rule, names)},
    **{kind: rule for rule, names in _FUNCTIONAL_NAMES for kind, rule in _named(functional, rule, names)},
    **{kind: rule for rule, names in _OPERATOR_NAMES for kind, rule in _named(operator, rule, names)},
}
METHODS: dict[Any, Rule] = {name: rule for rule, names in _METHOD_NAMES for name in names.split()}
