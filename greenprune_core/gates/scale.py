"""Multiplying a tensor by gates that look at it, at little cost in time and memory.

Left to autograd, gates cost a step three times over: gradient times input is written out at full size before it is
summed per channel, the gradient of the pooling is written out and added at full size, and the product is kept for the
backward pass of the layer that reads it. Here the sum is taken in parts that fit a processor's cache, the tensor's
gradient is written once (`pool_channels` adds what `scale_channels` has left to it), and the product is made anew from
what is kept anyway.
"""

import math
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

_PART = 2**20
"""Elements per part of the sum: 4 MB in float32, small beside the tensors that matter and within a shared cache."""


class Deferred:
    """The gradient of a product towards the tensor that was pooled too, left for the pooling to finish."""

    def __init__(self) -> None:
        self.factors: tuple[Tensor, Tensor] | None = None

    def clear(self) -> None:
        """Forget what is left at the end of a backward pass."""
        self.factors = None


def pool_channels(x: Tensor, axis: int) -> tuple[Tensor, Deferred | None]:
    """Average over all axes but images and channels.

    Args:
        x: shape (N, ...).
        axis: channel axis, at least 1.

    Returns:
        The means, shape (N, C), and where that is possible what `scale_channels` may be given with the same tensor and
        factors that follow from these means: the tensor gets its gradient once that of the means is known.
    """
    others = [i for i in range(1, x.dim()) if i != axis]
    if x.device.type == "cpu" and len(others) > 1 and x.requires_grad and not torch.compiler.is_compiling():
        deferred = Deferred()
        means: Tensor = _Pool.apply(x, others, deferred)
        return means, deferred
    return x.mean(others) if others else x, None


def scale_channels(x: Tensor, scale: Tensor, axis: int, deferred: Deferred | None = None) -> Tensor:
    """Multiply a tensor by one factor per image and channel.

    Args:
        x: shape (N, ...).
        scale: shape (N, C) or (1, C), where C is the size of `axis`; with axis 0, shape (N, 1) or (1, 1).
        axis: channel axis, or 0 for one factor per image.
        deferred: from `pool_channels` of the same tensor, given once.
    """
    scale = scale.to(x.dtype)
    shape = [scale.shape[0], *[1] * (x.dim() - 1)]
    if axis:
        shape[axis] = scale.shape[1]
    is_summed_in_parts = x.device.type == "cpu" and scale.shape[0] == x.shape[0] and scale.requires_grad
    if is_summed_in_parts and x.dim() > 2 and not torch.compiler.is_compiling():
        product: Tensor = _Scale.apply(x, scale.reshape(shape), deferred)
        return product
    return x * scale.reshape(shape)


class _Pool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, others: list[int], deferred: Deferred) -> Tensor:
        ctx.shape, ctx.others, ctx.deferred = x.shape, others, deferred
        return x.mean(others)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        n_values = math.prod(ctx.shape[axis] for axis in ctx.others)
        for axis in ctx.others:
            gradient = gradient.unsqueeze(axis)
        gradient = gradient / n_values
        factors, ctx.deferred.factors = ctx.deferred.factors, None
        if factors is None:
            return gradient.expand(ctx.shape), None, None
        return (factors[0] * factors[1]).add_(gradient), None, None


class _Scale(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, deferred: Deferred | None) -> Tensor:
        ctx.save_for_backward(x, scale)
        ctx.deferred = deferred
        return x * scale

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, None]:
        x, scale = ctx.saved_tensors
        axes = [axis for axis in range(1, x.dim()) if scale.shape[axis] == 1]
        step = max(1, _PART // x[0].numel())
        of_scale = torch.empty_like(scale)
        for start in range(0, len(x), step):
            part = gradient[start : start + step] * x[start : start + step]
            torch.sum(part, axes, keepdim=True, out=of_scale[start : start + step])
        if ctx.deferred is not None:
            ctx.deferred.factors = (gradient, scale)
            # whoever asks for the gates' gradients alone never comes to the pooling
            torch.autograd.Variable._execution_engine.queue_callback(ctx.deferred.clear)
            return None, of_scale, None
        return gradient * scale if ctx.needs_input_grad[0] else None, of_scale, None


class _Product(NamedTuple):
    x: Tensor
    scale: Tensor


class Products:
    """Remembers, during one forward pass, which tensors were pooled and which are products.

    So that the gradient of the former is written once, and none of the latter is kept for the backward pass.
    """

    def __init__(self) -> None:
        self._made: dict[int, tuple[Any, int, _Product]] = {}
        self._pooled: dict[int, tuple[Any, Any, Deferred]] = {}
        self._is_on = False

    def note(self, product: Tensor, x: Tensor, scale: Tensor, axis: int) -> None:
        """Remember how a tensor was made."""
        if self._is_on:
            shape = [scale.shape[0], *[1] * (x.dim() - 1)]
            if axis:
                shape[axis] = scale.shape[1]
            factors = _Product(x.detach(), scale.detach().to(x.dtype).reshape(shape))
            self._made[product.data_ptr()] = (weakref.ref(product), product._version, factors)

    def note_decision(self, decision: Tensor, x: Tensor, deferred: Deferred | None) -> None:
        """Remember which pooling a decision follows from."""
        if self._is_on and deferred is not None:
            self._pooled[id(decision)] = (weakref.ref(decision), weakref.ref(x), deferred)

    def deferred_of(self, x: Tensor, decisions: Sequence[Tensor]) -> Deferred | None:
        """Return what the pooling of this tensor, from which one of the decisions follows, left for one product."""
        for decision in decisions if self._is_on else ():  # off while compiling: a compiler knows no identities
            noted = self._pooled.get(id(decision))
            # once a decision is gone another may have its identity
            if noted is not None and noted[0]() is decision and noted[1]() is x:
                return self._pooled.pop(id(decision))[2]
        return None

    @contextmanager
    def made_anew(self) -> Iterator[None]:
        """Keep factors instead of products in the graph that is built inside."""
        if not torch.is_grad_enabled() or torch.compiler.is_compiling():
            yield
            return
        self._is_on = True
        try:
            with torch.autograd.graph.saved_tensors_hooks(self._pack, _unpack):
                yield
        finally:
            self._made.clear()
            self._pooled.clear()
            self._is_on = False

    def _pack(self, tensor: Tensor) -> Tensor | _Product:
        made = self._made.get(tensor.data_ptr())
        if made is None or not _still_holds(*made, tensor):
            # never the tensor itself: an operation that keeps its own result would hold itself, and with it the network
            return tensor.detach()
        return made[2]


def _still_holds(product: Any, version: int, factors: _Product, tensor: Tensor) -> bool:
    """Tell whether a tensor at a product's address is that product, also by its values."""
    made = product()
    if made is None or made._version != version:  # another tensor may lie there, or one was added in place
        return False
    return tensor.shape == factors.x.shape


def _unpack(kept: Tensor | _Product) -> Tensor:
    return kept.x * kept.scale if isinstance(kept, _Product) else kept
