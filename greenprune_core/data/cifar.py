"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009): 50,000 training and 10,000 test images of 32x32 pixels, by torchvision."""

from pathlib import Path
from typing import Any

import torch

from greenprune_core.config import DataConfig
from greenprune_core.data.places import one_at_a_time, reason, short_timeout
from greenprune_core.data.raw import RawData
from greenprune_core.data.stores import TensorStore
from greenprune_core.errors import DataError
from greenprune_core.home import cache_folder

SOURCE = "{name}, A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009 (no licence stated)"


def load_cifar10(_config: DataConfig, data_dir: str | None) -> RawData:
    """Read CIFAR-10 from `data_dir` (or the cache folder), downloading it there where it is missing.

    Raises:
        DataError: it is missing and cannot be downloaded, or a file is not the published one.
    """
    from torchvision.datasets import CIFAR10

    return _load(CIFAR10, data_dir)


def load_cifar100(_config: DataConfig, data_dir: str | None) -> RawData:
    """Read CIFAR-100 like `load_cifar10`.

    Raises:
        DataError: it is missing and cannot be downloaded, or a file is not the published one.
    """
    from torchvision.datasets import CIFAR100

    return _load(CIFAR100, data_dir)


def _load(dataset: Any, data_dir: str | None) -> RawData:
    name = dataset.__name__
    root = cache_folder() if data_dir is None else Path(data_dir)
    folder = root / dataset.base_folder
    try:
        with one_at_a_time(root), short_timeout():
            if not folder.is_dir():
                dataset(str(root), download=True)
        _check_files(dataset, folder)
        parts = [dataset(str(root), train=train) for train in (True, False)]
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"{name} needs the folder {dataset.base_folder}, but it is not in {root}, and the download failed "
            f"({reason(error)}); "
            f"fetch {dataset.url}, unpack it, and name the folder that holds {dataset.base_folder} with --data-dir"
        ) from error
    stores = [
        TensorStore(torch.from_numpy(part.data).permute(0, 3, 1, 2), torch.tensor(part.targets)) for part in parts
    ]
    return RawData(
        train=stores[0], test=stores[1], class_names=tuple(parts[0].classes), source=SOURCE.format(name=name)
    )


def _check_files(dataset: Any, folder: Path) -> None:
    """Look at every file's checksum before torchvision does: its message names no file."""
    from torchvision.datasets.utils import check_integrity

    for name, checksum in [*dataset.train_list, *dataset.test_list]:
        path = folder / name
        if not path.is_file():
            raise DataError(f"{dataset.__name__} needs the file {path}, but it is missing; unpack {dataset.url} again")
        if not check_integrity(str(path), checksum):
            raise DataError(
                f"{dataset.__name__} has files of known checksums, but {path} ({path.stat().st_size} bytes) differs; "
                f"it is truncated or changed: unpack {dataset.url} again"
            )
