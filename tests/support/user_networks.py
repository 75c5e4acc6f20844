"""Networks of a few layers and a function for their forward, and what every cut of them must pass."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from greenprune_core.extract import extract, verify
from greenprune_core.gates import GatedNetwork, attach_gates

IMAGES = torch.randn(3, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


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


def gate(network: nn.Module, granularity: str = "channel", **settings: Any) -> GatedNetwork:
    torch.manual_seed(0)
    for parameter in network.double().parameters():
        nn.init.normal_(parameter, std=0.5)
    return attach_gates(network.eval(), IMAGES[:1], granularity, **settings)  # type: ignore[arg-type]


def check_cuts(gated: GatedNetwork, n_masks: int = 4) -> None:
    """Cut by random masks that leave each channel group something, and let the gates decide once, for a gradient."""
    gated.open_gates()
    assert torch.equal(gated.eval()(IMAGES), gated.network(IMAGES))
    for seed in range(n_masks):
        generator = torch.Generator().manual_seed(seed)
        masks = {name: torch.rand(n, generator=generator) < 0.5 for name, n in gated.groups.items()}
        for name, mask in masks.items():
            mask[:1] |= gated.structure.kinds[name] != "branch"
        verify(gated, extract(gated, masks), IMAGES, 1e-10)
    verify(gated, extract(gated, {}), IMAGES, 1e-10)
    gated.release_gates()
    gated.train()(IMAGES).sum().backward()
