"""What one ATen operator does: a table from the operator to a small pure function of its tensors.

To count a new operator, write a function `(arguments, outputs) -> Work` and add it to `_WORK` below; whatever stands in
no table is still charged for the bytes that it moves and is listed under `Cost.not_counted`.

Counting rules: a multiply-accumulate is one MAC, as in the literature on CIFAR ResNets (biases are free); whatever is
no convolution, matrix product or attention counts *element operations*, about one floating-point addition each.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

aten = torch.ops.aten

Kind = Literal[
    "conv", "grouped_conv", "matmul", "attention", "norm", "pool", "elementwise", "reduce", "copy", "unknown"
]


class Work(NamedTuple):
    """Arithmetic of one call of an operator: multiply-accumulates and element operations."""

    kind: Kind
    macs: int
    element_ops: int
    n_groups: int = 1
    channels: tuple[int, int] = (0, 0)
    """Channels that are mixed, read and made; (0, 0) where none are."""


Arguments = Sequence[Any]
Formula = Callable[[Arguments, Sequence[Tensor]], Work]


def work_of(operator: torch._ops.OpOverload, arguments: Arguments, outputs: Sequence[Tensor]) -> Work | None:
    """Return the arithmetic of one call, or None for an operator that moves nothing (a view, an allocation)."""
    packet = operator.overloadpacket
    if packet in _FREE or operator.is_view:
        return None
    if packet in _WORK:
        return _WORK[packet](arguments, outputs)
    if torch.Tag.pointwise in operator.tags:
        return _elementwise(arguments, outputs)
    return Work("unknown", 0, 0)


def _convolution(arguments: Arguments, outputs: Sequence[Tensor]) -> Work:
    """(input, weight, bias, stride, padding, dilation, transposed, output_padding, groups): see aten.convolution."""
    images, weight, transposed, n_groups = arguments[0], arguments[1], arguments[6], arguments[8]
    # each value of the output (of the input, when transposed) meets one filter of shape weight.shape[1:]
    positions = images.numel() if transposed else outputs[0].numel()
    kind: Kind = "conv" if n_groups == 1 else "grouped_conv"
    channels = (images.shape[1], outputs[0].shape[1]) if n_groups == 1 else (0, 0)
    return Work(kind, positions * math.prod(weight.shape[1:]), 0, n_groups, channels)


def _product(left: Tensor, outputs: Sequence[Tensor]) -> Work:
    """[..., n, k] times [..., k, m]: every output is a sum of k products."""
    channels = (left.shape[-1], outputs[0].shape[-1] if outputs[0].dim() else 1)  # a dot product has no axes
    return Work("matmul", outputs[0].numel() * left.shape[-1], 0, channels=channels)


def _attention(arguments: Arguments, outputs: Sequence[Tensor]) -> Work:
    """Query [..., l, d], key [..., s, d], value [..., s, e]: two products and a softmax over [..., l, s]."""
    query, key, value = arguments[:3]
    scores = math.prod(query.shape[:-1]) * key.shape[-2]
    return Work("attention", scores * (query.shape[-1] + value.shape[-1]), 5 * scores)


def _elementwise(arguments: Arguments, outputs: Sequence[Tensor]) -> Work:
    return Work("elementwise", 0, _numel(outputs[:1]))


def _reduction(arguments: Arguments, outputs: Sequence[Tensor]) -> Work:
    return Work("reduce", 0, _numel(arguments[:1]))


def _pool_by_input(arguments: Arguments, outputs: Sequence[Tensor]) -> Work:
    return Work("pool", 0, _numel(arguments[:1]))


def _pool_by_window(arguments: Arguments, outputs: Sequence[Tensor]) -> Work:
    """(input, kernel_size, ...): each output looks at one window."""
    images, kernel = arguments[0], list(arguments[1])
    n_sides = images.dim() - 2 if images.dim() > 3 else len(kernel)
    window = math.prod(kernel) if len(kernel) > 1 else kernel[0] ** n_sides
    return Work("pool", 0, _numel(outputs[:1]) * window)


def _copy(arguments: Arguments, outputs: Sequence[Tensor]) -> Work:
    return Work("copy", 0, 0)


def _per_value(kind: Kind, n_ops: int) -> Formula:
    def formula(arguments: Arguments, outputs: Sequence[Tensor]) -> Work:
        return Work(kind, 0, n_ops * _numel(outputs[:1]))

    return formula


def _numel(values: Sequence[Any]) -> int:
    return sum(value.numel() for value in values if isinstance(value, Tensor))


def _table(*rows: tuple[Sequence[str], Formula]) -> dict[Any, Formula]:
    """Resolve names under torch.ops.aten; a name that this version of torch lacks is left out."""
    return {getattr(aten, name): formula for names, formula in rows for name in names if hasattr(aten, name)}


_WORK: dict[Any, Formula] = _table(
    (("convolution", "_convolution", "convolution_overrideable"), _convolution),
    (("mm", "bmm", "mv", "dot"), lambda arguments, outputs: _product(arguments[0], outputs)),
    (("addmm", "baddbmm", "addmv"), lambda arguments, outputs: _product(arguments[1], outputs)),
    (
        (
            "_scaled_dot_product_flash_attention_for_cpu",
            "_scaled_dot_product_flash_attention",
            "_scaled_dot_product_efficient_attention",
            "_scaled_dot_product_cudnn_attention",
            "_scaled_dot_product_fused_attention_overrideable",
        ),
        _attention,
    ),
    # (x - mean) * scale + bias with folded statistics: one product and one sum
    (
        (
            "native_batch_norm",
            "_native_batch_norm_legit",
            "_native_batch_norm_legit_no_training",
            "_batch_norm_with_update",
            "_batch_norm_no_update",
            "cudnn_batch_norm",
            "miopen_batch_norm",
        ),
        _per_value("norm", 2),
    ),
    # mean, variance, then as above
    (("native_layer_norm", "native_group_norm", "rms_norm", "_fused_rms_norm"), _per_value("norm", 5)),
    (("_softmax", "_log_softmax", "_safe_softmax"), _per_value("elementwise", 5)),
    (("glu", "hardswish", "hardswish_", "prelu", "_prelu_kernel", "masked_fill", "masked_fill_"), _elementwise),
    (("max_pool1d_with_indices", "max_pool2d_with_indices", "max_pool3d_with_indices"), _pool_by_window),
    (("avg_pool2d", "avg_pool3d"), _pool_by_window),
    (("_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_max_pool2d", "adaptive_max_pool3d"), _pool_by_input),
    (("mean", "sum", "amax", "amin", "max", "min", "var_mean", "var", "std", "linalg_vector_norm", "norm"), _reduction),
    (("argmax", "argmin", "any", "all", "prod"), _reduction),
    (("upsample_nearest2d",), _copy),
    (("upsample_bilinear2d", "upsample_bicubic2d"), _per_value("elementwise", 8)),
    (
        (
            "cat",
            "stack",
            "clone",
            "contiguous",
            "_to_copy",
            "copy",
            "copy_",
            "constant_pad_nd",
            "roll",
            "index",
            "repeat",
        ),
        _copy,
    ),
    (("embedding", "gather", "index_select", "flip", "pixel_shuffle", "reflection_pad2d", "replication_pad2d"), _copy),
    (("fill_", "zero_", "new_zeros", "new_ones", "new_full", "zeros", "ones", "full", "arange", "zeros_like"), _copy),
    (("channel_shuffle", "slice_scatter", "select_scatter", "index_put", "index_put_", "scatter"), _copy),
)
"""Arithmetic per operator; pointwise operators that are not here count one element operation per output value."""

ADDRESSED = {aten.index_select}
"""Operators whose third argument says where values lie, as the strides of a view do: it is no traffic of data.

A channel shuffle is a view and a copy in the dense network and this selection in the cut one, at equal cost.
"""

_FREE = {
    getattr(aten, name)
    for name in (
        *("t", "_unsafe_view", "_reshape_alias", "unsafe_split", "unsafe_split_with_sizes", "unsafe_chunk", "lift"),
        *("lift_fresh", "detach", "alias", "empty", "empty_like", "new_empty", "empty_strided", "_local_scalar_dense"),
        *("sym_size", "is_same_size", "_assert_async", "_assert_scalar", "resolve_conj", "resolve_neg"),
        "as_strided_",
    )
    if hasattr(aten, name)
}
"""Views that torch does not mark as such, and calls that touch no values."""
