"""Prune a network of one's own while it trains once, and take home a plain, smaller torch module.

    python examples/own_network.py

In a search the same network is named by this file:

    hpsearch search --space digits --set network.name=examples/own_network.py:make_network --set width=12
"""

import argparse

import torch
from torch import Tensor, nn

from greenprune_core import TrialConfig, train_one_pass
from greenprune_core.config import BudgetConfig, DataConfig, OptimiserConfig


class TwoPaths(nn.Module):
    """Two convolutional paths that are joined: an ordinary module, which knows nothing of gates."""

    def __init__(self, n_classes: int, in_channels: int, width: int) -> None:
        super().__init__()
        self.fine = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(),
        )  # fmt: skip
        self.coarse = nn.Sequential(nn.Conv2d(in_channels, width, 5, padding=2), nn.BatchNorm2d(width), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.classifier = nn.Linear(3 * width * 4, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [N, C, H, W] to logits [N, n_classes]."""
        joined = torch.cat([self.fine(x), self.coarse(x)], dim=1)
        logits: Tensor = self.classifier(self.pool(joined).flatten(1))
        return logits


def make_network(*, n_classes: int, in_channels: int, image_size: int, width: int) -> nn.Module:
    """Build the network for images of a data set; this is the signature that `network.name` expects."""
    return TwoPaths(n_classes, in_channels, width)


def main(epochs: int = 15) -> nn.Module:
    """Keep 40 % of the network's multiply-accumulates, and print what came of it."""
    config = TrialConfig(
        data=DataConfig(name="digits", validation_share=0.25),
        budget=BudgetConfig(target=0.4, unit="macs"),
        optimiser=OptimiserConfig(batch_size=64, shape="hold_then_cosine"),
        epochs=epochs,
    )
    torch.manual_seed(config.seed)
    network = make_network(n_classes=10, in_channels=1, image_size=8, width=16)
    result = train_one_pass(config, network)

    print(f"multiply-accumulates: {result.dense_cost.macs:,} -> {result.cost.macs:,}")
    print(f"parameters: {result.dense_cost.params:,} -> {result.cost.params:,}")
    print(f"training took {result.train_macs / result.dense_train_macs:.0%} of the dense network's")
    print(f"test accuracy: {result.test_accuracy:.1%} of {result.n_test} images")
    print(f"the gated and the cut network differ by at most {result.verify_difference:.1e}")
    print(result.network)
    return result.network


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=15)
    main(parser.parse_args().epochs)
