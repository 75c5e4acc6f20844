"""Multiplying a tensor by gates at little cost in time and memory.

The plain product would cost a gated step twice: autograd writes out gradient times input at full size before summing it
per channel, and it keeps the product itself for the backward pass of the layer that reads it. Here the sum is taken
in parts that fit a processor's cache, and the product is made anew from what is kept anyway.
"""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

_PART = 65_536
"""Elements per part of the sum: 256 kB, within the second-level cache of the processors at hand."""


def scale_channels(x: Tensor, scale: Tensor, axis: int) -> Tensor:
    """Multiply a tensor by one factor per image and channel.

    Args:
        x: shape (N, ...).
        scale: shape (N, C) or (1, C), where C is the size of `axis`; with axis 0, shape (N, 1) or (1, 1).
        axis: channel axis, or 0 for one factor per image.
    """
    scale = scale.to(x.dtype)
    shape = [scale.shape[0], *[1] * (x.dim() - 1)]
    if axis:
        shape[axis] = scale.shape[1]
    is_summed_in_parts = x.device.type == "cpu" and scale.shape[0] == x.shape[0] and scale.requires_grad
    if is_summed_in_parts and x.dim() > 2 and not torch.compiler.is_compiling():
        product: Tensor = _Scale.apply(x, scale.reshape(shape))
        return product
    return x * scale.reshape(shape)


class _Scale(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(x, scale)
        return x * scale

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor]:
        x, scale = ctx.saved_tensors
        axes = [axis for axis in range(1, x.dim()) if scale.shape[axis] == 1]
        step = max(1, _PART // x[0].numel())
        of_scale = torch.empty_like(scale)
        for start in range(0, len(x), step):
            part = gradient[start : start + step] * x[start : start + step]
            torch.sum(part, axes, keepdim=True, out=of_scale[start : start + step])
        return gradient * scale if ctx.needs_input_grad[0] else None, of_scale


class _Product(NamedTuple):
    x: Tensor
    scale: Tensor


class Products:
    """Remembers, during one forward pass, which tensors are products, so that none of them is kept for backward."""

    def __init__(self) -> None:
        self._made: dict[int, tuple[Any, _Product]] = {}
        self._is_on = False

    def note(self, product: Tensor, x: Tensor, scale: Tensor, axis: int) -> None:
        """Remember how a tensor was made."""
        if self._is_on:
            shape = [scale.shape[0], *[1] * (x.dim() - 1)]
            if axis:
                shape[axis] = scale.shape[1]
            factors = _Product(x.detach(), scale.detach().to(x.dtype).reshape(shape))
            self._made[product.data_ptr()] = (weakref.ref(product), factors)

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
            self._is_on = False

    def _pack(self, tensor: Tensor) -> Tensor | _Product:
        product, factors = self._made.get(tensor.data_ptr(), (None, None))
        # Once a product is gone another tensor may lie at its address.
        if product is None or product() is None or factors is None or tensor.shape != factors.x.shape:
            # never the tensor itself: an operation that keeps its own result would hold itself, and with it the network
            return tensor.detach()
        return factors


def _unpack(kept: Tensor | _Product) -> Tensor:
    return kept.x * kept.scale if isinstance(kept, _Product) else kept
