"""Draws that several spaces share. Each range is valid whatever the others draw.

The ranges and the known-good point come from the study reported in docs/method-log.md (Fashion-MNIST at 14x14): head
gate with noise 0.3, learning rate held until the freeze at 0.3, dual ascent on the budget, and a polariser that follows
the mask which the budget would keep (weight 0.3 to 1).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from greenprune_core.config import (
    BudgetConfig,
    GateConfig,
    LossConfig,
    OptimiserConfig,
    PhaseConfig,
    TrialConfig,
)
from greenprune_core.field_paths import leaf_types
from search_spaces.space import SuggestTrial, Value

FREEZE_SLACK = 0.1
"""The freeze waits this much longer, in progress, for gates that still disagree."""

GRANULARITIES = ("channel", "layer", "both")
RAMP_SHAPES = ("linear", "cosine", "cubic")

ASKED_ABOUT = (
    "network.name",
    "network.width",
    "data.name",
    "data.image_size",
    "optimiser.batch_size",
    "optimiser.shape",
    "epochs",
)
"""Settings shown for every space, also where they are the defaults."""

IN_JOULES = BudgetConfig(unit="joules")
"""Budget of the spaces: the kept fraction is of the modelled energy, which a search minimises. Multiply-accumulates
sit in the early layers, bytes of weights in the late ones: on digits, half of the former left 0.81 of the joules."""

SCIENTIFIC = ("target", "granularity")
"""Drawn parameters whose effect a search is about."""

NUISANCE = (
    "budget_weight", "polar_weight", "warm_up", "freeze_at", "ramp_share", "ramp_shape", "polar_delay", "noise",
    "learning_rate_factor", "learning_rate", "weight_decay",
)  # fmt: skip
"""Drawn parameters that have to be tuned for a fair comparison."""

KNOWN_GOOD: Mapping[str, Value] = {
    "granularity": "channel",
    "budget_weight": 10.0,
    "polar_weight": 0.3,
    "warm_up": 0.05,
    "freeze_at": 0.3,
    "ramp_share": 0.6,
    "ramp_shape": "linear",
    "polar_delay": 0.5,
    "noise": 0.3,
    "learning_rate_factor": 1.0,
    "learning_rate": 0.1,
    "weight_decay": 5e-4,
}
"""Draws that did well in the study, at every target."""


def known_points(targets: Sequence[float], **changes: Value) -> tuple[Mapping[str, Value], ...]:
    """Place the known-good point at several targets.

    1.0 is the dense network, the front's upper end; it goes last, since it adds least to the volume under the front.

    Changes replace or add draws; None leaves one out (for a space that does not draw it).
    """
    point = {name: value for name, value in {**KNOWN_GOOD, **changes}.items() if value is not None}
    return tuple({"target": target, **point} for target in targets)


def fixed_settings(base: TrialConfig) -> dict[str, str]:
    """List what a space holds: the settings everybody asks about, and all that differ from the defaults."""
    default = TrialConfig().to_dict()
    values = base.to_dict()
    found = {}
    for path in leaf_types(TrialConfig):
        section, _, name = path.rpartition(".")
        value, usual = (values[section][name], default[section][name]) if section else (values[name], default[name])
        if path == "network.width" and not base.network.name.startswith("cifar_"):
            continue  # it means nothing there
        if path in ASKED_ABOUT or value != usual:
            found[path] = str(value)
    return found


def draw_all(
    trial: SuggestTrial,
    base: TrialConfig,
    *,
    smallest_target: float,
    granularities: Sequence[str] = GRANULARITIES,
    learning_rates: tuple[float, float] = (0.02, 0.3),
) -> TrialConfig:
    """Draw all that a search is about, on top of a configuration that fixes the rest.

    Args:
        trial: Where the draws come from.
        base: Configuration that fixes the rest.
        smallest_target: Smallest kept share; above what the floors of all layers cost together (`gates.floor_share`),
            0.15 to 0.22 of the joules in ResNets whose residual stream is whole.
        granularities: Without any the base's is kept: networks without residual branches have none but "channel".
        learning_rates: Smallest and largest learning rate.
    """
    return replace(
        base,
        gates=draw_gates(trial, base.gates, granularities),
        budget=replace(base.budget, target=trial.suggest_float("target", smallest_target, 1.0)),
        losses=draw_losses(trial, base.losses),
        phases=draw_phases(trial, base.phases),
        optimiser=draw_optimiser(trial, base.optimiser, learning_rates),
    )


def draw_gates(trial: SuggestTrial, base: GateConfig, granularities: Sequence[str] = GRANULARITIES) -> GateConfig:
    """Draw the granularity, and the gates' noise and learning rate."""
    if granularities:
        base = replace(base, granularity=trial.suggest_categorical("granularity", granularities))
    return replace(
        base,
        noise=trial.suggest_float("noise", 0.0, 0.6),
        learning_rate_factor=trial.suggest_float("learning_rate_factor", 0.3, 5.0, log=True),
    )


def draw_losses(trial: SuggestTrial, base: LossConfig) -> LossConfig:
    """Draw the weights of budget and polarisation; the task's is 1."""
    return replace(
        base,
        budget_weight=trial.suggest_float("budget_weight", 2.0, 40.0, log=True),
        polar_weight=trial.suggest_float("polar_weight", 0.1, 1.5, log=True),
    )


def draw_phases(trial: SuggestTrial, base: PhaseConfig) -> PhaseConfig:
    """Draw start, length and shape of the ramp, the polariser's delay and the freeze point.

    The latest warm-up ends before the earliest freeze, and positions inside the select phase are shares of it.
    """
    freeze_at = trial.suggest_float("freeze_at", 0.25, 0.5)
    return replace(
        base,
        warm_up=trial.suggest_float("warm_up", 0.0, 0.15),
        freeze_at=freeze_at,
        freeze_latest=freeze_at + FREEZE_SLACK,
        ramp_share=trial.suggest_float("ramp_share", 0.3, 0.9),
        ramp_shape=trial.suggest_categorical("ramp_shape", RAMP_SHAPES),
        polar_delay=trial.suggest_float("polar_delay", 0.0, 0.8),
    )


def draw_optimiser(trial: SuggestTrial, base: OptimiserConfig, learning_rates: tuple[float, float]) -> OptimiserConfig:
    """Draw learning rate and weight decay, for SGD at batch size 128 (the trial scales the rate to its own)."""
    return replace(
        base,
        learning_rate=trial.suggest_float("learning_rate", *learning_rates, log=True),
        weight_decay=trial.suggest_float("weight_decay", 1e-5, 2e-3, log=True),
    )
