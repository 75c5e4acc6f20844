"""From a name to a dense network with fresh or given weights."""

import difflib
import re
from collections.abc import Callable

from torch import nn

from greenprune_core.config import NetworkConfig
from greenprune_core.errors import ConfigError
from greenprune_core.networks.cifar_resnet import cifar_resnet
from greenprune_core.networks.cifar_vgg import STAGES, cifar_vgg
from greenprune_core.networks.starting_weights import load_starting_weights
from greenprune_core.networks.torchvision_zoo import PREFIX, build_torchvision
from greenprune_core.references import check_takes, is_reference, load_reference

Constructor = Callable[..., nn.Module]
"""Called with n_classes, in_channels, image_size and width by name; returns a network from images to logits."""

_CONSTRUCTORS: dict[str, Constructor] = {}


def network_names() -> tuple[str, ...]:
    """Names that `build_network` knows in this process; torchvision's are any classifier of that library."""
    resnets = tuple(f"cifar_resnet{depth}" for depth in (8, 14, 20, 32, 44, 56, 110))
    return (*resnets, *(f"cifar_vgg{depth}" for depth in STAGES), f"{PREFIX}<name>", *_CONSTRUCTORS)


def register_network(name: str, constructor: Constructor) -> None:
    """Make a network known by name in this process.

    Worker processes of a search do not see it: there, name it `module:function` or `file.py:function`.

    Args:
        name: A free name without a colon.
        constructor: Called with n_classes, in_channels, image_size and width by name.

    Raises:
        ConfigError: the name is taken or holds a colon.
    """
    if name in network_names() or ":" in name or _shipped(name) is not None:
        raise ConfigError(f"a new network needs a free name without a colon, but got {name!r}; take another")
    _CONSTRUCTORS[name] = constructor


def build_network(config: NetworkConfig, *, n_classes: int, in_channels: int, image_size: int) -> nn.Module:
    """Build a dense network; fresh weights are drawn from torch's global generator, which the caller seeds.

    Raises:
        ConfigError: no network has that name (the nearest are named), its constructor takes other arguments, it does
            not fit the images, or the file of starting weights does not fit it.
    """
    constructor = _constructor(config.name)
    if config.name.startswith(PREFIX) and config.width != NetworkConfig().width:
        raise ConfigError(
            f"width is for networks that take it, but got width={config.width} with {config.name}; leave it out"
        )
    sizes = {"n_classes": n_classes, "in_channels": in_channels, "image_size": image_size, "width": config.width}
    check_takes(
        constructor,
        config.name,
        "a network's constructor takes n_classes, in_channels, image_size and width by name",
        **sizes,
    )
    network = constructor(**sizes)
    if not isinstance(network, nn.Module):
        raise ConfigError(
            f"a network is a torch.nn.Module, but {config.name} made a {type(network).__name__}; return the module"
        )
    if config.init is not None:
        load_starting_weights(network, config.init)
    return network


def _constructor(name: str) -> Constructor:
    if is_reference(name):
        own: Constructor = load_reference(name)
        return own
    found = _CONSTRUCTORS.get(name) or _shipped(name)
    if found is None:
        near = difflib.get_close_matches(name, network_names(), n=3, cutoff=0.4) or list(network_names())
        raise ConfigError(
            "a network is cifar_resnet<6n+2>, cifar_vgg<11|13|16|19>, torchvision/<name> or a reference like "
            f"file.py:function, but got {name!r}; nearest: {', '.join(near)}"
        )
    return found


def _shipped(name: str) -> Constructor | None:
    resnet, vgg = re.fullmatch(r"cifar_resnet(\d+)", name), re.fullmatch(r"cifar_vgg(\d+)", name)
    if resnet and (depth := int(resnet[1])) >= 8 and (depth - 2) % 6 == 0:
        return lambda image_size, **sizes: cifar_resnet(depth, **sizes)
    if vgg and (depth := int(vgg[1])) in STAGES:
        return lambda **sizes: cifar_vgg(depth, **sizes)
    if name.startswith(PREFIX):
        return lambda width, **sizes: build_torchvision(name.removeprefix(PREFIX), **sizes)
    return None
