"""Rules that images and labels must keep before anything is learnt from them."""

from typing import Any

import torch
from torch import Tensor

from greenprune_core.config import DataConfig
from greenprune_core.errors import ConfigError, DataError


def check_config(config: Any) -> None:
    """Look whether split, size and augmentation are told by what tells them.

    Raises:
        ConfigError: something else was given, say the whole trial.
    """
    if not isinstance(config, DataConfig):
        raise ConfigError(
            f"split, size and augmentation of images are told by a DataConfig, but got {type(config).__name__}; a "
            "trial's own is config.data"
        )


def check_images(images: Tensor, where: str, numbers: Tensor | None = None) -> Tensor:
    """Return images as [N, C, H, W], uint8 (0..255) or float32 (finite).

    [N, H, W] becomes one channel; other float types become float32.

    Args:
        images: all of a data set, or one batch of it.
        where: the data set, for messages.
        numbers: int64[N], places of a batch's images in the data set.

    Raises:
        DataError: no tensor, not that many dimensions, no image, another type, or a value that is not finite.
    """
    _check_tensor(images, "images", where)
    if images.ndim == 3:
        images = images.unsqueeze(1)
    if images.ndim != 4 or 0 in images.shape:
        raise DataError(
            f"images have the shape [N, C, H, W] with N >= 1, but {where} has {list(images.shape)}; reshape them"
        )
    if images.dtype == torch.uint8:
        return images.contiguous()
    if not images.is_floating_point():
        raise DataError(f"images are uint8 or floating point, but {where} has {images.dtype}; convert them to uint8")
    images = images.detach().to(torch.float32)  # where a float64 may have become infinite
    finite = torch.isfinite(images).flatten(1).all(dim=1)
    if not bool(finite.all()):
        index = int((~finite).nonzero()[0])
        bad = images[index][~torch.isfinite(images[index])][0].item()
        number, all_bad = (index, f"these {int((~finite).sum())} images")
        if numbers is not None:
            number, all_bad = (int(numbers[index]), "it and others like it")
        raise DataError(
            f"image values are finite, but {where} holds {bad} in image {number}; remove or repair {all_bad}"
        )
    return images.contiguous()


def check_labels(labels: Tensor, n_images: int, n_classes: int | None, where: str) -> Tensor:
    """Return labels as int64[N] in [0, n_classes).

    Raises:
        DataError: no tensor, no image, another number of labels than images, not whole numbers, or out of range.
    """
    _check_tensor(labels, "labels", where)
    if labels.ndim != 1 or len(labels) != n_images or not n_images:
        raise DataError(
            f"a part has images, and each has one label, but {where} has {n_images} images and labels of shape "
            f"{list(labels.shape)}; give one class number per image"
        )
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise DataError(f"labels are whole numbers, but {where} has {labels.dtype}; convert them to int64")
    labels = labels.to(torch.int64)
    wrong = labels < 0 if n_classes is None else (labels < 0) | (labels >= n_classes)
    if bool(wrong.any()):
        index = int(wrong.nonzero()[0])
        upper = "number of classes" if n_classes is None else str(n_classes)
        raise DataError(
            f"labels lie in [0, {upper}), but {where} holds {int(labels[index])} at image {index}; "
            "number the classes from 0"
        )
    return labels


def check_numbering(labels: Tensor, where: str) -> int:
    """Return the number of classes of labels that come without names: the largest and one.

    Raises:
        DataError: most of the classes would have no image: the labels are other numbers than classes.
    """
    n_classes, n_met = int(labels.max()) + 1, len(torch.unique(labels))
    if n_classes > 10 * n_met and n_classes > n_met + 1000:
        raise DataError(
            f"labels number the classes from 0 without large gaps, but {where} has {n_met} different labels up to "
            f"{n_classes - 1}; number them anew (torch.unique with return_inverse=True) or name all classes"
        )
    return n_classes


def check_several_classes(labels: Tensor, where: str) -> None:
    """Look whether there is anything to tell apart.

    Raises:
        DataError: all images are of one class.
    """
    if len(labels) > 1 and bool((labels == labels[0]).all()):
        raise DataError(
            f"a classifier learns to tell classes apart, but all {len(labels)} training images of {where} are of class "
            f"{int(labels[0])}; add images of another class"
        )


def check_same_shape(train: tuple[int, ...], test: tuple[int, ...], where: str) -> None:
    """Compare the shapes [C, H, W] of training and test images.

    Raises:
        DataError: they differ.
    """
    if train != test:
        raise DataError(
            f"test images have the shape of the training images, {list(train)}, but {where} has {list(test)}; give "
            "them the same channels, and the same size or set image_size"
        )


def _check_tensor(values: Tensor, what: str, where: str) -> None:
    if not isinstance(values, Tensor):
        raise DataError(
            f"{what} are a torch.Tensor, but {where} has {type(values).__name__}; convert them with torch.as_tensor"
        )
    if values.layout != torch.strided:
        raise DataError(f"{what} are dense, but {where} has {values.layout}; call to_dense() on them")
