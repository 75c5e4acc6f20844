"""From a name to images: shipped data sets, registered ones, and references to the user's own."""

import difflib
from collections.abc import Callable

from greenprune_core.config import DataConfig
from greenprune_core.data import cifar, digits, fashion_mnist, folders
from greenprune_core.data.checks import check_config
from greenprune_core.data.image_data import ImageData
from greenprune_core.data.raw import RawData
from greenprune_core.devices import present_device
from greenprune_core.errors import ConfigError, DataError
from greenprune_core.references import check_takes, is_reference, load_reference
from greenprune_core.surroundings import own_settings

Loader = Callable[[DataConfig, str | None], RawData]
"""Finds a data set, given its configuration and the folder named by --data-dir."""

_LOADERS: dict[str, Loader] = {
    "digits": digits.load,
    "fashion_mnist": fashion_mnist.load,
    "cifar10": cifar.load_cifar10,
    "cifar100": cifar.load_cifar100,
    "tiny_imagenet": folders.load_tiny_imagenet,
    "folder": folders.load_folder,
}


def data_names() -> tuple[str, ...]:
    """Names that `load_data` knows in this process."""
    return tuple(_LOADERS)


def register_data(name: str, loader: Loader) -> None:
    """Make a data set known by name in this process.

    Worker processes of a search do not see it: there, name it `module:function` or `file.py:function`.

    Raises:
        ConfigError: the name is taken or holds a colon.
    """
    if name in _LOADERS or ":" in name:
        raise ConfigError(f"a new data set needs a free name without a colon, but got {name!r}; take another")
    _LOADERS[name] = loader


@own_settings()
def load_data(config: DataConfig, data_dir: str | None = None, device: str = "cpu") -> ImageData:
    """Find, check, split, resize and place a data set.

    Args:
        config: Which one, and what is done with it.
        data_dir: Folder in which to look first.
        device: Where its tensors lie.

    Raises:
        ConfigError: no data set has that name (the nearest are named), its loader takes other arguments, or there is no
            such device.
        DataError: it is not there (with what to do), or a file or value is wrong (with which).
    """
    check_config(config)
    present_device(device)
    loader = _loader(config.name)
    check_takes(loader, config.name, "a data loader takes the configuration and the folder", config, data_dir)
    raw = loader(config, data_dir)
    if not isinstance(raw, RawData):
        raise DataError(
            f"a data loader returns RawData, but {config.name} returned {type(raw).__name__}; "
            "see greenprune_core.data.RawData"
        )
    return ImageData.from_stores(
        raw.train, raw.test, config, class_names=raw.class_names, source=raw.source, device=device
    )


def _loader(name: str) -> Loader:
    if is_reference(name):
        loader: Loader = load_reference(name)
        return loader
    if name not in _LOADERS:
        near = difflib.get_close_matches(name, _LOADERS, n=3, cutoff=0.4) or list(_LOADERS)
        raise ConfigError(
            f"a data set is {', '.join(_LOADERS)} or a reference like file.py:function, but got {name!r}; "
            f"nearest: {', '.join(near)}"
        )
    return _LOADERS[name]
