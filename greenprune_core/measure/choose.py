"""From a meter's name to the meter."""

from collections.abc import Callable

from greenprune_core.errors import ConfigError
from greenprune_core.measure.meter import Meter, MeterUnavailableError, NoMeter
from greenprune_core.measure.nvml import NvmlMeter, PolledPowerMeter, visible_gpu
from greenprune_core.measure.rapl import RaplMeter

METERS = ("auto", "nvml", "nvml-polled", "rapl", "none")


def choose_meter(name: str = "auto", device: str = "cpu") -> Meter:
    """Open a meter.

    Args:
        name: auto takes the first that works: nvml, then nvml-polled for `cuda`, rapl for `cpu`, else none.
        device: what is to be measured, as torch calls it in this process: cpu, cuda or cuda:1.

    Raises:
        ConfigError: no such meter.
        MeterUnavailableError: a meter asked for by name does not work here.
    """
    number = int(device.partition(":")[2] or 0)
    openers: dict[str, Callable[[], Meter]] = {
        "nvml": lambda: NvmlMeter(visible_gpu(number)),
        "nvml-polled": lambda: PolledPowerMeter(visible_gpu(number)),
        "rapl": RaplMeter,
        "none": NoMeter,
    }
    if name in openers:
        return openers[name]()
    if name != "auto":
        raise ConfigError(f"a meter is one of {', '.join(METERS)}, but got {name!r}; choose one of them")
    reasons = []
    for candidate in ("nvml", "nvml-polled") if device.startswith("cuda") else ("rapl",):
        try:
            return openers[candidate]()
        except MeterUnavailableError as error:
            reasons.append(f"{candidate}: {error}")
    return NoMeter(reasons)
