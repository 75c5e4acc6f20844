"""The arms of benchmarks/quality.py: ours, the plain controls, and the multi-stage methods, each a function to a row.

All learn from the same images with the same optimiser, batch size and order of images (the seed's), and are judged by
the last epoch on the test images. What is given the same training cost as ours gets the multiply-accumulates that ours
spent with the same seed.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from greenprune_core import ImageData, TrialConfig, attach_gates, build_network, count_cost, extract, train_one_pass
from greenprune_core.config import BudgetUnit, LearningRateShape, OptimiserConfig
from greenprune_core.cost.expected import ExpectedCost
from greenprune_core.evaluation import accuracy, reestimate_batch_statistics
from greenprune_core.gates import GatedNetwork
from greenprune_core.optimisation import build_optimiser, set_learning_rate
from greenprune_core.schedules import learning_rate_factor
from greenprune_core.state import laid_out
from greenprune_core.steps import in_precision
from greenprune_core.uniform import cut_fresh, nearest_share, uniform_masks

BACKWARD_FACTOR = 3
"""A backward pass counts as two forward passes, here as in greenprune_core.steps."""

EVALUATION_BATCH = 512
STATISTICS_IMAGES = 4096

Masks = dict[str, Tensor]
Row = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """What one arm needs to run."""

    base: TrialConfig
    """Network, images, optimiser and epochs of the setting; ours with its defaults beside."""
    data: ImageData
    device: str
    seed: int
    data_dir: str | None = None
    control_shape: LearningRateShape = "hold_then_cosine"
    """Course of the learning rate of whatever is not ours; hold_then_cosine falls where ours freezes at first."""

    @property
    def control_optimiser(self) -> OptimiserConfig:
        """The optimiser of whatever is not ours: that of ours, unless its course is told otherwise."""
        return replace(self.base.optimiser, shape=self.control_shape)

    def control_course(self) -> Callable[[float], float]:
        """Return the course of its learning rate over a run of its own."""
        optimiser = self.control_optimiser
        return learning_rate_factor(optimiser.shape, optimiser.ramp_up, self.base.phases.freeze_at)

    @property
    def n_steps(self) -> int:
        return self.base.epochs * self.data.n_steps(self.base.optimiser.batch_size)

    def dense_network(self) -> nn.Module:
        torch.manual_seed(self.seed)
        channels, _, side = self.data.input_shape
        network = build_network(self.base.network, n_classes=self.data.n_classes, in_channels=channels, image_size=side)
        return self.laid_out(network)

    def laid_out(self, network: nn.Module) -> nn.Module:
        """Put a network where and how all arms train."""
        return laid_out(network.to(self.device), self.base.execution)

    def example(self) -> Tensor:
        return torch.zeros(1, *self.data.input_shape, device=self.device)

    def gated(self, network: nn.Module | None = None) -> GatedNetwork:
        """Attach channel gates where ours has them, to a fresh dense network or to the given one."""
        network = self.dense_network() if network is None else network
        return attach_gates(network, self.example(), granularity="channel", streams=self.base.gates.streams)

    def macs(self, network: nn.Module) -> int:
        return count_cost(network, self.example()).macs

    def cost_of_steps(self, network: nn.Module, n_steps: int) -> float:
        return float(BACKWARD_FACTOR * self.macs(network) * n_steps * self.base.optimiser.batch_size)

    def shares(self, row: Row) -> dict[str, float]:
        """Return a row's costs over those of the dense network."""
        network = self.dense_network()
        dense = count_cost(network, self.example())
        return {
            "macs_kept": row["macs"] / dense.macs,
            "params_kept": row["params"] / dense.params,
            "train_macs_share": row["train_macs"] / self.cost_of_steps(network, self.n_steps),
        }

    def steps_for(self, network: nn.Module, train_macs: float) -> int:
        return max(1, int(train_macs / self.cost_of_steps(network, 1)))


def dense(bench: Bench) -> Row:
    """Train the dense network for the same epochs."""
    return _from_scratch(bench, bench.dense_network(), bench.n_steps)


def ours(bench: Bench, target: float, granularity: str, unit: BudgetUnit = "macs") -> Row:
    """Train gates and weights once, and end with a static network of at most the uniform control's share of MACs."""
    config = replace(
        bench.base,
        seed=bench.seed,
        budget=replace(bench.base.budget, target=uniform_share(bench, target)[1], unit=unit),
        gates=replace(bench.base.gates, granularity=granularity),
    )
    started = time.perf_counter()
    result = train_one_pass(config, bench.dense_network(), bench.data, device=bench.device)
    report = result.freeze_report
    return {
        "test_accuracy": result.test_accuracy,
        "val_accuracy": result.val_accuracy,
        "macs": result.cost.macs,
        "params": result.cost.params,
        "train_macs": result.train_macs,
        "seconds": time.perf_counter() - started,
        "masks": result.masks,
        "freeze_progress": None if report is None else report.progress,
        "disagreement": None if report is None else report.disagreement_mean,
        "flips": None if report is None else report.n_flipped,
        "kept_before_repair": None if report is None else report.kept_before_repair,
        "symptoms": [symptom["name"] for symptom in result.symptoms],
    }


