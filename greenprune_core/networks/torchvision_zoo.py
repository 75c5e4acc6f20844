"""Any classifier of torchvision, with the number of classes, channels and the image size asked for."""

import difflib
from typing import Any

from torch import nn

from greenprune_core.errors import ConfigError

PREFIX = "torchvision/"

SMALL_IMAGE = 64
"""Up to this side the first convolution keeps the resolution, as is usual for CIFAR and Tiny ImageNet."""


def build_torchvision(name: str, *, n_classes: int, in_channels: int, image_size: int) -> nn.Module:
    """Build a classifier of torchvision without pre-trained weights.

    For images of at most 64 pixels the first convolution gets stride 1 (and a 7x7 one becomes 3x3), and the max
    pooling behind the stem of ResNets and DenseNets is left out: made for 224 pixels, they would shrink small images
    to one pixel before half of the depth.

    Raises:
        ConfigError: torchvision has no such classifier (the nearest are named), or it cannot take this image size.
    """
    import torchvision

    names = torchvision.models.list_models(module=torchvision.models)
    if name not in names:
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.4) or ["resnet18", "vgg16_bn"]
        raise ConfigError(f"torchvision has no classifier {name!r}, but got it; nearest: {', '.join(near)}")
    try:
        network: nn.Module = torchvision.models.get_model(
            name, weights=None, num_classes=n_classes, **_extra(name, image_size)
        )
    except (ValueError, RuntimeError, TypeError, AssertionError) as error:
        raise ConfigError(
            f"{PREFIX}{name} must take {image_size}x{image_size} images, but got {error}; set data.image_size=224"
        ) from error
    _fit_stem(network, in_channels, image_size)
    return network


def _extra(name: str, image_size: int) -> dict[str, Any]:
    """Arguments that single families need beyond the number of classes."""
    if name.startswith("vit_"):
        return {"image_size": image_size}
    if name.startswith("maxvit"):
        return {"input_size": (image_size, image_size)}
    if name in ("googlenet", "inception_v3"):
        return {"aux_logits": False, "init_weights": True}
    return {}


def _fit_stem(network: nn.Module, in_channels: int, image_size: int) -> None:
    name, stem = next((n, m) for n, m in network.named_modules() if isinstance(m, nn.Conv2d))
    kernel: Any = stem.kernel_size
    stride: Any = stem.stride
    padding: Any = stem.padding
    small = image_size <= SMALL_IMAGE and padding != (0, 0)  # patch embeddings have no padding and stay
    if small:
        stride = (1, 1)
        if kernel == (7, 7):
            kernel, padding = (3, 3), (1, 1)
        for pool in ("maxpool", "features.pool0"):
            if pool in dict(network.named_modules()):
                network.set_submodule(pool, nn.Identity())
    if (in_channels, kernel, stride) == (stem.in_channels, stem.kernel_size, stem.stride):
        return
    fitted = nn.Conv2d(in_channels, stem.out_channels, kernel, stride, padding, bias=stem.bias is not None)
    nn.init.kaiming_normal_(fitted.weight, mode="fan_out", nonlinearity="relu")
    network.set_submodule(name, fitted)
