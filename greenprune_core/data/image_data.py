"""Images with a fixed training, validation and test part, handed out in batches that can be made again."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from greenprune_core.config import DataConfig
from greenprune_core.data.augment import flip, mixup, resized_crop, shift, step_generator
from greenprune_core.data.checks import check_config, check_numbering, check_same_shape, check_several_classes
from greenprune_core.data.own import loader_store, tensor_store
from greenprune_core.data.split import stratified_split
from greenprune_core.data.stores import Store, TensorStore
from greenprune_core.errors import DataError
from greenprune_core.surroundings import own_settings

Split = Literal["train", "validation", "test"]

STATISTICS_IMAGES = 2048
"""Images from which a data set behind a loader is normalised; one on the device uses all its training images."""

BLOCK = 1024


@dataclass(frozen=True, kw_only=True)
class ImageData:
    """Labelled images in three fixed parts, normalised by the statistics of the training part."""

    name: str
    config: DataConfig
    parts: dict[Split, Store]
    class_names: tuple[str, ...]
    source: str
    """Where the images come from, and their licence."""
    input_shape: tuple[int, int, int]
    """Channels, height and width of one image."""
    mean: Tensor
    """Mean of the training images, float32[C], on the device."""
    std: Tensor
    """Standard deviation of the training images, float32[C], on the device."""

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def n_train(self) -> int:
        """Number of training images."""
        return len(self.parts["train"].labels)

    @property
    def n_validation(self) -> int:
        """Number of validation images."""
        return len(self.parts["validation"].labels)

    @property
    def n_test(self) -> int:
        """Number of test images."""
        return len(self.parts["test"].labels)

    def n_steps(self, batch_size: int) -> int:
        """Count the training batches of one epoch: whole ones only, but at least one."""
        return max(1, self.n_train // batch_size)

    def train_batches(
        self, batch_size: int, *, seed: int, epoch: int, first_step: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the training batches of one epoch from `first_step` on.

        The order depends on (seed, epoch) and the augmentation on (seed, epoch, step) alone, and so do random changes
        that a data set behind a loader makes of its own: step k is the same whether or not the steps before it were
        made. An incomplete last batch is left out, unless it is the only one.

        Yields:
            Normalised images float32[n, C, H, W] and labels on the device: int64[n], or with mixup the classes'
            probabilities float32[n, K] (both fit torch.nn.functional.cross_entropy).
        """
        order = torch.randperm(self.n_train, generator=step_generator(seed, epoch))
        batches = [order[k * batch_size : (k + 1) * batch_size] for k in range(self.n_steps(batch_size))]
        reader = self.parts["train"].read(batches[first_step:], draw=step_generator(seed, epoch).initial_seed())
        for step, (images, labels) in enumerate(reader, start=first_step):
            generator = step_generator(seed, epoch, step)
            if self.config.crop is not None:
                images = resized_crop(images, self.config.crop, generator)
            if self.config.shift:
                images = shift(images, self.config.shift, generator)
            if self.config.flip:
                images = flip(images, generator)
            images = self._normalise(images)
            if self.config.mixup:
                images, labels = mixup(images, labels, self.config.mixup, self.n_classes, generator)
            yield images, labels

    def plain_batches(self, split: Split, batch_size: int, limit: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield all images of a part (or its first `limit`) in fixed order, normalised, without augmentation.

        Yields:
            Images float32[n, C, H, W] and labels int64[n] on the device; the last batch may be smaller.
        """
        part = self.parts[split]
        indices = torch.arange(len(part.labels))[:limit]
        for images, labels in part.read(torch.split(indices, batch_size)):
            yield self._normalise(images), labels

    def spread_batches(self, n_images: int, largest_batch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield so many training images, taken at equal distances: sets in folders often lie class by class.

        The batches are of one size, to within one image, for whoever averages over batches weighs them alike.

        Args:
            n_images: at most `n_train`.
            largest_batch: at least 2; no batch of one comes, of which batch normalisation knows no variance: of an odd
                number of images in batches of two, one batch has three.
        """
        indices = ((torch.arange(n_images) + 0.5) * self.n_train / n_images).long()
        n_batches = max(1, min(-(-n_images // largest_batch), n_images // 2))
        for images, labels in self.parts["train"].read(indices.tensor_split(n_batches)):
            yield self._normalise(images), labels

    def _normalise(self, images: Tensor) -> Tensor:
        return (images - self.mean[:, None, None]) / self.std[:, None, None]

    @classmethod
    @own_settings()
    def from_stores(
        cls,
        train: Store,
        test: Store,
        config: DataConfig,
        *,
        class_names: Sequence[str] | None = None,
        source: str = "the user's own",
        device: str = "cpu",
    ) -> Self:
        """Check, split, resize and measure two stores.

        Raises:
            DataError: values that break a rule, with the data set, the value and the way out.
        """
        check_config(config)
        n_classes = None if class_names is None else len(class_names)
        train = train.prepare(config.image_size, n_classes, device, f"{config.name} (train)")
        names = tuple(class_names or map(str, range(check_numbering(train.labels, f"{config.name} (train)"))))
        test = test.prepare(config.image_size, len(names), device, f"{config.name} (test)")
        kept, held = stratified_split(train.labels, config.validation_share, config.split_seed)
        if config.n_train is not None:
            if config.n_train > len(kept):
                raise DataError(
                    f"n_train is at most the number of training images, but got n_train={config.n_train} of "
                    f"{len(kept)} in {config.name}; leave it out to use all"
                )
            kept = kept[: config.n_train]
        check_several_classes(train.labels[kept], f"{config.name} (train)")
        parts: dict[Split, Store] = {"train": train.subset(kept), "validation": train.subset(held), "test": test}
        shape, mean, std = _statistics(parts["train"], config.split_seed)
        check_same_shape(shape, _shape(test), f"{config.name} (test)")
        return cls(
            name=config.name,
            config=config,
            parts=parts,
            class_names=names,
            source=source,
            input_shape=shape,
            mean=mean,
            std=std,
        )

    @classmethod
    def from_tensors(
        cls,
        train: tuple[Tensor, Tensor],
        test: tuple[Tensor, Tensor],
        config: DataConfig,
        *,
        class_names: Sequence[str] | None = None,
        device: str = "cpu",
    ) -> Self:
        """Take the user's own images and labels.

        Args:
            train: Images [N, C, H, W] or [N, H, W] and labels int[N]; validation is split off them. uint8 is read as
                0..255 over 255; floats are taken as they are, and lie in [0, 1] where a sub-network is to be saved.
            test: The same for the test part.
            config: Split, size and augmentation; its name appears in messages only.
            class_names: Names of the K classes; None numbers them up to the largest training label.
            device: Where the images lie from now on.

        Raises:
            ConfigError: `config` is no DataConfig.
            DataError: no pair of tensors, wrong shapes, NaN, or a label out of range.
        """
        check_config(config)
        return cls.from_stores(
            tensor_store(train, f"{config.name} (train)"),
            tensor_store(test, f"{config.name} (test)"),
            config,
            class_names=class_names,
            device=device,
        )

    @classmethod
    @own_settings()
    def from_loaders(
        cls,
        train: DataLoader[Any],
        test: DataLoader[Any],
        config: DataConfig,
        *,
        class_names: Sequence[str] | None = None,
        device: str = "cpu",
    ) -> Self:
        """Take the data sets and the number of worker processes of the user's own loaders.

        Order and batch size come from the trial's configuration, because any step must be repeatable; so is what a
        data set draws from torch, NumPy or Python to change an image. Images of the validation part are changed as
        well: augmentation is better left to `config`. The labels are the data sets' `targets`; without these, or
        with a `target_transform`, every item is read once.

        Raises:
            ConfigError: `config` is no DataConfig.
            DataError: it is no loader, streams, or samples or collates in its own way.
        """
        check_config(config)
        return cls.from_stores(
            loader_store(train, f"{config.name} (train)"),
            loader_store(test, f"{config.name} (test)"),
            config,
            class_names=class_names,
            device=device,
        )


def _shape(store: Store) -> tuple[int, ...]:
    """Shape of the first image, [C, H, W]; behind a loader the others are compared as they come."""
    images, _ = next(iter(store.read([torch.zeros(1, dtype=torch.int64)])))
    return tuple(images.shape[1:])


def _statistics(train: Store, seed: int) -> tuple[tuple[int, int, int], Tensor, Tensor]:
    """Shape of one image, and mean and standard deviation per channel; a constant channel gets deviation 1."""
    indices = torch.arange(len(train.labels))
    if not isinstance(train, TensorStore):
        indices = torch.randperm(len(indices), generator=torch.Generator().manual_seed(seed))[:STATISTICS_IMAGES]
    total = square = torch.zeros(())
    shape = (0, 0, 0)
    for images, _ in train.read(torch.split(indices, BLOCK)):
        total = total.to(images.device) + images.double().sum(dim=(0, 2, 3))
        square = square.to(images.device) + images.double().square().sum(dim=(0, 2, 3))
        shape = (images.shape[1], images.shape[2], images.shape[3])
    count = len(indices) * shape[1] * shape[2]
    mean = total / count
    std = (square / count - mean.square()).clamp_min(0).sqrt()
    std = torch.where(std > 1e-6, std, torch.ones_like(std))
    return shape, mean.float(), std.float()
