"""Accuracy on a split, and batch statistics that fit the weights as they are."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@torch.no_grad()
def accuracy(network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Return the share of images whose largest logit is their label, in [0, 1], in evaluation mode."""
    n_right = n_images = 0
    with evaluating(network):
        for images, labels in batches:
            n_right += int((network(images).argmax(dim=1) == labels).sum())
            n_images += len(labels)
    return n_right / n_images


@torch.no_grad()
def reestimate_batch_statistics(network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> int:
    """Set the running statistics of all batch norms to the plain average over `batches`; return the number of images.

    After gates are fixed the inherited statistics are those of another network (accuracy falls to 10-70 % and comes
    back with this; also EagleEye, arXiv 2007.02491). Everything but the batch norms stays in evaluation mode.
    """
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    if not norms:
        return 0
    momenta = [norm.momentum for norm in norms]
    n_images = 0
    with evaluating(network):
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # cumulative average
            norm.train()
        for images, _ in batches:
            network(images)
            n_images += len(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return n_images


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Put the network into evaluation mode and give it back in the mode it was in."""
    was_training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was_training)
