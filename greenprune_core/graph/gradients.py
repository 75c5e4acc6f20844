"""Parts of forward that run under `torch.no_grad()`, as a frozen backbone does, written as values that are detached.

A graph holds operations and not what they ran under: without this, what a network does not train would be trained.
"""

import operator

import torch
from torch import fx

_MARK = "runs_without_gradients"


def mark_without_gradients(node: fx.Node) -> None:
    """Note on a node that gradients are off where forward runs it."""
    node.meta[_MARK] = True


def runs_without_gradients(traced: fx.GraphModule) -> bool:
    """Tell whether any part of a graph does."""
    return any(_MARK in node.meta for node in traced.graph.nodes)


def detach_results(traced: fx.GraphModule) -> None:
    """Detach what the parts without gradients hand on to the others; in place, the graph has shapes."""
    for node in list(traced.graph.nodes):
        if node.target is operator.getitem and _MARK in getattr(node.args[0], "meta", ()):
            node.meta[_MARK] = True  # a part of a tuple, whoever takes it
        readers = [user for user in node.users if _MARK not in user.meta]
        is_result = _MARK in node.meta and node.op.startswith("call_") and isinstance(node.meta["shape"], torch.Size)
        if is_result and readers:
            with traced.graph.inserting_after(node):
                detached = traced.graph.call_method("detach", (node,))
            for reader in readers:
                reader.replace_input_with(node, detached)
    traced.graph.lint()
    traced.recompile()
