"""CIFAR-100 with the networks of `search_spaces.cifar10`; 45,000 images train, 5,000 validate and 10,000 test.

Scientific: `network`, `target`, `granularity`. Nuisance: the weights of budget and polarisation, warm-up, ramp,
polariser delay, freeze point, the gates' noise and learning rate, learning rate and weight decay. Fixed: data,
batch size, epochs.
"""

from dataclasses import replace

from greenprune_core.config import TrialConfig
from search_spaces import cifar10
from search_spaces.space import SuggestTrial

BASE = replace(cifar10.BASE, data=replace(cifar10.BASE.data, name="cifar100"))


def suggest(trial: SuggestTrial) -> TrialConfig:
    """Draw one configuration."""
    return cifar10.draw_network(trial, BASE)


CIFAR100 = replace(
    cifar10.CIFAR10,
    name="cifar100",
    suggest=suggest,
    fixed={**cifar10.CIFAR10.fixed, "data.name": "cifar100"},
    description="ResNet-20, 56, 110 or VGG-16 on CIFAR-100; needs a GPU, where ResNet-56 takes a good half hour",
)
