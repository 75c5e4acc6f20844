"""One pass that is over in a second: a narrow ResNet-8 on 400 of the digits."""

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
