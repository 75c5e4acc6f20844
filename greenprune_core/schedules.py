"""Schedules: functions of training progress in [0, 1], so that the same one serves 9 epochs or 160.

A schedule is a plain callable `progress -> value`; the functions here build them and compose them.
"""

import math
from collections.abc import Callable

from greenprune_core.config import LearningRateShape, PhaseConfig, RampShape
from greenprune_core.errors import ConfigError

Schedule = Callable[[float], float]

_SHAPES: dict[str, Schedule] = {
    "constant": lambda share: 1.0,
    "linear": lambda share: share,
    "cosine": lambda share: 0.5 - 0.5 * math.cos(math.pi * share),
    # Zhu & Gupta 2017 (arXiv 1710.01878): fast while there is excess, slow near the target
    "cubic": lambda share: 1.0 - (1.0 - share) ** 3,
}


def constant(value: float) -> Schedule:
    """Return the schedule that is `value` everywhere."""
    return lambda progress: value


def ramp(start: float, end: float, shape: RampShape = "linear", low: float = 0.0, high: float = 1.0) -> Schedule:
    """Go from `low` (up to progress `start`) to `high` (from progress `end` on).

    Args:
        start: progress at which the ramp begins, in [0, 1].
        end: progress at which it ends, in [start, 1]; equal to start gives a step.
        shape: constant (a step at `start`), linear, cosine or cubic.
        low: value before the ramp.
        high: value after it.

    Raises:
        ConfigError: the positions are out of order or the shape is unknown.
    """
    if not 0 <= start <= end <= 1:
        raise ConfigError(f"a ramp needs 0 <= start <= end <= 1, but got start={start}, end={end}; search its length")
    if shape not in _SHAPES:
        raise ConfigError(f"a ramp's shape is one of {', '.join(_SHAPES)}, but got {shape!r}; choose one of them")
    rise = _SHAPES[shape]

    def value(progress: float) -> float:
        if progress < start:
            return low
        if progress >= end:
            return high
        return low + (high - low) * rise((progress - start) / (end - start))

    return value


def chain(first: Schedule, second: Schedule, at: float) -> Schedule:
    """Follow `first` before progress `at`, and from there on `second`, each seeing its own part as [0, 1]."""

    def value(progress: float) -> float:
        if progress < at:
            return first(progress / at)
        return second((progress - at) / (1 - at) if at < 1 else 1.0)

    return value


def product(first: Schedule, second: Schedule) -> Schedule:
    """Multiply two schedules."""
    return lambda progress: first(progress) * second(progress)


def kept_fraction(phases: PhaseConfig, target: float) -> Schedule:
    """Return the budget's ramp: 1 during warm-up, falling to `target` over `ramp_share` of the select phase."""
    end = phases.warm_up + phases.ramp_share * (phases.freeze_at - phases.warm_up)
    return ramp(phases.warm_up, end, phases.ramp_shape, low=1.0, high=target)


def polar_strength(phases: PhaseConfig) -> Schedule:
    """Return the polariser's share of its weight: 0 until its delay is over, then rising to 1.

    Later than the budget, because a polariser acting on gates that are still at their start holds them open.
    """
    length = phases.freeze_at - phases.warm_up
    start = phases.warm_up + phases.polar_delay * length
    return ramp(start, min(phases.freeze_at, start + phases.polar_ramp * length))


def noise_scale(phases: PhaseConfig, noise: float, anneal: bool) -> Schedule:
    """Return the scale of the gates' noise, falling to 0 at the freeze where it is annealed."""
    if not anneal:
        return constant(noise)
    return ramp(phases.warm_up, phases.freeze_at, low=noise, high=0.0)


def learning_rate_factor(shape: LearningRateShape, ramp_up: float, hold_until: float) -> Schedule:
    """Return the learning rate as a share of its peak.

    Args:
        shape: cosine; one_cycle (up to the peak at 30 % and down, Smith 2018, arXiv 1708.07120); hold_then_cosine
            (the peak until `hold_until`); constant.
        ramp_up: progress during which it rises linearly from 0 (one_cycle has its own rise).
        hold_until: where hold_then_cosine begins to fall.

    Raises:
        ConfigError: the shape is unknown.
    """
    fall = ramp(0.0, 1.0, "cosine", low=1.0, high=0.0)
    if shape == "one_cycle":
        return chain(ramp(0.0, 1.0, "cosine", low=0.04, high=1.0), fall, at=0.3)
    courses: dict[str, Schedule] = {
        "constant": constant(1.0),
        "cosine": fall,
        "hold_then_cosine": chain(constant(1.0), fall, at=hold_until),
    }
    if shape not in courses:
        known = ", ".join([*courses, "one_cycle"])
        raise ConfigError(f"the learning rate's shape is one of {known}, but got {shape!r}; choose one of them")
    return product(ramp(0.0, ramp_up), courses[shape]) if ramp_up > 0 else courses[shape]
