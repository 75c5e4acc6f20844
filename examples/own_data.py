"""Learn from images of one's own: as tensors in a script, or as a data set that a search can name.

    python examples/own_data.py
    hpsearch search --space digits --set data.name=examples/own_data.py:load --set epochs=10

The images here are drawn by the script (bars at four angles, under noise), so that it runs anywhere.
"""

import argparse
import math

import torch
from torch import Tensor

from greenprune_core import ImageData, TrialConfig, train_one_pass
from greenprune_core.config import BudgetConfig, DataConfig, NetworkConfig, OptimiserConfig
from greenprune_core.data import RawData, TensorStore

CLASS_NAMES = ("0 degrees", "45 degrees", "90 degrees", "135 degrees")
SIDE = 16


def draw_bars(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw n images uint8[n, 1, 16, 16] and their labels int64[n]."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % len(CLASS_NAMES)
    angles = labels * math.pi / 4 + 0.15 * torch.randn(n, generator=generator)
    grid = torch.arange(SIDE) - (SIDE - 1) / 2
    offsets = 3 * (torch.rand(n, generator=generator) - 0.5)
    distances = (
        grid[None, :, None] * angles.cos()[:, None, None]
        - grid[None, None, :] * angles.sin()[:, None, None]
        - offsets[:, None, None]
    )
    bars = torch.exp(-distances.square() / 2)
    noisy = bars + 0.5 * torch.randn(n, SIDE, SIDE, generator=generator)
    return (noisy.clamp(0, 1) * 255).to(torch.uint8).unsqueeze(1), labels


def load(config: DataConfig, data_dir: str | None) -> RawData:
    """Hand over the data set; this is the signature that `data.name` expects (a folder comes from --data-dir)."""
    return RawData(
        train=TensorStore(*draw_bars(1200, seed=0)),
        test=TensorStore(*draw_bars(400, seed=1)),
        class_names=CLASS_NAMES,
        source="drawn by examples/own_data.py",
    )


def main(epochs: int = 6) -> float:
    """Train on the tensors and print the accuracies."""
    config = TrialConfig(
        network=NetworkConfig(name="cifar_resnet8", width=8),
        data=DataConfig(name="bars", validation_share=0.2, shift=1),
        budget=BudgetConfig(target=0.5),
        optimiser=OptimiserConfig(batch_size=64, shape="hold_then_cosine"),
        epochs=epochs,
    )
    data = ImageData.from_tensors(draw_bars(1200, 0), draw_bars(400, 1), config.data, class_names=CLASS_NAMES)
    print(f"{data.n_train} train, {data.n_validation} validate, {data.n_test} test; mean {data.mean.item():.3f}")
    result = train_one_pass(config, data=data)
    kept = result.cost.macs / result.dense_cost.macs
    print(f"test accuracy {result.test_accuracy:.1%} with {kept:.0%} of the multiply-accumulates")
    return result.test_accuracy


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=6)
    main(parser.parse_args().epochs)
