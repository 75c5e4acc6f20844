"""One pass that is over in a second: a narrow ResNet-8 on 400 of the digits."""

import dataclasses
from typing import Any

from torch import nn

from greenprune_core.config import (
    BudgetConfig,
    DataConfig,
    GateConfig,
    LossConfig,
    NetworkConfig,
    OptimiserConfig,
    PhaseConfig,
    TrialConfig,
)

SMALL = TrialConfig(
    network=NetworkConfig(name="cifar_resnet8", width=4),
    data=DataConfig(name="digits", n_train=400),
    budget=BudgetConfig(target=0.6),
    losses=LossConfig(polar_weight=2.0),
    phases=PhaseConfig(warm_up=0.1, freeze_at=0.5, freeze_latest=0.7, polar_delay=0.1),
    gates=GateConfig(learning_rate_factor=5.0),
    optimiser=OptimiserConfig(batch_size=16, learning_rate=0.8),
    epochs=4,
)


def changed(**parts: Any) -> TrialConfig:
    """Return the small pass with other parts."""
    return dataclasses.replace(SMALL, **parts)


def small_network(n_outputs: int = 10, kernel: int = 3) -> nn.Sequential:
    """Return a plain network for the digits."""
    return nn.Sequential(
        nn.Conv2d(1, 8, kernel), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, n_outputs),
    )  # fmt: skip
