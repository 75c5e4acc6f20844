"""What a meter is: a counter of joules. Also the meter that replays a recording, and that of a machine without one."""

import math
from collections.abc import Iterable, Iterator
from typing import Protocol

from greenprune_core.errors import ConfigError


class MeterUnavailableError(ConfigError):
    """A meter that is missing, may not be read, or would not count what one network spends."""


class Meter(Protocol):
    """A counter of the joules that a device has spent."""

    source: str | None
    """What stands beside every figure made with it: nvml, rapl, nvml-polled; None if there is no meter."""
    description: str
    """What it counts, in words."""
    window_s: float
    """Shortest time over which a difference of two readings means something."""

    def read_j(self) -> float | None:
        """Return joules since some fixed moment, never falling; None (never 0.0) if there is no meter."""
        ...

    def check(self) -> None:
        """Make sure that the device is ours alone, before and after a measurement.

        Raises:
            MeterUnavailableError: other processes are on it, or the counter does not count.
        """
        ...

    def close(self) -> None:
        """Let go of the device."""
        ...


def joules_between(before_j: float | None, after_j: float | None, meter: Meter) -> float | None:
    """Return the difference of two readings; None if there is no meter.

    Raises:
        MeterUnavailableError: the counter fell, or told no number.
    """
    if before_j is None or after_j is None:
        return None
    if not before_j <= after_j < math.inf:
        raise MeterUnavailableError(
            f"a counter of joules never falls, but {meter.description} went from {before_j:g} to {after_j:g} J; "
            "measure again, or take another meter"
        )
    return after_j - before_j


class NoMeter:
    """The meter of a machine that has none: it says None.

    Args:
        reasons: why each real meter was passed over, one line each.
    """

    source: str | None = None
    window_s = 0.0

    def __init__(self, reasons: Iterable[str] = ()) -> None:
        self.reasons = tuple(reasons)
        self.description = "no energy counter" + (f" ({'; '.join(self.reasons)})" if self.reasons else "")

    def read_j(self) -> float | None:
        """Return None: no joules are known."""
        return None

    def check(self) -> None:
        """Nothing can be wrong with no meter."""

    def close(self) -> None:
        """Nothing is held."""


class ReplayMeter:
    """Replays recorded readings, one per call, so that code around meters can be tried without a device.

    Args:
        readings_j: joules in the order in which they are read.
        source: label of the meter that was recorded.
    """

    window_s = 0.0

    def __init__(self, readings_j: Iterable[float], source: str = "replay") -> None:
        self.source: str | None = source
        self.description = f"recorded readings of {source}"
        self._readings: Iterator[float] = iter(readings_j)

    def read_j(self) -> float | None:
        """Return the next recorded reading.

        Raises:
            MeterUnavailableError: the recording is over.
        """
        try:
            return next(self._readings)
        except StopIteration:
            raise MeterUnavailableError(
                "a replayed meter needs one reading per call, but got to the end of its recording; record for longer"
            ) from None

    def check(self) -> None:
        """A recording is always ours alone."""

    def close(self) -> None:
        """Nothing is held."""
