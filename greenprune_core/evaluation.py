"""Accuracy on a split, exact outputs, and batch statistics that fit the weights as they are."""

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from greenprune_core.surroundings import own_settings

_PIXELS = 512 * 64 * 64


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


@own_settings()
@torch.no_grad()
def exact_outputs(network: nn.Module, inputs: Tensor) -> Tensor:
    """Return the outputs in evaluation mode, as exactly as two networks must be reckoned to be compared.

    Float32 is not reckoned with on a GPU, whose matrix units by default round it to ten bits (TF32), in each network in
    another way; types of 16 bits round as coarsely anywhere, and so do a caller's casts (`torch.autocast`), which are
    left out.
    """
    is_rounded = inputs.dtype in (torch.bfloat16, torch.float16)
    if is_rounded or (inputs.device.type == "cuda" and inputs.dtype == torch.float32):
        return _outputs_in_float64(network, inputs)
    with evaluating(network):
        outputs: Tensor = network(inputs)
    return outputs


def _outputs_in_float64(network: nn.Module, inputs: Tensor) -> Tensor:
    twin = copy.deepcopy(network).eval()
    try:
        outputs: Tensor = twin.double()(inputs.double())
    except RuntimeError:  # it casts to float32 on its way, or has no room: on a CPU float32 is exact enough
        outputs = twin.float().cpu()(inputs.cpu())
    return outputs.cpu()


def evaluation_batch(input_shape: Sequence[int]) -> int:
    """Return how many images of [C, H, W] are evaluated at once, without gradients and in float32: 512 up to 64x64."""
    _, height, width = input_shape
    return max(1, min(512, _PIXELS // (height * width)))


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Put the network into evaluation mode and give each of its modules back in the mode it was in."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
