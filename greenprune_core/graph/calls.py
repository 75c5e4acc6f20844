"""Calls written in one way: layout operations take their arguments by position, whatever way forward wrote them."""

import operator
from typing import Any

import torch
from torch import fx, nn

_PARAMETERS: dict[str, tuple[tuple[str, ...], ...]] = {
    **dict.fromkeys(("cat", "concat", "concatenate"), (("tensors",), ("dim",))),
    **dict.fromkeys(("transpose", "swapaxes"), (("input",), ("dim0", "axis0"), ("dim1", "axis1"))),
    "permute": (("input",), ("dims",)),
    **dict.fromkeys(("view", "reshape", "expand"), (("input",), ("shape", "size"))),
    "unflatten": (("input",), ("dim",), ("sizes",)),
    "flatten": (("input",), ("start_dim",), ("end_dim",)),
    "chunk": (("input",), ("chunks",), ("dim",)),
    "split": (("input", "tensor"), ("split_size", "split_size_or_sections"), ("dim",)),
    "pad": (("input",), ("pad",), ("mode",), ("value",)),
}
"""The parameters in order, each with the names that it has as a function and as a method."""

_OVER_AN_AXIS = frozenset(
    [
        "cat",
        "concat",
        "concatenate",
        "chunk",
        "split",
        "unflatten",
        "squeeze",
        "unsqueeze",
        "mean",
        "sum",
        "amax",
        "amin",
        "max",
        "min",
        "std",
        "var",
    ]
)
"""What takes `dim` by numpy's name too."""

_PARTS = ("values", "indices")
"""Of what a maximum along an axis gives."""


def write_by_position(traced: fx.GraphModule) -> None:
    """Rewrite layout operations that name their arguments, the layer that unflattens, shuffles, and named parts."""
    for node in list(traced.graph.nodes):
        if node.op == "call_module":
            _unflatten(traced, node)
        elif node.op in ("call_function", "call_method") and node.kwargs:
            name = str(getattr(node.target, "__name__", node.target))
            if name in _OVER_AN_AXIS:
                node.kwargs = {"dim" if key == "axis" else key: value for key, value in node.kwargs.items()}
            _by_position(node, _PARAMETERS.get(name, ()))
        elif node.target is getattr and node.args[1] in _PARTS:
            node.target, node.args = operator.getitem, (node.args[0], _PARTS.index(str(node.args[1])))
        _shuffle(traced, node)
    traced.graph.lint()
    traced.recompile()


def _by_position(node: fx.Node, parameters: tuple[tuple[str, ...], ...]) -> None:
    args, kwargs = list(node.args), dict(node.kwargs)
    for names in parameters[len(args) :]:
        name = next((name for name in names if name in kwargs), None)
        if name is None:
            break
        args.append(kwargs.pop(name))
    node.args, node.kwargs = tuple(args), kwargs


def _unflatten(traced: fx.GraphModule, node: fx.Node) -> None:
    """Call the method: its sizes are rewritten where channels are cut, those of a layer are not."""
    module: Any = traced.get_submodule(str(node.target))
    if type(module) is not nn.Unflatten or module._forward_hooks or module._forward_pre_hooks:
        return
    with traced.graph.inserting_before(node):
        arguments = (node.all_input_nodes[0], module.dim, tuple(module.unflattened_size))
        method = traced.graph.call_method("unflatten", arguments)
    node.replace_all_uses_with(method)
    traced.graph.erase_node(node)


def _shuffle(traced: fx.GraphModule, node: fx.Node) -> None:
    """Write a channel shuffle as the views that it is, which are followed."""
    if node.op == "call_module" and isinstance(node.target, str):
        module: Any = traced.get_submodule(node.target)
        is_shuffle = type(module) is nn.ChannelShuffle and not module._forward_hooks and not module._forward_pre_hooks
        arguments: Any = (*node.args[:1], module.groups) if is_shuffle else ()
    else:
        arguments = node.args if node.target in (torch.channel_shuffle, torch.native_channel_shuffle) else ()
    if len(arguments) != len(("images", "groups")) or node.kwargs:
        return
    with traced.graph.inserting_before(node):
        grouped = traced.graph.call_method("unflatten", (arguments[0], 1, (arguments[1], -1)))
        shuffled = traced.graph.call_method("flatten", (traced.graph.call_method("transpose", (grouped, 1, 2)), 1, 2))
    node.replace_all_uses_with(shuffled)
    traced.graph.erase_node(node)
