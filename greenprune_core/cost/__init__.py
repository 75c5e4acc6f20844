"""Cost of one inference: counted, priced with a device profile, and expected under gates (differentiable).

Names load at first use, so that a profile can be read without torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from greenprune_core.cost.count import Cost, OperatorCost, count_cost
    from greenprune_core.cost.energy import Energy, estimate_energy, estimate_latency
    from greenprune_core.cost.expected import ExpectedCost
    from greenprune_core.cost.largest import LargestShare
    from greenprune_core.cost.profile import DeviceProfile, load_profile, pricing_profile, shipped_profiles
    from greenprune_core.cost.training import TrainingPart, estimate_training_energy, training_macs

__all__ = [
    "Cost",
    "DeviceProfile",
    "Energy",
    "ExpectedCost",
    "LargestShare",
    "OperatorCost",
    "TrainingPart",
    "count_cost",
    "estimate_energy",
    "estimate_latency",
    "estimate_training_energy",
    "load_profile",
    "pricing_profile",
    "shipped_profiles",
    "training_macs",
]

_HOME = {
    "count": ("Cost", "OperatorCost", "count_cost"),
    "energy": ("Energy", "estimate_energy", "estimate_latency"),
    "expected": ("ExpectedCost",),
    "largest": ("LargestShare",),
    "profile": ("DeviceProfile", "load_profile", "pricing_profile", "shipped_profiles"),
    "training": ("TrainingPart", "estimate_training_energy", "training_macs"),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOME.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
