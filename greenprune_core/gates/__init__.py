"""Gates: families that decide, their placement on a graph, and the network that carries them."""

from greenprune_core.gates.attach import attach_gates
from greenprune_core.gates.families import FreeGate, HardConcreteGate, HeadGate, gate_maker
from greenprune_core.gates.network import GatedNetwork

__all__ = ["FreeGate", "GatedNetwork", "HardConcreteGate", "HeadGate", "attach_gates", "gate_maker"]
