"""Cutting: a dense graph and a mask over its gates -> a smaller graph of plain layers."""

from torch import fx

from greenprune_core.graph.cutter import BoolArray, Cutter, Slices
from greenprune_core.graph.rewrite import rewrite_layout
from greenprune_core.graph.structure import ChannelStructure


def cut(structure: ChannelStructure, open_gates: BoolArray) -> tuple[fx.GraphModule, Slices]:
    """Cut a network down to its open gates.

    Args:
        structure: the dense graph and its gates; left as it was.
        open_gates: shape (n_gates,).

    Returns:
        The smaller network and, by name of each of its parameters and buffers, what was taken of the dense one.

    Raises:
        ConfigError: no path from the input to the output is left.
    """
    cutter = Cutter(structure, open_gates)
    cutter.close_branches()
    cutter.fold_constants()
    for node in list(cutter.copies):
        if cutter.is_alive(node):
            rewrite_layout(cutter, node)
    cutter.sweep()
    return cutter.build()
