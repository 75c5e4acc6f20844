"""Tiny ImageNet: 200 classes of 64x64 pixels; 90,000 images train, 10,000 validate and 10,000 test.

The test images are the published `val` folder, because those of `test` have no labels. `--data-dir` names the folder
that holds `tiny-imagenet-200`. Another network is one setting away: `--set network.name=cifar_resnet56`.

Scientific: `target`, `granularity`. Nuisance: the weights of budget and polarisation, warm-up, ramp, polariser
delay, freeze point, the gates' noise and learning rate, learning rate and weight decay. Fixed: network, data,
batch size, epochs.
"""

from greenprune_core.config import DataConfig, NetworkConfig, OptimiserConfig, TrialConfig
from search_spaces.fragments import IN_JOULES, NUISANCE, SCIENTIFIC, draw_all, fixed_settings, known_points
from search_spaces.space import SearchSpace, SuggestTrial

BASE = TrialConfig(
    network=NetworkConfig(name="torchvision/resnet18"),
    data=DataConfig(name="tiny_imagenet", image_size=64, shift=4, flip=True),
    budget=IN_JOULES,
    optimiser=OptimiserConfig(batch_size=128, shape="hold_then_cosine"),
    epochs=60,
)


def suggest(trial: SuggestTrial) -> TrialConfig:
    """Draw one configuration."""
    return draw_all(trial, BASE, smallest_target=0.1)


TINY_IMAGENET = SearchSpace(
    name="tiny_imagenet",
    suggest=suggest,
    first_points=known_points((0.5, 0.3, 0.15, 1.0)),
    scientific=SCIENTIFIC,
    nuisance=NUISANCE,
    fixed=fixed_settings(BASE),
    description="torchvision's ResNet-18 on Tiny ImageNet; needs a GPU and its folder in --data-dir",
)
