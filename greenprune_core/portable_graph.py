"""A network as plain data: the graph of its layers in JSON, read back without unpickling and without its code.

What is described: an `fx.GraphModule` whose layers are torch's own. Each layer is stored by its class name and
constructor arguments, each node of the graph by operation, target and arguments; weights are kept elsewhere.

A description may come from a stranger, and fx turns graphs into Python source. So reading admits only names from fixed
lists (layers of torch.nn, pure functions of torch, methods of tensors) and only identifiers as names.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx, nn

from greenprune_core.errors import UnsupportedNetworkError
from greenprune_core.pure_functions import ATTRIBUTES, METHODS, OWN, function_of, name_of, refuse

FORMAT = 1
"""Version of the description."""

_ARGUMENT_FROM: dict[str, Callable[[nn.Module], Any]] = {
    # constructor arguments that a layer keeps under another name or in another form
    "bias": lambda layer: _has_one(getattr(layer, "bias", getattr(layer, "in_proj_bias", None))),
    "add_bias_kv": lambda layer: getattr(layer, "bias_k", None) is not None,
    "padding": lambda layer: _as_plain(layer.padding),
    "output_padding": lambda layer: _as_plain(layer.output_padding),
}


def describe(network: fx.GraphModule) -> dict[str, Any]:
    """Return the description of a network, fit for JSON.

    Raises:
        UnsupportedNetworkError: a layer, function or argument that the description cannot hold.
    """
    called = {str(node.target) for node in network.graph.nodes if node.op == "call_module"}
    tensors = {str(node.target) for node in network.graph.nodes if node.op == "get_attr"}
    return {
        "format": FORMAT,
        "layers": {name: _describe_layer(name, network.get_submodule(name)) for name in sorted(called)},
        "tensors": {name: _describe_tensor(network, name) for name in sorted(tensors)},
        "shared": _shared_parameters(network),
        "nodes": [_describe_node(node) for node in network.graph.nodes],
    }


def rebuild(description: Mapping[str, Any], weights: Mapping[str, torch.Tensor]) -> fx.GraphModule:
    """Make the network again, in evaluation mode, with its weights.

    Args:
        description: what `describe` returned.
        weights: every parameter and buffer by its name.

    Raises:
        UnsupportedNetworkError: another format, a name that is not admitted, or weights that do not fit.
    """
    if description.get("format") != FORMAT:
        raise refuse(
            "a network's description has format", FORMAT, description.get("format"), "install the version that wrote it"
        )
    root = nn.Module()
    with torch.random.fork_rng(devices=()):  # layers draw weights that are thrown away
        for name, layer in description["layers"].items():
            _place(root, name, _rebuild_layer(layer))
    for name, kind in description["tensors"].items():
        _place_tensor(root, name, kind, weights)
    graph = fx.Graph()
    nodes: dict[str, fx.Node] = {}
    for node in description["nodes"]:
        nodes[_identifier(node["name"])] = _rebuild_node(graph, node, nodes)
    network = fx.GraphModule(root, graph, class_name="SubNetwork")
    try:
        network.load_state_dict(dict(weights), strict=True, assign=True)  # in the weights' own type, not float32
    except RuntimeError as error:
        raise UnsupportedNetworkError(
            f"the weights must fit the description, but {error}; save the network again"
        ) from error
    _share_parameters(network, description.get("shared", {}))
    return network.eval()


def _shared_parameters(network: nn.Module) -> dict[str, str]:
    """Map the further names of every parameter that has several (tied weights) to the first one."""
    first: dict[int, str] = {}
    named = network.named_parameters(remove_duplicate=False)
    return {name: known for name, tensor in named if (known := first.setdefault(id(tensor), name)) != name}


def _share_parameters(network: nn.Module, shared: Mapping[str, str]) -> None:
    known = dict(network.named_parameters(remove_duplicate=False))
    for name, other in shared.items():
        if name not in known or other not in known or known[name].shape != known[other].shape:
            raise refuse("two parameters of one shape share their values", name, other, "save the network again")
        owner, _, leaf = name.rpartition(".")
        network.get_submodule(owner).register_parameter(leaf, known[other])


def _describe_layer(name: str, layer: nn.Module) -> dict[str, Any]:
    kind = type(layer).__name__
    if getattr(nn, kind, None) is not type(layer):
        raise refuse(
            "a portable network is made of layers of torch.nn", "torch.nn", f"{name}: {type(layer)}", "trace into it"
        )
    arguments = {}
    for argument, parameter in _constructor_of(layer).items():
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue  # nn.Identity takes anything and keeps nothing
        if argument in _ARGUMENT_FROM:
            arguments[argument] = _ARGUMENT_FROM[argument](layer)
        elif hasattr(layer, argument):
            arguments[argument] = _as_plain(getattr(layer, argument))
        elif parameter.default is parameter.empty:
            raise refuse("a layer keeps its constructor's arguments", argument, f"{name}: {layer}", "use another layer")
    return {"kind": kind, "arguments": arguments}


def _constructor_of(layer: nn.Module) -> dict[str, inspect.Parameter]:
    """Return the arguments that a layer is made with, but for its device and type."""
    left_out = {"self", "device", "dtype"}
    is_recurrent = isinstance(layer, nn.RNNBase)
    parameters = inspect.signature(nn.RNNBase.__init__ if is_recurrent else type(layer).__init__).parameters
    own: dict[str, inspect.Parameter] = {}
    if is_recurrent:  # each kind hands on what it is given, and refuses what belongs to another
        left_out |= {"mode"} if isinstance(layer, nn.LSTM) else {"mode", "proj_size"}
    if isinstance(layer, nn.RNN):
        own["nonlinearity"] = inspect.Parameter("nonlinearity", inspect.Parameter.KEYWORD_ONLY)
    return {name: parameter for name, parameter in parameters.items() if name not in left_out} | own


def _has_one(bias: Any) -> bool:
    """Tell whether a layer has a bias: most keep the tensor or None, cells of recurrent layers what they were told."""
    return bias if isinstance(bias, bool) else bias is not None


def _rebuild_layer(layer: Mapping[str, Any]) -> nn.Module:
    kind = getattr(nn, layer["kind"], None) if layer["kind"].isidentifier() else None
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise refuse("a portable network is made of layers of torch.nn", "torch.nn", layer["kind"], "save it again")
    arguments = {name: tuple(value) if isinstance(value, list) else value for name, value in layer["arguments"].items()}
    return kind(**arguments)


def _describe_tensor(network: nn.Module, name: str) -> str:
    owner, _, leaf = name.rpartition(".")
    module = network.get_submodule(owner)
    if leaf in module._parameters:
        return "parameter"
    if leaf in module._buffers and leaf not in module._non_persistent_buffers_set:
        return "buffer"
    raise refuse(
        "a tensor in the graph is a parameter or a stored buffer", "one of them", name, "register it as a buffer"
    )


def _describe_node(node: fx.Node) -> dict[str, Any]:
    target = node.target
    return {
        "name": node.name,
        "op": node.op,
        "target": target if isinstance(target, str) else name_of(target),
        "args": [_encode(value) for value in node.args],
        "kwargs": {key: _encode(value) for key, value in node.kwargs.items()},
    }


def _rebuild_node(graph: fx.Graph, node: Mapping[str, Any], nodes: Mapping[str, fx.Node]) -> fx.Node:
    operation, target = node["op"], node["target"]
    args = tuple(_decode(value, nodes) for value in node["args"])
    kwargs = {_identifier(key): _decode(value, nodes) for key, value in node["kwargs"].items()}
    if operation == "call_function":
        target = function_of(target)
        if target is getattr and (len(args) != 2 or args[1] not in ATTRIBUTES):
            raise refuse("a graph reads only shapes of tensors", ATTRIBUTES, args[1:], "save the network again")
    elif operation == "call_method":
        if target not in METHODS:
            raise refuse("a graph calls only pure methods of tensors", "a listed one", target, OWN)
    elif operation in ("call_module", "get_attr", "placeholder", "output"):
        for part in target.split("."):
            _identifier(f"_{part.replace('-', '_')}")  # fx writes a layer's name with a dash as a quoted text
    else:
        raise refuse(
            "a node is a call, an attribute, an input or the output", "one of them", operation, "save it again"
        )
    return graph.create_node(operation, target, args, kwargs, name=node["name"])


def _encode(value: Any) -> Any:
    """Nested arguments as JSON: plain values stand for themselves, the rest is an object with one key."""
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if isinstance(value, torch.Size | tuple):
        return {"tuple": [_encode(item) for item in value]}
    if isinstance(value, list):
        return [_encode(item) for item in value]
    if isinstance(value, slice):
        return {"slice": [_encode(value.start), _encode(value.stop), _encode(value.step)]}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if value is Ellipsis:
        return {"ellipsis": True}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise refuse(
        "an argument in the graph is a number, a text or a node", "one of them", repr(value), "trace it otherwise"
    )


def _decode(value: Any, nodes: Mapping[str, fx.Node]) -> Any:
    if isinstance(value, list):
        return [_decode(item, nodes) for item in value]
    if not isinstance(value, dict):
        return value
    (kind, inner), *_ = value.items()
    if kind == "node":
        return nodes[inner]
    if kind == "tuple":
        return tuple(_decode(item, nodes) for item in inner)
    if kind == "slice":
        return slice(*(_decode(item, nodes) for item in inner))
    if kind == "dtype" and isinstance(getattr(torch, inner, None), torch.dtype):
        return getattr(torch, inner)
    if kind == "ellipsis":
        return Ellipsis
    raise refuse("an argument in the graph is a number, a text or a node", "one of them", value, "save it again")


def _place(root: nn.Module, name: str, module: nn.Module) -> None:
    *path, leaf = name.split(".")
    for part in path:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    root.add_module(leaf, module)


def _place_tensor(root: nn.Module, name: str, kind: str, weights: Mapping[str, torch.Tensor]) -> None:
    if name not in weights:
        raise refuse("every tensor of the graph has its weights", name, "none", "save the network again")
    *path, leaf = name.split(".")
    for part in path:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    value = weights[name].clone()
    if kind == "parameter":
        root.register_parameter(leaf, nn.Parameter(value, value.is_floating_point()))
    else:
        root.register_buffer(leaf, value)


def _identifier(name: str) -> str:
    if not name.isidentifier():
        raise refuse("a name in the graph is an identifier", "letters, digits and _", name, "save the network again")
    return name


def _as_plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_as_plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise refuse("a layer's argument is a number or a text", "one of them", repr(value), "use another layer")
