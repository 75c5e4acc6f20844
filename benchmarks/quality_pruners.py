"""Multi-stage baselines of benchmarks/quality.py: train, prune with Torch-Pruning, train again.

Half of the multiply-accumulates that ours spent with the same seed go to the dense network, half to the pruned one.
Both stages run the whole course from the full learning rate (rewinding, Renda 2020, arXiv 2003.02389), which is better
than fine-tuning at a low rate. Torch-Pruning prunes the layers that it likes, but for those of `_kept_whole`.
"""

import time
from typing import Any

import torch_pruning as tp
from quality_arms import EVALUATION_BATCH, STATISTICS_IMAGES, Bench, Row, judge, train, uniform_share
from torch import nn

from greenprune_core.evaluation import reestimate_batch_statistics
from greenprune_core.networks.cifar_resnet import BasicBlock

SMALL_STEPS = 400
"""Steps in which the pruning ratio rises until the MACs fit."""


def slimming(bench: Bench, target: float, train_macs: float) -> Row:
    """Network slimming (Liu 2017, arXiv 1708.06519): l1 on batch norms' scales, cut the smallest of all."""
    return _two_stages(
        bench, target, train_macs, tp.pruner.BNScalePruner, tp.importance.BNScaleImportance(), global_pruning=True,
        regularised=True, reg=1e-4,
    )  # fmt: skip


def magnitude(bench: Bench, target: float, train_macs: float) -> Row:
    """l1-norm pruning (Li 2017, arXiv 1608.08710): the same share of each layer, filters of the smallest norm."""
    return _two_stages(
        bench, target, train_macs, tp.pruner.BasePruner, tp.importance.MagnitudeImportance(p=1), global_pruning=False,
        regularised=False,
    )  # fmt: skip


def depgraph(bench: Bench, target: float, train_macs: float) -> Row:
    """DepGraph (Fang 2023, arXiv 2301.12900): group-norm sparse learning, cut the smallest groups of all layers."""
    return _two_stages(
        bench, target, train_macs, tp.pruner.GroupNormPruner, tp.importance.GroupMagnitudeImportance(p=2),
        global_pruning=True, regularised=True, reg=5e-4,
    )  # fmt: skip


def _two_stages(
    bench: Bench,
    target: float,
    train_macs: float,
    pruner_class: Any,
    importance: Any,
    *,
    global_pruning: bool,
    regularised: bool,
    **extra: Any,
) -> Row:
    started = time.perf_counter()
    network = bench.dense_network()
    n_first = bench.steps_for(network, train_macs / 2)
    spent = bench.cost_of_steps(network, n_first)
    pruner = pruner_class(
        network, bench.example(), importance, global_pruning=global_pruning, pruning_ratio=0.98, max_pruning_ratio=0.95,
        iterative_steps=SMALL_STEPS, ignored_layers=_kept_whole(network), **extra,
    )  # fmt: skip
    if regularised:
        pruner.update_regularizer()
    optimiser = bench.control_optimiser
    train(
        bench,
        network,
        optimiser,
        n_first,
        bench.control_course(),
        regularise=pruner.regularize if regularised else None,
    )
    limit = uniform_share(bench, target)[1] * bench.macs(network)
    for _ in range(SMALL_STEPS):
        if bench.macs(network) <= limit * 1.0001:
            break
        pruner.step()
    reestimate_batch_statistics(network, bench.data.plain_batches("train", EVALUATION_BATCH, STATISTICS_IMAGES))
    n_second = bench.steps_for(network, train_macs - spent)
    train(bench, network, optimiser, n_second, bench.control_course(), total_steps=n_second, done=0)
    return judge(bench, network, spent + bench.cost_of_steps(network, n_second), started)


def _kept_whole(network: nn.Module) -> list[nn.Module]:
    """Layers that are not pruned: the classifier, and in CIFAR ResNets the residual stream.

    Its zero-padded shortcuts are beyond Torch-Pruning's graph, and ours leaves the stream whole as well.
    """
    linear = [module for module in network.modules() if isinstance(module, nn.Linear)]
    blocks = [module for module in network.modules() if isinstance(module, BasicBlock)]
    stream: list[nn.Module] = [block.conv2 for block in blocks]
    if blocks:
        stream.append(next(module for module in network.modules() if isinstance(module, nn.Conv2d)))
    return [linear[-1], *stream]
