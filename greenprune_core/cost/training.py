"""What training costs in joules by a device profile: forward and backward passes of every phase, at the phase's cost.

The rules count one training step of plain back-propagation with a momentum optimiser. Activations: forward as counted;
backward reads what forward saved and the gradient of each output and writes that of each input, twice the traffic
again. Weights, once per step: read forward and backward, the gradient written, then weight, gradient and momentum read
and weight and momentum written.
"""

import dataclasses
from collections.abc import Iterable

from greenprune_core.cost.count import Cost
from greenprune_core.cost.energy import PARTS, Energy, operator_joules
from greenprune_core.cost.profile import DeviceProfile
from greenprune_core.errors import ConfigError

TRAINING_FACTOR = 3
"""Work of a training step over that of a forward pass: backward makes two products where forward makes one."""

WEIGHT_TRAFFIC_FACTOR = 8
"""Times that the weights' bytes move in one training step, see above."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingPart:
    """Images that went through one network in training: one phase, or one part of it."""

    cost: Cost
    """Of one forward pass of the network of that phase: dense, gated or cut."""
    n_trained: int = 0
    """Images passed forward and backward."""
    n_passed: int = 0
    """Images passed forward only, for statistics of gates and batch norms."""


def training_macs(parts: Iterable[TrainingPart]) -> int:
    """Return the multiply-accumulates of all passes; a backward pass counts as two forward ones."""
    return sum(part.cost.macs * (TRAINING_FACTOR * part.n_trained + part.n_passed) for part in parts)


def estimate_training_energy(
    parts: Iterable[TrainingPart], profile: DeviceProfile, *, batch_size: int, seconds: float | None = None
) -> Energy:
    """Estimate the joules of a training run from the passes that were made.

    Args:
        parts: what went through which network.
        profile: the device.
        batch_size: images per step.
        seconds: measured duration of the run, for the static power of a profile that has one.

    Raises:
        ConfigError: a batch below 1, a profile without joules, or with static power while `seconds` is missing.
    """
    if batch_size < 1:
        raise ConfigError(f"a batch holds at least one image, but got batch_size={batch_size}; 128 is usual")
    if profile.static_power_w is not None and seconds is None:
        raise ConfigError(
            f"static power needs the measured duration, but {profile.name!r} has static_power_w and got seconds=None; "
            "pass the seconds of the run"
        )
    dynamic = dataclasses.replace(profile, static_power_w=None)
    joules = dict.fromkeys(PARTS, 0.0)
    for part in parts:
        n_weight_moves = WEIGHT_TRAFFIC_FACTOR * part.n_trained + part.n_passed
        n_passes = TRAINING_FACTOR * part.n_trained + part.n_passed
        for operator in part.cost.operators:
            for name, value in operator_joules(operator, dynamic, batch_size).items():
                joules[name] += value * (n_weight_moves if name == "weights" else n_passes)
    if profile.static_power_w is not None and seconds is not None:
        joules["static"] = profile.static_power_w.value * seconds
    return Energy(parts=joules, source=f"model:{profile.name}", batch_size=batch_size)
