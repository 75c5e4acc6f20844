"""Smaller layers: a copy of a layer with the kept channels of its parameters and buffers."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from greenprune_core.graph.labels import along

BoolArray = NDArray[np.bool_]
Pairs = tuple[tuple[int, Tensor], ...]
"""(axis, kept positions) to take from a tensor, one after the other."""

_Plan = tuple[dict[str, Pairs], dict[str, int]]


def resize(
    module: nn.Module, inputs: BoolArray | None, outputs: BoolArray | None
) -> tuple[nn.Module, dict[str, Pairs]]:
    """Copy a layer for the channels that stay.

    Args:
        module: a layer; left as it was.
        inputs: whether each channel of its input stays, broadcastable to the input without the batch axis.
        outputs: the same for its output.

    Returns:
        The smaller layer, and for each of its parameters and buffers what was taken.
    """
    plan = _PLANS.get(type(module))
    tensors: dict[str, Pairs] = {}
    sizes: dict[str, int] = {}
    # Where nothing is closed there need not be an axis of channels: such layouts are left whole.
    if plan is not None and inputs is not None and outputs is not None and not (inputs.all() and outputs.all()):
        tensors, sizes = plan(module, inputs, outputs)
    if not tensors:
        return copy.deepcopy(module), dict.fromkeys(module.state_dict(), ())
    smaller = copy.copy(module)
    smaller._parameters = dict(module._parameters)
    smaller._buffers = dict(module._buffers)
    pairs = {}
    for name in module.state_dict():
        pairs[name] = tensors.get(name, ())
        part = getattr(module, name).detach()
        for axis, kept in pairs[name]:
            part = part.index_select(axis, kept.to(part.device))
        if name in module._parameters:
            smaller._parameters[name] = nn.Parameter(part.clone(), requires_grad=getattr(module, name).requires_grad)
        else:
            smaller._buffers[name] = part.clone()
    for name, size in sizes.items():
        setattr(smaller, name, size)
    return smaller, pairs


def kept_positions(array: BoolArray, axis: int, size: int) -> Tensor:
    """Return the kept positions along one axis (0 is the first after the batch), int64."""
    line = along(array.astype(np.int64), axis, size)
    assert line is not None, "channels vary along one axis where a layer has a slice per channel"
    return torch.from_numpy(np.flatnonzero(line))


def _convolution(module: Any, inputs: BoolArray, outputs: BoolArray) -> _Plan:
    kept_in = kept_positions(inputs, 0, module.in_channels)
    kept_out = kept_positions(outputs, 0, module.out_channels)
    if len(kept_in) == module.in_channels and len(kept_out) == module.out_channels:
        return {}, {}
    first, second = (kept_in, kept_out) if module.transposed else (kept_out, kept_in)
    sizes = {"in_channels": len(kept_in), "out_channels": len(kept_out)}
    if module.groups > 1:
        # Groups stay or go as a whole, so only the leading axis of the weight changes.
        sizes["groups"] = module.groups * len(kept_in) // module.in_channels
        return {"weight": ((0, first),), "bias": ((0, kept_out),)}, sizes
    return {"weight": ((0, first), (1, second)), "bias": ((0, kept_out),)}, sizes


def _linear(module: Any, inputs: BoolArray, outputs: BoolArray) -> _Plan:
    kept_in = kept_positions(inputs, inputs.ndim - 1, module.in_features)
    kept_out = kept_positions(outputs, outputs.ndim - 1, module.out_features)
    if len(kept_in) == module.in_features and len(kept_out) == module.out_features:
        return {}, {}
    sizes = {"in_features": len(kept_in), "out_features": len(kept_out)}
    return {"weight": ((0, kept_out), (1, kept_in)), "bias": ((0, kept_out),)}, sizes


def _per_channel(module: Any, inputs: BoolArray, outputs: BoolArray) -> _Plan:
    name = "num_features" if hasattr(module, "num_features") else "num_parameters"
    size = getattr(module, name)
    if size == 1 and name == "num_parameters":
        return {}, {}
    kept = kept_positions(inputs, 0, size)
    if len(kept) == size:
        return {}, {}
    return dict.fromkeys(("weight", "bias", "running_mean", "running_var"), ((0, kept),)), {name: len(kept)}


_PLANS: dict[type[nn.Module], Callable[[Any, BoolArray, BoolArray], _Plan]] = {
    nn.Linear: _linear,
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), _convolution),
    **dict.fromkeys((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), _convolution),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm), _per_channel),
    **dict.fromkeys((nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d, nn.PReLU), _per_channel),
}
