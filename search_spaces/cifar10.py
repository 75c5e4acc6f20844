"""CIFAR-10 with the networks of the literature: ResNet-20, 56 and 110, and VGG-16 with batch normalisation.

`--set network=cifar_resnet56` searches one of them. 45,000 images train, 5,000 validate and 10,000 test.

Scientific: `network`, `target`, `granularity`. Nuisance: the weights of budget and polarisation, warm-up, ramp,
polariser delay, freeze point, the gates' noise and learning rate, learning rate and weight decay. Fixed: data,
batch size, epochs.
"""

from dataclasses import replace

from greenprune_core.config import DataConfig, NetworkConfig, OptimiserConfig, TrialConfig
from search_spaces.fragments import (
    GRANULARITIES,
    IN_JOULES,
    NUISANCE,
    SCIENTIFIC,
    draw_all,
    fixed_settings,
    known_points,
)
from search_spaces.space import SearchSpace, SuggestTrial

BASE = TrialConfig(
    data=DataConfig(name="cifar10", shift=4, flip=True),
    budget=IN_JOULES,
    optimiser=OptimiserConfig(batch_size=128, shape="hold_then_cosine"),
    epochs=160,
)

WIDTHS = {"cifar_resnet20": 16, "cifar_resnet56": 16, "cifar_resnet110": 16, "cifar_vgg16": 64}
"""The networks, with the published width of their first stage."""


def draw_network(trial: SuggestTrial, base: TrialConfig) -> TrialConfig:
    """Draw the network, then all else; VGG has no residual branches, so only its channels are gated."""
    name = trial.suggest_categorical("network", list(WIDTHS))
    return draw_all(
        trial,
        replace(base, network=NetworkConfig(name=name, width=WIDTHS[name])),
        smallest_target=0.25,
        granularities=() if "vgg" in name else GRANULARITIES,
    )


def suggest(trial: SuggestTrial) -> TrialConfig:
    """Draw one configuration."""
    return draw_network(trial, BASE)


CIFAR10 = SearchSpace(
    name="cifar10",
    suggest=suggest,
    first_points=(
        *known_points((0.5, 0.3), network="cifar_resnet56"),
        *known_points((0.5, 1.0), network="cifar_resnet20"),
        *known_points((0.3,), network="cifar_vgg16", granularity=None),
        *known_points((1.0,), network="cifar_resnet56"),
    ),
    scientific=("network", *SCIENTIFIC),
    nuisance=NUISANCE,
    fixed={path: value for path, value in fixed_settings(BASE).items() if not path.startswith("network.")},
    description="ResNet-20, 56, 110 or VGG-16 on CIFAR-10; needs a GPU, where ResNet-56 takes a good half hour",
)
