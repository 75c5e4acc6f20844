"""Networks of a few layers and a function for their forward."""

from collections.abc import Callable
from typing import Any

import torch
from exact_cuts import IMAGES, Granularity
from torch import Tensor, nn

from greenprune_core.gates import GatedNetwork, attach_gates


class Network(nn.Module):
    """Layers by name, and what forward does with them."""

    def __init__(self, forward: Callable[[Any, Tensor], Tensor], **layers: Any) -> None:
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self._forward = forward

    def forward(self, x: Tensor) -> Tensor:
        return self._forward(self, x)


def conv(n_in: int, n_out: int = 8, size: int = 3) -> nn.Conv2d:
    return nn.Conv2d(n_in, n_out, size, padding=size // 2)


def patches(n_out: int = 8) -> nn.Conv2d:
    return nn.Conv2d(3, n_out, 2, stride=2)


def head(n_in: int = 8) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(n_in, 5))


def tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


def gate(network: nn.Module, granularity: Granularity = "channel", **settings: Any) -> GatedNetwork:
    torch.manual_seed(0)
    for parameter in network.double().parameters():
        nn.init.normal_(parameter, std=0.5)
    return attach_gates(network.eval(), IMAGES[:1], granularity, **settings)
