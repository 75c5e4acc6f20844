"""The losses of the one pass, as functions of plain tensors.

`L = task + w_budget * budget + w_polar * polar`, all weights functions of progress. The formulas are a reconstruction
(the abstract of arXiv 2302.10798 fixes only that a polarising loss and a user-defined sparsity exist); each docstring
names its own source. Shapes: N images, V gates, K classes.
"""

import torch
from torch import Tensor
from torch.nn import functional


def task_loss(logits_NK: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Return the mean cross-entropy (nats) with label smoothing (Szegedy 2016, arXiv 1512.00567).

    Args:
        logits_NK: the network's outputs.
        labels: classes, int64[N], or their probabilities, float[N, K].
        label_smoothing: share of the target spread over all classes, in [0, 1).
    """
    return functional.cross_entropy(logits_NK, labels, label_smoothing=label_smoothing)


def budget_loss(kept: Tensor, target: float) -> Tensor:
    """Return the squared distance of the kept fraction above its target, and 0 below it.

    One value for the whole network, weighted by cost, so that gates compete; zero force at the target, so it cannot
    collapse the network as a plain L1 can. (ConvNet-AIG, arXiv 1711.11503, sets a target per gate instead, which asks
    each gate to be open on that share of the images: the opposite of a consensus.)

    Args:
        kept: expected cost over dense cost, a scalar in [0, 1].
        target: kept fraction asked for now, in (0, 1].
    """
    return functional.relu(kept - target).square()


def ascend_multiplier(multiplier: Tensor, kept: Tensor, target: float, step: float) -> Tensor:
    """Return the budget's Lagrange multiplier after one step of dual ascent, never below 0.

    A squared hinge alone has a steady error (it stops pushing where its force equals the task's); the multiplier
    integrates that error away. Source: dual ascent, Boyd & Vandenberghe 2004, section 5; own measurement in
    `docs/method.md`.

    Args:
        multiplier: its present value, a scalar >= 0.
        kept: kept fraction now, a scalar.
        target: kept fraction asked for now.
        step: step size, >= 0.
    """
    return (multiplier + step * (kept - target)).clamp_min(0)


def polar_half_loss(decision_mean_V: Tensor) -> Tensor:
    """Return `mean 4 g (1 - g)` of the gates' batch means: the polariser as the paper is read here.

    For binary gates this is four times the variance of the gate across images. Replacing a gate by its majority flips
    it on a share m of the images with `g (1 - g) <= m <= 2 g (1 - g)`, so the term bounds the disagreement between
    the dynamic and the static network within a factor two.

    Args:
        decision_mean_V: mean of each gate over the batch, in [0, 1], differentiable.
    """
    return (4 * decision_mean_V * (1 - decision_mean_V)).mean()


def polar_variance_loss(probability_NV: Tensor) -> Tensor:
    """Return four times the mean variance across images of each gate's open probability.

    It makes a gate agree across images without saying on which side. Source: the regulariser of Zhuang 2020
    (NeurIPS, polarisation) read across images instead of across channels.

    Args:
        probability_NV: open probability per image and gate, in [0, 1], differentiable.
    """
    return 4 * probability_NV.var(dim=0, correction=0).mean()


def polar_watershed_loss(probability_mean_V: Tensor, kept_V: Tensor) -> Tensor:
    """Return `mean 4 (p - k)^2`: each gate is pulled to the side on which the budget would put it now.

    The watershed lies where the budget cuts the ranking, not at 0.5, so budget and polariser never disagree.
    Source: own (see `docs/method.md`).

    Args:
        probability_mean_V: batch mean of each gate's open probability, in [0, 1], differentiable.
        kept_V: mask that freezing now would keep, bool; no gradient flows through it.
    """
    return (4 * (probability_mean_V - kept_V.to(probability_mean_V.dtype)).square()).mean()


def disagreement_bounds(decision_mean_V: Tensor) -> tuple[Tensor, Tensor]:
    """Return bounds (each V) on the share of images on which a gate differs from its majority.

    Args:
        decision_mean_V: mean of each binary gate over images, in [0, 1].
    """
    spread = decision_mean_V * (1 - decision_mean_V)
    return spread, torch.clamp(2 * spread, max=0.5)
