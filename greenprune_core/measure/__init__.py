"""Meters, and the measurement of joules and seconds per inference. Names load at first use: meters need no torch."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from greenprune_core.measure.choose import METERS, choose_meter
    from greenprune_core.measure.estimate import Estimate, estimate_median
    from greenprune_core.measure.inference import Effort, Measurement, measure_idle, measure_inference
    from greenprune_core.measure.meter import Meter, MeterUnavailableError, NoMeter, ReplayMeter

__all__ = [
    "METERS",
    "Effort",
    "Estimate",
    "Measurement",
    "Meter",
    "MeterUnavailableError",
    "NoMeter",
    "ReplayMeter",
    "choose_meter",
    "estimate_median",
    "measure_idle",
    "measure_inference",
]

_HOME = {
    "choose": ("METERS", "choose_meter"),
    "estimate": ("Estimate", "estimate_median"),
    "inference": ("Effort", "Measurement", "measure_idle", "measure_inference"),
    "meter": ("Meter", "MeterUnavailableError", "NoMeter", "ReplayMeter"),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOME.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
