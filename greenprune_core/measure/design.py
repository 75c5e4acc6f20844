"""What is run to calibrate a device: layers of designed kinds and sizes, and cut networks that the fit never sees."""

import random
from dataclasses import dataclass

import torch
from torch import nn

from greenprune_core.config import NetworkConfig
from greenprune_core.extract import extract
from greenprune_core.gates import attach_gates
from greenprune_core.networks import build_network

_KINDS = ("conv3", "conv3", "conv3", "conv1", "conv1", "bare", "depthwise", "norm", "linear", "pool", "residual")
_HELD_OUT = (
    *("cifar_resnet8", "cifar_resnet14", "cifar_resnet20", "cifar_resnet32", "cifar_resnet56"),
    *("cifar_vgg11", "cifar_vgg13", "cifar_vgg16"),
)


LAYER_SEED = 0
NETWORK_SEED = 1000


@dataclass(frozen=True)
class Subject:
    """A network to time, with the shape of one image."""

    name: str
    network: nn.Module
    input_shape: tuple[int, ...]


def design_layers(n: int, seed: int = LAYER_SEED) -> list[Subject]:
    """Draw n short chains of layers: every kind, 3 to 128 channels, sides of 4 to 32 pixels, 1 to 4 layers."""
    draw = random.Random(seed)
    subjects = []
    for number in range(n):
        kind = _KINDS[number % len(_KINDS)]
        n_in, n_out = (round(2 ** draw.uniform(1.5, 7)) for _ in range(2))
        side, depth = draw.choice((4, 8, 16, 32)), draw.choice((1, 2, 4))
        with torch.random.fork_rng(devices=[]):
            network = nn.Sequential(*(_layer(kind, n_in if i == 0 else n_out, n_out) for i in range(depth))).eval()
        shape = (n_in,) if kind == "linear" else (n_in, side, side)
        subjects.append(Subject(f"{kind}-{n_in}-{n_out}-{side}px-x{depth}", network, shape))
    return subjects


def design_networks(n: int, seed: int = NETWORK_SEED, prefix: str = "whole") -> list[Subject]:
    """Draw n CIFAR ResNets and VGGs of random width, image side and input channels, cut by random masks."""
    draw = random.Random(seed)
    subjects = []
    for number in range(n):
        name = _HELD_OUT[number % len(_HELD_OUT)]
        width, side, n_in = draw.choice((8, 12, 16)), draw.choice((8, 16, 24)), draw.choice((1, 3))
        network = _cut_network(name, width, side, n_in, seed + number)
        subjects.append(Subject(f"{prefix}-{name}-w{width}-{side}px-{number}", network, (n_in, side, side)))
    return subjects


class _Residual(nn.Module):
    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.inner = _layer("conv3", n_channels, n_channels)
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.relu(x + self.inner(x))
        return out


def _layer(kind: str, n_in: int, n_out: int) -> nn.Module:
    norm = (nn.BatchNorm2d(n_out), nn.ReLU())
    if kind == "conv3":
        return nn.Sequential(nn.Conv2d(n_in, n_out, 3, padding=1, bias=False), *norm)
    if kind == "conv1":
        return nn.Sequential(nn.Conv2d(n_in, n_out, 1, bias=False), *norm)
    if kind == "bare":
        return nn.Conv2d(n_in, n_out, 3, padding=1, bias=False)
    if kind == "depthwise":
        mixes = nn.Conv2d(n_in, n_out, 1, bias=False)
        return nn.Sequential(mixes, nn.Conv2d(n_out, n_out, 3, padding=1, groups=n_out, bias=False), *norm)
    if kind == "linear":
        return nn.Linear(n_in, n_out)
    if kind == "norm":
        return nn.Sequential(nn.Conv2d(n_in, n_out, 1, bias=False), *norm, *norm, *norm)
    if kind == "pool":
        return nn.Sequential(nn.Conv2d(n_in, n_out, 1, bias=False), nn.MaxPool2d(3, 1, 1), nn.AvgPool2d(1, 1))
    return nn.Sequential(nn.Conv2d(n_in, n_out, 1, bias=False), _Residual(n_out))


def _cut_network(name: str, width: int, side: int, n_in: int, seed: int) -> nn.Module:
    """Cut by masks that keep a share drawn for the whole network, varied from layer to layer."""
    generator = torch.Generator().manual_seed(seed)
    # the weights' values do not matter for time; forking keeps the caller's random state as it was
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = NetworkConfig(name=name, width=width)
        network = build_network(config, n_classes=10, in_channels=n_in, image_size=side)
        gated = attach_gates(network, torch.zeros(1, n_in, side, side), "channel", streams=False)
    kept = 0.15 + 0.85 * torch.rand((), generator=generator)
    masks = {}
    for group, size in gated.groups.items():
        share = (kept + 0.3 * (torch.rand((), generator=generator) - 0.5)).clamp(0.05, 1)
        mask = torch.rand(size, generator=generator) < share
        mask[0] = True
        masks[group] = mask
    return extract(gated, masks).eval()
