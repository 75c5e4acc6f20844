"""Layers derived from torch's, taken back to what they are derived from.

Only torch's own layers are kept whole by tracing and are known by their kind. A class that only sets arguments is
renamed; one with more in its forward (an activation, a check of shapes) is traced into, down to a function that is
given the layer's own tensors, and becomes a layer again. A batch normalisation so follows `train()` and `eval()`, where
the function was told once for all whether it trains.
"""

import copy
import inspect
from collections import OrderedDict
from typing import Any, NamedTuple

import torch
from torch import fx, nn
from torch.nn import functional

from greenprune_core.errors import UnsupportedNetworkError
from greenprune_core.graph.tracer import TRACING_ERRORS, axes_unchecked

_NO_BEHAVIOUR = {"__init__", "reset_parameters", "__repr__", "extra_repr", "__doc__", "__module__", "__qualname__"}
_NO_BEHAVIOUR |= {"__annotations__", "__firstlineno__", "__static_attributes__", "__constants__"}


class _Call(NamedTuple):
    """A function that does what a kind of layer does when it is given the layer's own tensors and settings."""

    kind: type[nn.Module]
    parameters: tuple[str, ...]
    tensors: tuple[str, ...]
    settings: dict[str, Any]
    """Those of the function that are the layer's too, with what the function takes where they are left out."""


_CONVOLUTION = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_DEFAULTS = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
_NORM = tuple(inspect.signature(functional.batch_norm).parameters)
_CALLS: dict[Any, tuple[_Call, ...]] = {
    functional.linear: (_Call(nn.Linear, _CONVOLUTION[:3], ("weight", "bias"), {}),),
    functional.batch_norm: tuple(
        _Call(kind, _NORM, ("running_mean", "running_var", "weight", "bias"), {"eps": 1e-5})
        for kind in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    ),
    **{
        function: (_Call(kind, _CONVOLUTION, ("weight", "bias"), _DEFAULTS),)
        for function, kind in ((torch.conv1d, nn.Conv1d), (torch.conv2d, nn.Conv2d), (torch.conv3d, nn.Conv3d))
    },
}


def rename_derived_layers(network: nn.Module) -> None:
    """Give layers of a class that differs from one of torch's in how it is built only the class of torch; in place."""
    for module in network.modules():
        own, base = _until_torch(type(module))
        is_layer = base is not nn.Module and not any(True for _ in module.children())
        if own and is_layer and all(set(vars(kind)) <= _NO_BEHAVIOUR for kind in own):
            module.__class__ = base


def _until_torch(kind: type[nn.Module]) -> tuple[list[type], type]:
    """Split the line of a class: its author's part, and the class of torch that it ends in."""
    own = list(kind.__mro__)
    n_own = next(i for i, one in enumerate(own) if one.__module__.startswith("torch.nn"))
    return own[:n_own], own[n_own]


def restore_layers(traced: fx.GraphModule, network: nn.Module) -> None:
    """Put a layer in the place of each function that a derived layer calls with its own tensors.

    Args:
        traced: the graph of the network in evaluation mode; changed.
        network: what was traced; left as it was.

    Raises:
        UnsupportedNetworkError: a batch normalisation that is no layer is told by `self.training` what to do.
    """
    for node in list(traced.graph.nodes):
        for call in _CALLS.get(node.target, ()) if node.op == "call_function" else ():
            arguments = dict(zip(call.parameters, node.args, strict=False)) | dict(node.kwargs)
            name = _owner(network, call, arguments)
            if name is not None:
                _put_layer(traced, network, name, call.kind)
                with traced.graph.inserting_before(node):
                    layer = traced.graph.call_module(name, (arguments["input"],))
                node.replace_all_uses_with(layer)
                traced.graph.erase_node(node)
    for node in traced.graph.nodes:
        if node.target is functional.batch_norm:
            _check_trains_as_traced(node, network)
    traced.recompile()


def _check_trains_as_traced(node: fx.Node, network: nn.Module) -> None:
    """Refuse a function that normalises by its batch in training: traced in evaluation mode, it never would."""
    arguments = dict(zip(_NORM, node.args, strict=False)) | dict(node.kwargs)
    statistics = arguments.get("running_mean")
    if not isinstance(statistics, fx.Node) or statistics.op != "get_attr":
        return  # by the batch in evaluation mode too
    owner = str(statistics.target).rpartition(".")[0]
    if _trains(network.get_submodule(owner)):
        raise UnsupportedNetworkError(
            "a batch normalisation that follows train() is a layer, but "
            f"{owner or type(network).__name__} calls the function with tensors of its own ({node.name}); use "
            "torch.nn.BatchNorm2d or a class derived from it"
        )


def _owner(network: nn.Module, call: _Call, arguments: dict[str, Any]) -> str | None:
    """Return the name of the layer whose tensors the function is given, if it is what torch's layer would do."""
    first = arguments.get(call.tensors[0])
    if not isinstance(first, fx.Node) or first.op != "get_attr":
        return None
    name = str(first.target).rpartition(".")[0]
    module: Any = network.get_submodule(name)
    if not name or not isinstance(module, call.kind) or getattr(module, "padding_mode", "zeros") != "zeros":
        return None
    given = {part: getattr(arguments.get(part), "target", None) for part in call.tensors}
    own = {part: None if getattr(module, part) is None else f"{name}.{part}" for part in call.tensors}
    settings = {key: arguments.get(key, default) for key, default in call.settings.items()}
    is_alike = all(_is_same(value, getattr(module, key)) for key, value in settings.items())
    is_layer = given == own and is_alike and ("training" not in call.parameters or _trains(module))
    return name if is_layer else None


def _is_same(given: Any, own: Any) -> bool:
    """Compare a setting; one number stands for one along each axis."""
    if isinstance(own, tuple) and isinstance(given, int):
        given = (given,) * len(own)
    return bool(tuple(given) == own) if isinstance(own, tuple) and isinstance(given, list) else bool(given == own)


def _trains(module: Any) -> bool:
    """Tell whether a layer normalises by its batch in training: traced in evaluation mode it does not say."""
    twin = copy.deepcopy(module).train()
    try:
        with axes_unchecked(twin):
            graph = fx.Tracer().trace(twin)
    except TRACING_ERRORS:  # whatever its forward does then
        return False
    calls = [node for node in graph.nodes if node.target is functional.batch_norm]
    bound = [inspect.signature(functional.batch_norm).bind(*node.args, **node.kwargs).arguments for node in calls]
    return any(arguments.get("training", False) is True for arguments in bound)


def _put_layer(traced: fx.GraphModule, network: nn.Module, name: str, kind: type[nn.Module]) -> None:
    """Let a name stand for a plain layer with the tensors and settings of the derived one."""
    owner, holder = network.get_submodule(name), traced.get_submodule(name)
    if type(holder) is kind:
        return  # at an earlier call
    layer = copy.copy(owner)
    layer.__class__ = kind
    layer._parameters, layer._buffers = dict(owner._parameters), dict(owner._buffers)
    layer._modules = dict(holder._modules)
    layer._forward_hooks, layer._forward_pre_hooks = OrderedDict(), OrderedDict()  # traced, as all around the function
    traced.set_submodule(name, layer)
