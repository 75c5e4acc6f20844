"""Fashion-MNIST: 60,000 training and 10,000 test images of clothes, pooled from 28x28 to 14x14 pixels.

Pooled because the study behind the ranges was made there, and because a trial then takes minutes on one core instead
of most of an hour; `--set image_size=28 --set unit=macs` learns from the full images (in joules the activations of
the residual stream, which stays whole, are a floor of 0.4 there). 54,000 images train, 6,000 validate.

Scientific: `target`, `granularity`. Nuisance: the weights of budget and polarisation, warm-up, ramp, polariser
delay, freeze point, the gates' noise and learning rate, learning rate and weight decay. Fixed: network, data,
batch size, epochs.
"""

from greenprune_core.config import DataConfig, NetworkConfig, OptimiserConfig, TrialConfig
from search_spaces.fragments import IN_JOULES, NUISANCE, SCIENTIFIC, draw_all, fixed_settings, known_points
from search_spaces.space import SearchSpace, SuggestTrial

BASE = TrialConfig(
    network=NetworkConfig(name="cifar_resnet14", width=8),
    data=DataConfig(name="fashion_mnist", image_size=14, shift=1, flip=True),
    budget=IN_JOULES,
    optimiser=OptimiserConfig(batch_size=128, shape="hold_then_cosine"),
    epochs=10,
)


def suggest(trial: SuggestTrial) -> TrialConfig:
    """Draw one configuration."""
    return draw_all(trial, BASE, smallest_target=0.25)


FASHION_MNIST = SearchSpace(
    name="fashion_mnist",
    suggest=suggest,
    first_points=known_points((0.5, 0.35, 0.25, 1.0)),
    scientific=SCIENTIFIC,
    nuisance=NUISANCE,
    fixed=fixed_settings(BASE),
    description="ResNet-14 of width 8 on Fashion-MNIST pooled to 14x14; about 15 s an epoch on one core",
)
