"""Where labelled images lie: all on the device as one tensor, or behind a data set read by worker processes."""

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from greenprune_core.data.augment import step_generator
from greenprune_core.data.checks import check_images, check_labels
from greenprune_core.data.resize import resize
from greenprune_core.data.transfer import sent
from greenprune_core.errors import DataError


class Store(Protocol):
    """Labelled images that can be read in any order."""

    @property
    def labels(self) -> Tensor:
        """int64[N], on the CPU."""
        ...

    def subset(self, indices: Tensor) -> "Store":
        """Keep only these images, in this order."""
        ...

    def prepare(self, image_size: int | None, n_classes: int | None, device: str, where: str) -> "Store":
        """Check, resize and place the images."""
        ...

    def read(self, batches: Iterable[Tensor], draw: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (images float32[n, C, H, W], labels int64[n]) on the device for each tensor of indices.

        Where the images' own data set changes them at random, it does so by `draw` and the batch alone.
        """
        ...


@dataclass(frozen=True)
class TensorStore:
    """All images as one tensor on the device: uint8 (read as 0..1) or float32 (read as they are)."""

    images: Tensor
    labels: Tensor

    def subset(self, indices: Tensor) -> "TensorStore":
        """Keep only these images, in this order."""
        return TensorStore(self.images[indices.to(self.images.device)], self.labels[indices])

    def prepare(self, image_size: int | None, n_classes: int | None, device: str, where: str) -> "TensorStore":
        """Check all values, resize, and move the images to the device.

        Raises:
            DataError: wrong shape or type, NaN, or a label out of range.
        """
        images = check_images(self.images, where)
        labels = check_labels(self.labels, len(images), n_classes, where)
        return TensorStore(resize(images, image_size, where).to(device), labels.cpu())

    def read(self, batches: Iterable[Tensor], draw: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """See `Store`; nothing is random here."""
        device = self.images.device
        for indices in batches:
            images = self.images[sent(indices, device)]
            if images.dtype == torch.uint8:
                images = images.to(torch.float32).mul_(1 / 255)
            yield images, sent(self.labels[indices], device)


@dataclass(frozen=True)
class DatasetStore:
    """A map-style data set of (image tensor [C, H, W], label), read by worker processes.

    Its images are checked batch by batch, as they come.
    """

    dataset: Any
    labels: Tensor
    """int64[N]; known beforehand, because the split needs them."""
    workers: int = 0
    indices: Tensor | None = None
    """Positions in the data set; None is all of them."""
    image_size: int | None = None
    device: str = "cpu"
    where: str = "the data set"

    def subset(self, indices: Tensor) -> "DatasetStore":
        """Keep only these images, in this order."""
        positions = indices if self.indices is None else self.indices[indices]
        return DatasetStore(
            self.dataset, self.labels[indices], self.workers, positions, self.image_size, self.device, self.where
        )

    def prepare(self, image_size: int | None, n_classes: int | None, device: str, where: str) -> "DatasetStore":
        """Check the labels; remember the rest for reading.

        Raises:
            DataError: a label is out of range.
        """
        labels = check_labels(self.labels, len(self.labels), n_classes, where)
        return DatasetStore(self.dataset, labels, self.workers, self.indices, image_size, device, where)

    def read(self, batches: Iterable[Tensor], draw: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """See `Store`.

        Raises:
            DataError: an image cannot be read, has another size than its neighbours, or holds NaN.
        """
        chosen = list(batches)
        positions = [batch if self.indices is None else self.indices[batch] for batch in chosen]
        loader: DataLoader[Any] = DataLoader(
            _Guarded(self.dataset, draw),
            batch_sampler=[batch.tolist() for batch in positions],
            num_workers=self.workers,
            collate_fn=_stack,
            pin_memory=self.device != "cpu",
            generator=torch.Generator(),  # of the workers' seeds, else drawn from the caller's
        )
        for indices, numbers, images in zip(chosen, positions, loader, strict=True):
            if isinstance(images, str):
                raise DataError(images)
            checked = check_images(images, self.where, numbers)
            ready = sent(resize(checked, self.image_size, self.where), self.device)
            if ready.dtype == torch.uint8:
                ready = ready.to(torch.float32).mul_(1 / 255)
            yield ready, sent(self.labels[indices], self.device)


@contextmanager
def drawn_from(*numbers: int) -> Iterator[None]:
    """Let what torch, NumPy and Python draw inside depend on these numbers alone; the caller's states stay."""
    seed = step_generator(*numbers).initial_seed()
    of_python, of_numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=()):
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(of_python)
            np.random.set_state(of_numpy)


class _Guarded(Dataset[Any]):
    """Let a batch's random changes follow from numbers that tell it, and hand errors over as text.

    Raised in a worker process errors would arrive wrapped in a traceback.
    """

    def __init__(self, dataset: Any, draw: int) -> None:
        self.dataset = dataset
        self.draw = draw

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, indices: list[int]) -> list[Tensor | str]:
        with drawn_from(self.draw, indices[0]):  # once a batch: it takes as long as to read a small image
            return [self[index] for index in indices]

    def __getitem__(self, index: int) -> Tensor | str:
        try:
            image = self.dataset[index][0]
        except DataError as error:
            return str(error)
        except Exception as error:  # noqa: BLE001 - the user's own code may raise anything
            return (
                f"every image of a data set can be read, but image {index} raised {type(error).__name__}: {error}; "
                "repair or remove it"
            )
        if not isinstance(image, Tensor):
            return (
                f"a data set gives (image tensor [C, H, W], label), but image {index} is a {type(image).__name__}; "
                "give it a transform such as torchvision.transforms.v2.functional.pil_to_tensor"
            )
        return image


def _stack(images: list[Tensor | str]) -> Tensor | str:
    tensors = [image for image in images if isinstance(image, Tensor)]
    errors = [image for image in images if isinstance(image, str)]
    if errors:
        return errors[0]
    shapes = sorted({tuple(image.shape) for image in tensors})
    if len(shapes) > 1:
        return f"images of one data set have one shape, but got {shapes[0]} and {shapes[1]}; set image_size"
    return torch.stack(tensors)
