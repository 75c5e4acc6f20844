"""What a described network may call: pure functions of torch and methods of tensors, by name, and nothing else.

A description may come from a stranger, and fx turns graphs into Python source: a name that is not listed is refused.
"""

import inspect
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from greenprune_core.errors import UnsupportedNetworkError

_OPERATORS = """
add sub mul truediv floordiv mod pow neg pos getitem matmul iadd isub imul itruediv eq ne lt le gt ge and_ or_
xor invert
"""
_TORCH = """
add sub mul div true_divide matmul bmm cat concat stack chunk split flatten unflatten reshape permute transpose
unsqueeze squeeze relu sigmoid tanh mean sum amax amin clamp sqrt rsqrt exp square pow zeros_like ones_like
channel_shuffle pixel_shuffle roll narrow index_select where softmax cumsum arange tile var clone abs neg log log1p
expm1 reciprocal sin cos erf floor round nan_to_num maximum minimum log_softmax swapaxes unbind einsum addcmul addmm
baddbmm flip movedim max min norm std zeros ones full linspace concatenate sort median hstack vstack outer tensordot
prod cumprod logsumexp argmax argmin topk gather masked_fill repeat_interleave sign ceil trunc tan atan sinh cosh
logical_and logical_or logical_not isfinite isnan any all full_like tril triu eq ne lt le gt ge var_mean std_mean
clamp_min clamp_max clip lerp addcdiv floor_divide remainder
"""
_METHODS = """
add sub mul div matmul bmm view reshape flatten unflatten permute transpose contiguous size dim mean sum amax amin
chunk split unsqueeze squeeze expand expand_as repeat relu sigmoid tanh softmax clamp narrow index_select to float
type_as t masked_fill add_ sub_ mul_ div_ relu_ clone detach pow sqrt rsqrt exp square new_zeros new_ones unbind abs
neg log log1p expm1 reciprocal sin cos erf floor round nan_to_num true_divide maximum minimum log_softmax swapaxes
ndimension numel view_as reshape_as flip movedim max min norm std roll unfold sort median repeat_interleave prod
cumprod cumsum logsumexp argmax argmin topk gather sign ceil trunc clamp_min clamp_max clip tan atan sinh cosh where
eq ne lt le gt ge any all logical_not bool int long half double bfloat16 new_full var tril triu tile mm mv
"""
METHODS = frozenset(_METHODS.split())
"""Methods of tensors that a graph may call."""
ATTRIBUTES = ("shape", "dtype", "device", "ndim", "T", "mT")
"""Attributes of tensors that a graph may read."""

OWN = "write the network with layers and functions of torch"
"""The way out where a network calls something else."""


def _functions() -> dict[str, Callable[..., Any]]:
    table: dict[str, Callable[..., Any]] = {f"operator.{name}": getattr(operator, name) for name in _OPERATORS.split()}
    table |= {f"torch.{name}": getattr(torch, name) for name in _TORCH.split()}
    public = [
        name
        for name in dir(nn.functional)
        if name.islower() and not name.startswith("_") and callable(getattr(nn.functional, name))
    ]
    table |= {
        f"torch.nn.functional.{name}": getattr(nn.functional, name)
        for name in public
        if not inspect.ismodule(getattr(nn.functional, name))
    }
    return table | {"getattr": getattr}


def name_of(function: Any) -> str:
    """Return the name under which a description holds a function; an unlisted one is refused."""
    for name, known in _functions().items():
        if known is function:
            return name
    name = f"{getattr(function, '__module__', None)}.{getattr(function, '__qualname__', function)}"
    raise refuse("a graph calls only pure functions of torch", "a listed one", name, OWN)


def function_of(name: str) -> Callable[..., Any]:
    """Return the function of that name; an unlisted one is refused."""
    functions = _functions()
    if name not in functions:
        raise refuse("a graph calls only pure functions of torch", "a listed one", name, OWN)
    return functions[name]


def refuse(rule: str, wanted: Any, got: Any, way_out: str) -> UnsupportedNetworkError:
    """Make the error that tells a rule, what it admits, the offending value and the way out."""
    return UnsupportedNetworkError(f"{rule} ({wanted}), but got {got}; {way_out}")
