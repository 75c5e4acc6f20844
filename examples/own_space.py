"""A search space of one's own: a function from a trial's draws to a TrialConfig.

    hpsearch search --space examples/own_space.py:SPACE --trials 8
    hpsearch search --space examples/own_space.py:SPACE --set width=8 --set epochs=5 --trials 8

Draw so that every draw is valid: here the freeze point is drawn, and the warm-up as a share of it.
"""

from greenprune_core.config import (
    BudgetConfig,
    DataConfig,
    LossConfig,
    NetworkConfig,
    OptimiserConfig,
    PhaseConfig,
    TrialConfig,
)
from search_spaces import SearchSpace, SuggestTrial


def suggest(trial: SuggestTrial) -> TrialConfig:
    """Draw the width of the network beside the kept share: is a wide, strongly pruned network the better one?"""
    freeze_at = trial.suggest_float("freeze_at", 0.25, 0.5)
    return TrialConfig(
        network=NetworkConfig(name="cifar_resnet8", width=trial.suggest_categorical("width", [6, 8, 16])),
        data=DataConfig(name="digits", validation_share=0.25),
        budget=BudgetConfig(target=trial.suggest_float("target", 0.35, 1.0), unit="joules"),
        losses=LossConfig(polar_weight=trial.suggest_float("polar_weight", 0.1, 1.0, log=True)),
        phases=PhaseConfig(
            warm_up=freeze_at * trial.suggest_float("warm_up_share", 0.0, 0.5),
            freeze_at=freeze_at,
            freeze_latest=freeze_at + 0.1,
        ),
        optimiser=OptimiserConfig(batch_size=64, shape="hold_then_cosine"),
        epochs=12,
    )


SPACE = SearchSpace(
    name="own",
    suggest=suggest,
    first_points=(
        {"freeze_at": 0.3, "width": 8, "target": 0.5, "polar_weight": 0.3, "warm_up_share": 0.2},
        {"freeze_at": 0.3, "width": 16, "target": 0.35, "polar_weight": 0.3, "warm_up_share": 0.2},
    ),
    scientific=("width", "target"),
    nuisance=("freeze_at", "warm_up_share", "polar_weight"),
    fixed={"network.name": "cifar_resnet8", "data.name": "digits", "budget.unit": "joules", "epochs": "12"},
    description="how wide the dense network should be, on digits",
)
