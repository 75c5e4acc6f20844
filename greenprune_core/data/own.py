"""What a user brings in Python, pairs of tensors and loaders, and what of it would be left out."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    default_collate,
    default_convert,
)

from greenprune_core.data.stores import DatasetStore, TensorStore, drawn_from
from greenprune_core.errors import DataError


def tensor_store(pair: Any, where: str) -> TensorStore:
    """Return a store of a pair (images, labels).

    Raises:
        DataError: it is no pair.
    """
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        size = f" of {len(pair)}" if isinstance(pair, tuple | list) else ""
        raise DataError(
            f"a part is a pair (images, labels), but {where} is a {type(pair).__name__}{size}; give these two tensors"
        )
    return TensorStore(*pair)


def loader_store(loader: Any, where: str) -> DatasetStore:
    """Return a store of a loader's data set, read by as many workers.

    Raises:
        DataError: it is no loader, or would stream, sample or collate in its own way; or its labels cannot be read.
    """
    if not isinstance(loader, DataLoader):
        raise DataError(
            f"a loader is a torch.utils.data.DataLoader, but {where} is a {type(loader).__name__}; wrap a data set in "
            "one"
        )
    if isinstance(loader.dataset, IterableDataset):
        raise DataError(
            f"a loader needs a data set with positions, but {where} streams ({type(loader.dataset).__name__}); "
            "write its images to a folder or give tensors"
        )
    brought = [loader.sampler] if loader.batch_sampler is None else [loader.sampler, loader.batch_sampler]
    for sampler in brought:
        if not isinstance(sampler, RandomSampler | SequentialSampler) and type(sampler) is not BatchSampler:
            raise DataError(
                f"the order of images is drawn from the trial's seed, but {where} brings {type(sampler).__name__}; "
                "use a loader without a sampler"
            )
    if loader.collate_fn not in (default_collate, default_convert):
        name = getattr(loader.collate_fn, "__name__", type(loader.collate_fn).__name__)
        raise DataError(
            f"batches are put together from the data set's images as they are, but {where} brings collate_fn={name}, "
            "which would be left out; do in the data set what it does"
        )
    return DatasetStore(loader.dataset, _labels(loader.dataset, where), loader.num_workers)


def _labels(dataset: Any, where: str) -> Tensor:
    targets = getattr(dataset, "targets", None)
    if getattr(dataset, "target_transform", None) is not None:
        targets = None  # torchvision keeps them as they are in the files
    try:
        with drawn_from(0):
            return torch.as_tensor([dataset[k][1] for k in range(len(dataset))] if targets is None else targets)
    except Exception as error:  # whatever the user's own code raises
        raise DataError(
            f"a data set gives (image tensor [C, H, W], class number), but the labels of {where} raised "
            f"{type(error).__name__}: {error}; give it whole numbers as targets"
        ) from error