def uniform(bench: Bench, target: float, train_macs: float | None = None) -> Row:
    """Train the uniformly narrower network from scratch, for the same epochs or for the same training cost."""
    gated = bench.gated()
    network = cut_fresh(gated, uniform_masks(gated, uniform_share(bench, target)[0]), bench.seed)
    n_steps = bench.n_steps if train_macs is None else bench.steps_for(network, train_macs)
    return _from_scratch(bench, network, n_steps)


def found_shape(bench: Bench, ours_row: Row) -> Row:
    """Train the network that ours found from scratch, for the same epochs."""
    network = cut_fresh(bench.gated(), _masks(ours_row), bench.seed)
    return _from_scratch(bench, network, bench.n_steps)


def random_mask(bench: Bench, ours_row: Row) -> Row:
    """Do as ours, with as many channels per layer, but drawn at random at the freeze."""
    started = time.perf_counter()
    network = bench.dense_network()
    n_before = round(ours_row["freeze_progress"] * bench.n_steps)
    course = learning_rate_factor(bench.base.optimiser.shape, bench.base.optimiser.ramp_up, ours_row["freeze_progress"])
    train(bench, network, bench.base.optimiser, n_before, course, total_steps=bench.n_steps)
    gated = bench.gated(network)
    generator = torch.Generator().manual_seed(bench.seed)
    masks = {name: mask[torch.randperm(len(mask), generator=generator)] for name, mask in _masks(ours_row).items()}
    small = extract(gated, masks).to(bench.device)
    reestimate_batch_statistics(small, bench.data.plain_batches("train", EVALUATION_BATCH, STATISTICS_IMAGES))
    n_after = bench.n_steps - n_before
    train(bench, small, bench.base.optimiser, n_after, course, total_steps=bench.n_steps, done=n_before)
    spent = bench.cost_of_steps(network, n_before) + bench.cost_of_steps(small, n_after)
    return judge(bench, small, spent, started)


def train(
    bench: Bench,
    network: nn.Module,
    optimiser: OptimiserConfig,
    n_steps: int,
    course: Callable[[float], float],
    *,
    total_steps: int | None = None,
    done: int = 0,
    regularise: Callable[[nn.Module], None] | None = None,
) -> None:
    """Take `n_steps` steps of the plain task loss.

    Args:
        course: Learning rate over its peak, of the progress through `total_steps` (default: `n_steps`).
        done: Steps taken before; they decide which images come next.
        regularise: Called with the network between the backward pass and the step.
    """
    torch.manual_seed(bench.seed)
    network = bench.laid_out(network).train()
    built = build_optimiser(optimiser, network, [], 1.0)
    per_epoch = bench.data.n_steps(optimiser.batch_size)
    layout = torch.channels_last if bench.base.execution.channels_last else torch.contiguous_format
    step, end = done, done + n_steps
    while step < end:
        epoch, first = divmod(step, per_epoch)
        for images, labels in bench.data.train_batches(
            optimiser.batch_size, seed=bench.seed, epoch=epoch, first_step=first
        ):
            set_learning_rate(built, optimiser, course(step / (total_steps or n_steps)))
            built.zero_grad(set_to_none=True)
            with in_precision(bench.base.execution, bench.device):
                logits = network(images.to(memory_format=layout))
                loss = nn.functional.cross_entropy(logits, labels, label_smoothing=bench.base.losses.label_smoothing)
            loss.backward()
            if regularise is not None:
                regularise(network)
            built.step()
            step += 1
            if step >= end:
                break


def uniform_share(bench: Bench, target: float) -> tuple[float, float]:
    """Find the share of channels per layer whose MACs come nearest to `target`, and those MACs over the dense ones."""
    gated = bench.gated()
    return nearest_share(gated, ExpectedCost(gated.structure, "macs"), target)


def _from_scratch(bench: Bench, network: nn.Module, n_steps: int) -> Row:
    started = time.perf_counter()
    train(bench, network, bench.control_optimiser, n_steps, bench.control_course())
    return judge(bench, network, bench.cost_of_steps(network, n_steps), started)


def judge(bench: Bench, network: nn.Module, train_macs: float, started: float) -> Row:
    cost = count_cost(network, bench.example())
    accuracies = {
        split: accuracy(network, bench.data.plain_batches(split, EVALUATION_BATCH)) for split in ("validation", "test")
    }
    return {
        "test_accuracy": accuracies["test"],
        "val_accuracy": accuracies["validation"],
        "macs": cost.macs,
        "params": cost.params,
        "train_macs": train_macs,
        "seconds": time.perf_counter() - started,
    }


def _masks(row: Row) -> Masks:
    return {name: torch.tensor(mask, dtype=torch.bool) for name, mask in row["masks"].items()}
