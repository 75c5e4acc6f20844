"""Attention written out, so that its heads can be gated and cut.

torch.nn.MultiheadAttention keeps its three projections in one parameter and its heads in a loop of C++. In the traced
copy it becomes four linear layers around `scaled_dot_product_attention`, with the same weights and, up to rounding, the
same outputs. Parameter names change: `in_proj_weight` becomes `query.weight`, `key.weight` and `value.weight`, and
`out_proj` becomes `out`.
"""

import operator
from typing import Any

from torch import fx, nn
from torch.nn import functional

HEADS = "heads"
"""Mark (in `node.meta`) of the nodes that hold whole heads, on which all channels of a head share a gate."""

_N_AXES = 3
"""Of what attention reads: images, tokens and channels."""


def write_out_attention(traced: fx.GraphModule) -> None:
    """Replace the attention layers of a graph by linear layers where nothing else than their output is used.

    Layers with masks, dropout, extra key biases, other key sizes, the batch on the second axis or none (with two axes
    torch takes the images for the tokens of one) stay as they are, and are left dense.

    Args:
        traced: a graph with shapes; changed, its new nodes without shapes.
    """
    layers = {name: m for name, m in traced.named_modules() if type(m) is nn.MultiheadAttention}
    calls: dict[str, list[fx.Node]] = {}
    for node in traced.graph.nodes:
        if node.op == "call_module" and node.target in layers:
            calls.setdefault(str(node.target), []).append(node)
    for name, nodes in calls.items():
        if all(_is_plain(node, layers[name]) for node in nodes):
            traced.set_submodule(name, _linear_layers(layers[name]))
            for node in nodes:
                _write_out(traced.graph, node, layers[name].head_dim)
    traced.graph.lint()
    traced.recompile()


def _is_plain(node: fx.Node, module: nn.MultiheadAttention) -> bool:
    extras = {name for name, value in node.kwargs.items() if value is not None and name not in ("need_weights",)}
    uses_output_only = all(
        (user.target is operator.getitem and user.args[1] == 0) or not user.users for user in node.users
    )
    return (
        len(node.args) == 3
        and all(len(source.meta["shape"]) == _N_AXES for source in node.args if isinstance(source, fx.Node))
        and not extras
        and uses_output_only
        and module.batch_first
        and module._qkv_same_embed_dim
        and module.dropout == 0
        and module.bias_k is None
        and not module.add_zero_attn
        and not module._forward_hooks
        and not module._forward_pre_hooks
    )


def _write_out(graph: fx.Graph, node: fx.Node, head_dim: int) -> None:
    name = str(node.target)
    with graph.inserting_before(node):
        heads: list[fx.Node] = []
        for part, source in zip(("query", "key", "value"), node.args, strict=True):
            projected = graph.call_module(f"{name}.{part}", (source,))
            split = graph.call_method("unflatten", (projected, -1, (-1, head_dim)))
            heads.append(graph.call_method("transpose", (split, 1, 2)))
            split.meta[HEADS] = heads[-1].meta[HEADS] = True
        mixed = graph.call_function(functional.scaled_dot_product_attention, tuple(heads))
        joined = graph.call_method("transpose", (mixed, 1, 2))
        mixed.meta[HEADS] = joined.meta[HEADS] = True
        flat = graph.call_method("flatten", (joined, 2))
        out = graph.call_module(f"{name}.out", (flat,))
    for user in list(node.users):
        user.replace_all_uses_with(out)
        graph.erase_node(user)
    graph.erase_node(node)


def _linear_layers(module: nn.MultiheadAttention) -> nn.Module:
    layers = nn.Module()
    size, has_bias = module.embed_dim, module.in_proj_bias is not None
    for i, part in enumerate(("query", "key", "value")):
        layers.add_module(
            part, _linear(module.in_proj_weight, module.in_proj_bias if has_bias else None, i * size, size)
        )
    layers.add_module("out", _linear(module.out_proj.weight, module.out_proj.bias, 0, size))
    return layers.train(module.training)


def _linear(weight: Any, bias: Any, start: int, size: int) -> nn.Linear:
    layer = nn.Linear(size, size, bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach()[start : start + size].clone(), weight.requires_grad)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach()[start : start + size].clone(), bias.requires_grad)
    return layer
