"""Handwritten digits of 8x8 pixels: the smallest real problem, for the demo and the tests.

1,078 of scikit-learn's 1,797 scans train, 360 validate and 359 test. A quarter validates, not a tenth: with 144 images
accuracies would differ by steps of 0.7 point.

Scientific: `target`, `granularity`. Nuisance: the weights of budget and polarisation, warm-up, ramp, polariser
delay, freeze point, the gates' noise and learning rate, learning rate and weight decay. Fixed: network, data,
batch size, epochs.
"""

from greenprune_core.config import DataConfig, NetworkConfig, OptimiserConfig, TrialConfig
from search_spaces.fragments import IN_JOULES, NUISANCE, SCIENTIFIC, draw_all, fixed_settings, known_points
from search_spaces.space import SearchSpace, SuggestTrial

BASE = TrialConfig(
    network=NetworkConfig(name="cifar_resnet14", width=8),
    data=DataConfig(name="digits", validation_share=0.25, shift=1),
    budget=IN_JOULES,
    optimiser=OptimiserConfig(batch_size=64, shape="hold_then_cosine"),
    epochs=24,
)


def suggest(trial: SuggestTrial) -> TrialConfig:
    """Draw one configuration."""
    return draw_all(trial, BASE, smallest_target=0.15)


DIGITS = SearchSpace(
    name="digits",
    suggest=suggest,
    # few steps here: the gates must be quicker and surer than in the study on Fashion-MNIST
    first_points=known_points(
        (0.5, 0.25, 0.15, 1.0), learning_rate_factor=4.0, polar_weight=1.0, polar_delay=0.2, freeze_at=0.4
    ),
    scientific=SCIENTIFIC,
    nuisance=NUISANCE,
    fixed=fixed_settings(BASE),
    description="ResNet-14 of width 8 on scikit-learn's real scans of digits, 8x8; about 10 s a trial on one core",
)
