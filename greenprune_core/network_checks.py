"""What a network and its images must keep to be trained in one pass, checked before the first step."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from greenprune_core.data import ImageData
from greenprune_core.errors import ConfigError, DataError, UnsupportedNetworkError
from greenprune_core.gates import GatedNetwork
from greenprune_core.gates.attach import check_module


def check_trainable(network: nn.Module, data: ImageData) -> None:
    """Check that there is something to learn, and from what.

    Raises:
        ConfigError: no module, weights without values, of another type than the images, or none that requires a
            gradient.
        DataError: one training image.
    """
    check_module(network)
    _check_weights(network)
    kind = type(network).__name__
    weights = [parameter for parameter in network.parameters() if parameter.is_floating_point()]
    if weights and weights[0].dtype != torch.float32:
        raise ConfigError(
            f"weights are trained in torch.float32, but {kind} has {weights[0].dtype}; convert it with .float() (the "
            "setting precision is that of the arithmetic)"
        )
    if weights and not any(weight.requires_grad for weight in weights):
        raise ConfigError(
            f"a pass learns weights, but of the {len(weights)} parameters of {kind} none requires a gradient; call "
            "requires_grad_() on those to be learnt"
        )
    if data.n_train < 2:
        raise DataError(
            f"a training batch has two images (batch normalisation needs them), but {data.name} has {data.n_train} for "
            "training; use more images"
        )


def _check_weights(network: nn.Module) -> None:
    """Check that there is a finite number behind every weight and statistic."""
    kind = type(network).__name__
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        if is_lazy(tensor) or tensor.is_meta:
            raise ConfigError(
                f"weights have values before they are trained, but {name} of {kind} has none yet; run a lazy network "
                "on a batch, and build none on the meta device"
            )
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ConfigError(
                f"weights are finite before they are trained, but {name} of {kind} holds NaN or infinity; start from "
                "others"
            )


def check_outputs(gated: GatedNetwork, data: ImageData) -> None:
    """Check that the network gives a logit for each class.

    Raises:
        UnsupportedNetworkError: outputs of another shape, too few, or with mixup too many.
    """
    shape = gated.structure.graph.graph.output_node().meta["shape"]
    n_classes, is_mixed = data.n_classes, data.config.mixup > 0
    if len(shape) != 2 or shape[1] < n_classes or (is_mixed and shape[1] > n_classes):
        wanted = f"{'' if is_mixed else 'at least '}{n_classes}"
        raise UnsupportedNetworkError(
            f"a classifier gives one value per class and image, [1, {wanted}] for one image of {data.name}, but got "
            f"{list(shape)}; give its last layer {n_classes} outputs"
        )


def check_same(own: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    """Compare names and shapes of a network's tensors with those of a checkpoint.

    Raises:
        ConfigError: they differ.
    """
    shapes, saved_shapes = ({name: _shape(value) for name, value in held.items()} for held in (own, saved))
    for name in [*shapes, *saved_shapes]:
        if shapes.get(name) != saved_shapes.get(name):
            raise ConfigError(
                f"a checkpoint must be of the same network, but its {name} is {saved_shapes.get(name, 'absent')} and "
                f"here it is {shapes.get(name, 'absent')}; pass the network that it was made with, or start anew"
            )


def facts_of(data: ImageData) -> dict[str, Any]:
    """Return what must be alike for a step to be the same one again, fit for JSON: numbers, shape, augmentation."""
    facts = asdict(data.config)
    del facts["name"]  # of one's own images it appears in messages only
    return facts | {"n_train": data.n_train, "n_classes": data.n_classes, "input_shape": list(data.input_shape)}


def check_same_data(data: ImageData, saved: Mapping[str, Any]) -> None:
    """Compare the images with those of a checkpoint; of one's own the configuration does not tell.

    Raises:
        ConfigError: they differ in number, shape or augmentation.
    """
    for name, value in facts_of(data).items():
        if saved.get(name, value) != value:
            raise ConfigError(
                f"a checkpoint must be of the same images, but its {name} is {saved[name]} and here it is {value}; "
                "pass the images that it was made with, or start anew"
            )


def _shape(value: Any) -> list[int]:
    return list(getattr(value, "shape", ()))
