"""One network: gate it, train it once, cut it, count it, measure it, save it.

The public names load at first use, so that a configuration can be read without torch.
"""

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from greenprune_core.config import TrialConfig
    from greenprune_core.cost import count_cost, estimate_energy, load_profile
    from greenprune_core.data import ImageData, load_data, register_data
    from greenprune_core.export import export_subnetwork
    from greenprune_core.extract import extract, verify
    from greenprune_core.fold import fold_batch_norms
    from greenprune_core.gates import GatedNetwork, attach_gates
    from greenprune_core.networks import build_network, register_network
    from greenprune_core.one_pass import OnePassResult, train_one_pass
    from greenprune_core.subnetwork import load_subnetwork, save_subnetwork

__all__ = [
    "GatedNetwork",
    "ImageData",
    "OnePassResult",
    "TrialConfig",
    "attach_gates",
    "build_network",
    "count_cost",
    "estimate_energy",
    "export_subnetwork",
    "extract",
    "fold_batch_norms",
    "load_data",
    "load_profile",
    "load_subnetwork",
    "register_data",
    "register_network",
    "save_subnetwork",
    "train_one_pass",
    "verify",
]

_HOME = {
    "config": ("TrialConfig",),
    "cost": ("count_cost", "estimate_energy", "load_profile"),
    "data": ("ImageData", "load_data", "register_data"),
    "export": ("export_subnetwork",),
    "extract": ("extract", "verify"),
    "fold": ("fold_batch_norms",),
    "gates": ("GatedNetwork", "attach_gates"),
    "networks": ("build_network", "register_network"),
    "one_pass": ("OnePassResult", "train_one_pass"),
    "subnetwork": ("load_subnetwork", "save_subnetwork"),
}


class _Package(types.ModuleType):
    """Keep a public function from being hidden by the file of its name (`extract`) once that file is loaded."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (isinstance(value, types.ModuleType) and name in __all__):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    for module, names in _HOME.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
