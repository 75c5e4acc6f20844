"""Joules and seconds of one inference, measured: warm-up, windows, medians with intervals, idle power subtracted."""

import dataclasses
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from greenprune_core.errors import ConfigError
from greenprune_core.measure.estimate import FEWEST_WINDOWS, Estimate, estimate_median
from greenprune_core.measure.meter import Meter, NoMeter, joules_between

WIDE = 0.1
"""Relative width of an interval above which a figure is called uncertain."""

LONGEST_S = 3600.0
MOST_WINDOWS = 10_000

BUSY = 0.05
"""Share of the processors kept busy by others above which it is said."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Effort:
    """How long is measured."""

    min_seconds: float = 3.0
    min_windows: int = 20
    warm_up_s: float = 0.5
    idle_s: float = 2.0

    def __post_init__(self) -> None:
        if not FEWEST_WINDOWS <= self.min_windows <= MOST_WINDOWS:
            raise ConfigError(
                f"a measurement takes {FEWEST_WINDOWS} to {MOST_WINDOWS} windows, but got {self.min_windows}; "
                "20 are usual"
            )
        if not 0 < self.min_seconds <= LONGEST_S:
            raise ConfigError(
                f"a measurement takes time, up to {LONGEST_S:g} s per network, but got {self.min_seconds:g} s; "
                "3 are usual"
            )
        for name in ("warm_up_s", "idle_s"):
            seconds = getattr(self, name)
            if not 0 <= seconds <= LONGEST_S:
                raise ConfigError(f"{name} lies in [0, {LONGEST_S:g}] s, but got {seconds:g} s; leave it out")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measurement:
    """What one inference took at one batch size, per image unless said otherwise."""

    batch_size: int
    latency_s: Estimate
    """Seconds of one pass over a batch."""
    throughput_per_s: float
    """Images per second at the median latency."""
    energy_j: Estimate | None
    """Joules per image above idle; None if they were not measured."""
    energy_source: str | None
    """nvml, rapl, nvml-polled or time*power; None without energy."""
    idle_power_w: float | None
    """Power of the idle device, subtracted; None without a meter."""
    n_inferences: int
    """Images in all windows together."""
    warnings: tuple[str, ...]


def measure_inference(
    network: nn.Module,
    images: Tensor,
    *,
    meter: Meter | None = None,
    power_w: float | None = None,
    effort: Effort | None = None,
    idle_power_w: float | None = None,
) -> Measurement:
    """Measure one network on one batch, over windows of equal work.

    Args:
        network: in any mode; run in evaluation mode and put back.
        images: Tensor[N, ...] on the network's device; N is the batch size.
        meter: counts joules; None or a `NoMeter` measures time only.
        power_w: power declared by the user, to turn time into joules labelled `time*power`; not beside a meter.
        effort: how long.
        idle_power_w: from `measure_idle`; measured here if a meter is given without it.

    Raises:
        ConfigError: a power that is not positive or would be ignored, or no image.
        MeterUnavailableError: the device is not ours alone, or its counter fell.
    """
    meter, effort = meter or NoMeter(), effort or Effort()
    _check_power(power_w, meter)
    if not images.numel():
        raise ConfigError(f"a pass has at least one image, but got images of shape {list(images.shape)}; pass some")
    meter.check()
    if meter.source is not None and idle_power_w is None:
        idle_power_w = measure_idle(meter, effort.idle_s, images.device)
    others_before = _others_busy()
    windows = _run_windows(network, images, meter, effort)
    warnings = _company(others_before, _others_busy())
    meter.check()
    latency = estimate_median([window.seconds / window.n_passes for window in windows])
    energy, source, more = _energy(windows, len(images), latency, meter, idle_power_w, power_w)
    warnings += more + _wide("latency", latency)
    return Measurement(
        batch_size=len(images),
        latency_s=latency,
        throughput_per_s=len(images) / latency.median,
        energy_j=energy,
        energy_source=source,
        idle_power_w=idle_power_w,
        n_inferences=sum(window.n_passes for window in windows) * len(images),
        warnings=tuple(warnings),
    )


def measure_idle(meter: Meter, seconds: float = 2.0, device: torch.device | str = "cpu") -> float | None:
    """Return the power in watts of the device while nothing of ours runs; None without a meter.

    A GPU is taken into use first: one that holds a process's context draws tens of watts more than one that sleeps, and
    what an inference adds is what lies above that.
    """
    if torch.device(device).type == "cuda":
        torch.zeros(1, device=device)
        torch.cuda.synchronize(device)
    first, started = meter.read_j(), time.perf_counter()
    if first is None:
        return None
    time.sleep(max(seconds, meter.window_s))
    joules = joules_between(first, meter.read_j(), meter)
    assert joules is not None
    return joules / (time.perf_counter() - started)


@dataclasses.dataclass(frozen=True)
class _Window:
    seconds: float
    joules: float | None
    n_passes: int


def _run_windows(network: nn.Module, images: Tensor, meter: Meter, effort: Effort) -> list[_Window]:
    was_training = [module for module in network.modules() if module.training]
    network.eval()
    wait = waiter(images.device)
    try:
        with torch.inference_mode():
            n_passes = _passes_per_window(network, images, meter, effort, wait)
            windows: list[_Window] = []
            while len(windows) < effort.min_windows or sum(window.seconds for window in windows) < effort.min_seconds:
                windows.append(_window(network, images, meter, n_passes, wait))
    finally:
        for module in was_training:
            module.training = True
    return windows


def _passes_per_window(
    network: nn.Module, images: Tensor, meter: Meter, effort: Effort, wait: Callable[[], None]
) -> int:
    """Warm up until the time is over, and find out how many passes fill a window."""
    wanted = max(effort.min_seconds / effort.min_windows, meter.window_s)
    network(images)  # the first pass also allocates and chooses kernels
    wait()
    n_passes, spent_s, started = 0, 0.0, time.perf_counter()
    while spent_s < effort.warm_up_s or n_passes < 3:
        network(images)
        wait()
        n_passes += 1
        spent_s = time.perf_counter() - started
    return max(1, round(wanted / (spent_s / n_passes)))


def _window(network: nn.Module, images: Tensor, meter: Meter, n_passes: int, wait: Callable[[], None]) -> _Window:
    before_j, started = meter.read_j(), time.perf_counter()
    for _ in range(n_passes):
        network(images)
    wait()
    seconds, after_j = time.perf_counter() - started, meter.read_j()
    return _Window(seconds, joules_between(before_j, after_j, meter), n_passes)


def _energy(
    windows: list[_Window],
    batch_size: int,
    latency: Estimate,
    meter: Meter,
    idle_power_w: float | None,
    power_w: float | None,
) -> tuple[Estimate | None, str | None, list[str]]:
    """Joules per image with source and warnings: counted, or time times a declared power, or none."""
    if power_w is not None:
        per_image = power_w / batch_size
        scaled = [value * per_image for value in (latency.median, latency.low, latency.high)]
        return Estimate(median=scaled[0], low=scaled[1], high=scaled[2], n=latency.n), "time*power", []
    values = [
        (window.joules - (idle_power_w or 0.0) * window.seconds) / (window.n_passes * batch_size)
        for window in windows
        if window.joules is not None
    ]
    if not values:
        return None, None, []
    energy = estimate_median(values)
    if energy.median <= 0:
        return None, None, [f"joules are left out: the load drew no more than the idle device ({meter.description})"]
    return energy, meter.source, _wide("energy", energy)


def _wide(name: str, estimate: Estimate) -> list[str]:
    if estimate.relative_width <= WIDE:
        return []
    return [f"the 95 % interval of the {name} is {estimate.relative_width:.0%} wide: repeat on a quiet machine"]


def _check_power(power_w: float | None, meter: Meter) -> None:
    if power_w is not None and not 0 < power_w < float("inf"):
        raise ConfigError(f"a declared power is above 0 W, but got {power_w:g}; take it from the data sheet")
    if power_w is not None and meter.source is not None:
        raise ConfigError(
            f"a declared power stands in for a missing meter, but got {power_w:g} W beside {meter.source}; "
            "leave one of them out (--meter none)"
        )


def waiter(device: torch.device | str) -> Callable[[], None]:
    """Return what waits until a device has done all that it was given; a processor has no queue to wait for."""
    if torch.device(device).type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    return lambda: None


@dataclasses.dataclass(frozen=True)
class _Busy:
    total_s: float
    own_s: float
    at_s: float


def _others_busy(stat: Path = Path("/proc/stat")) -> _Busy | None:
    """Processor seconds spent so far by everybody and by this process; None where Linux does not tell."""
    try:
        fields = stat.read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return None
    user, nice, system, _, _, irq, softirq = (int(field) for field in fields[:7])
    own = os.times()
    ticks = os.sysconf("SC_CLK_TCK")
    return _Busy((user + nice + system + irq + softirq) / ticks, own.user + own.system, time.monotonic())


def _company(before: _Busy | None, after: _Busy | None) -> list[str]:
    if before is None or after is None:
        return []
    capacity_s = (after.at_s - before.at_s) * (os.cpu_count() or 1)
    others_s = (after.total_s - before.total_s) - (after.own_s - before.own_s)
    share = others_s / capacity_s if capacity_s > 0 else 0.0
    if share <= BUSY:
        return []
    return [f"other processes kept {share:.0%} of the processors busy: times and joules are not ours alone"]
