"""A network as a graph: tracing, coupled channels, residual branches, and the structure that costs are counted on."""

from greenprune_core.graph.branches import Branch, find_branches
from greenprune_core.graph.coupling import Coupling, couple
from greenprune_core.graph.structure import ChannelStructure, NodeChannels, build_structure, on_copy
from greenprune_core.graph.trace import trace

__all__ = [
    "Branch",
    "ChannelStructure",
    "Coupling",
    "NodeChannels",
    "build_structure",
    "couple",
    "find_branches",
    "on_copy",
    "trace",
]
