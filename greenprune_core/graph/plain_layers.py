"""Layers derived from torch's, taken back to what they are derived from.

Only torch's own layers are kept whole by tracing and are known by their kind. A class that only sets arguments is
renamed; a batch normalisation with more in its forward (an activation, a check of shapes) is traced into, down to a
function that was told whether it trains, and becomes a layer again, which follows `train()` and `eval()`.
"""

import copy
import inspect
from typing import Any

from torch import fx, nn
from torch.fx.proxy import TraceError
from torch.nn import functional

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_TRACING_ERRORS = (TraceError, TypeError, RuntimeError, ValueError, LookupError, AttributeError, AssertionError)
_NO_BEHAVIOUR = {"__init__", "reset_parameters", "__repr__", "extra_repr", "__doc__", "__module__", "__qualname__"}
_NO_BEHAVIOUR |= {"__annotations__", "__firstlineno__", "__static_attributes__", "__constants__"}


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


def restore_batch_norms(traced: fx.GraphModule, network: nn.Module) -> None:
    """Put a layer in the place of each batch normalisation that a derived layer calls as a function.

    Args:
        traced: the graph of the network in evaluation mode; changed.
        network: what was traced; left as it was.
    """
    for node in list(traced.graph.nodes):
        if node.op == "call_function" and node.target is functional.batch_norm:
            arguments = inspect.signature(functional.batch_norm).bind(*node.args, **node.kwargs).arguments
            name = _owner(network, arguments)
            if name is not None:
                _put_layer(traced, network, name)
                with traced.graph.inserting_before(node):
                    layer = traced.graph.call_module(name, (arguments["input"],))
                node.replace_all_uses_with(layer)
                traced.graph.erase_node(node)
    traced.recompile()


def _owner(network: nn.Module, arguments: dict[str, Any]) -> str | None:
    """Return the name of the layer whose tensors the function is given, if it is what torch's layer would do."""
    mean = arguments.get("running_mean")
    if not isinstance(mean, fx.Node) or mean.op != "get_attr":
        return None
    name = str(mean.target).rpartition(".")[0]
    module: Any = network.get_submodule(name)
    tensors = {
        part: getattr(arguments.get(part), "target", None) for part in ("running_mean", "running_var", "weight", "bias")
    }
    expected = {part: None if getattr(module, part, None) is None else f"{name}.{part}" for part in tensors}
    is_same = isinstance(module, _NORMS) and tensors == expected and arguments.get("eps", 1e-5) == module.eps
    return name if name and is_same and _trains(module) else None


def _trains(module: Any) -> bool:
    """Tell whether a layer normalises by its batch in training: traced in evaluation mode it does not say."""
    try:
        graph = fx.Tracer().trace(copy.deepcopy(module).train())
    except _TRACING_ERRORS:  # whatever its forward does then
        return False
    calls = [node for node in graph.nodes if node.target is functional.batch_norm]
    bound = [inspect.signature(functional.batch_norm).bind(*node.args, **node.kwargs).arguments for node in calls]
    return [arguments.get("training", False) for arguments in bound] == [True]


def _put_layer(traced: fx.GraphModule, network: nn.Module, name: str) -> None:
    owner: Any = network.get_submodule(name)
    kind: Any = next(norm for norm in _NORMS if isinstance(owner, norm))
    if type(traced.get_submodule(name)) is kind:
        return  # at an earlier call
    layer = kind(owner.num_features, owner.eps, owner.momentum, owner.affine, owner.track_running_stats, device="meta")
    layer._parameters, layer._buffers = dict(owner._parameters), dict(owner._buffers)
    layer._modules = dict(traced.get_submodule(name)._modules)
    traced.set_submodule(name, layer.train(owner.training))
