"""One pass on real images: Fashion-MNIST as Debian packages it."""

import pytest

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
from greenprune_core.data.fashion_mnist import SYSTEM_FOLDERS
from greenprune_core.one_pass import train_one_pass


@pytest.mark.slow
@pytest.mark.skipif(not SYSTEM_FOLDERS[0].is_dir(), reason="Debian's dataset-fashion-mnist is absent")
def test_half_a_network_learns_clothes_in_one_short_pass():
    config = TrialConfig(
        network=NetworkConfig(name="cifar_resnet8", width=8),
        data=DataConfig(name="fashion_mnist", image_size=14, n_train=6000, shift=1, flip=True),
        budget=BudgetConfig(target=0.5),
        gates=GateConfig(learning_rate_factor=4.0),
        losses=LossConfig(polar_weight=1.0),
        phases=PhaseConfig(warm_up=0.05, freeze_at=0.4, freeze_latest=0.5, polar_delay=0.2),
        optimiser=OptimiserConfig(batch_size=64),
        epochs=3,
    )
    result = train_one_pass(config)
    assert result.n_test == 10_000
    assert result.test_accuracy > 0.65
    assert result.cost.macs <= 0.5 * result.dense_cost.macs
    assert result.train_macs < result.dense_train_macs
    assert result.verify_difference < 1e-4
