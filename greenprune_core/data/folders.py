"""Images in folders, decoded by worker processes: Tiny ImageNet as published, and ImageNet-style trees."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from greenprune_core.config import DataConfig
from greenprune_core.data.raw import RawData
from greenprune_core.data.stores import DatasetStore
from greenprune_core.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

ENDINGS = (".jpeg", ".jpg", ".png", ".bmp", ".webp", ".ppm")

MOST_WORKERS = 4
IMAGES_PER_WORKER = 256
"""Fewer images than this do not pay for starting a worker process."""

TINY_URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
TINY_SOURCE = "Tiny ImageNet, Stanford CS231N, from ImageNet (non-commercial research and education only)"


@dataclass(frozen=True)
class ImageFiles:
    """A map-style data set of image files: (uint8[3, S, S], label)."""

    paths: Sequence[Path]
    targets: Sequence[int]
    side: int | None
    """Shorter side after resizing, and side of the centre crop; None reads images as they are."""

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return read_image(self.paths[index], self.side), self.targets[index]


def read_image(path: Path, side: int | None) -> Tensor:
    """Decode an image as RGB uint8[3, H, W]; with a side, resize the shorter side to it and crop the centre.

    Raises:
        DataError: the file is missing, truncated or no image.
    """
    from PIL import Image
    from torchvision.transforms.v2 import functional as transforms

    try:
        with Image.open(path) as file:
            image = _in_eight_bits(file).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"an image file must decode, but {path} does not ({error}); replace or remove it") from error
    if side is not None and image.size != (side, side):
        image = transforms.center_crop(transforms.resize(image, [side]), [side, side])
    pixels: Tensor = transforms.pil_to_tensor(image)
    return pixels


def _in_eight_bits(image: "Image.Image") -> "Image.Image":
    """Scale grey values of 16 bits down: converted as they are, all above 255 would be white."""
    if not image.mode.startswith("I"):
        return image
    return image.convert("I").point(lambda value: value / 257).convert("L")


def load_tiny_imagenet(config: DataConfig, data_dir: str | None) -> RawData:
    """Read Tiny ImageNet in its published layout; its labelled `val` folder is our test part.

    Raises:
        DataError: `data_dir` holds no such layout, a file is missing, or an annotation names an unknown class.
    """
    root = _find(data_dir, "tiny_imagenet", ("", "tiny-imagenet-200"), "wnids.txt", f"fetch {TINY_URL}, unpack it")
    ids = (root / "wnids.txt").read_text().split()
    labels = {wnid: k for k, wnid in enumerate(ids)}
    train = _by_turns([(path, labels[wnid]) for wnid in ids for path in _images(root / "train" / wnid / "images")])
    annotations = root / "val" / "val_annotations.txt"
    if not annotations.is_file():
        raise DataError(
            f"tiny_imagenet has the file val_annotations.txt, but {annotations} is missing; unpack it again"
        )
    test = []
    for number, line in enumerate(annotations.read_text().splitlines(), start=1):
        name, _, rest = line.partition("\t")
        wnid = rest.split("\t")[0]
        if wnid not in labels:
            raise DataError(f"classes are those of wnids.txt, but {annotations} line {number} has {wnid!r}; correct it")
        test.append((root / "val" / "images" / name, labels[wnid]))
    names = _words(root / "words.txt")
    return RawData(
        train=_store(train, config.image_size),
        test=_store(test, config.image_size),
        class_names=tuple(names.get(wnid, wnid) for wnid in ids),
        source=TINY_SOURCE,
    )


def load_folder(config: DataConfig, data_dir: str | None) -> RawData:
    """Read an ImageNet-style tree: `train/<class>/...` and `val/<class>/...` (or `test/`), which is our test part.

    Images are resized to `image_size` (shorter side, then centre crop); without it all must have one size.

    Raises:
        DataError: no such tree, an empty class, or a test class that training does not know.
    """
    root = _find(data_dir, "folder", ("",), "train", "lay the images out as train/<class>/ and val/<class>/")
    held = next((root / name for name in ("val", "test") if (root / name).is_dir()), None)
    if held is None:
        raise DataError(
            f"a folder data set has val/<class>/ beside train/, but {root} has neither val nor test; add it"
        )
    names = sorted(entry.name for entry in (root / "train").iterdir() if entry.is_dir())
    unknown = sorted({entry.name for entry in held.iterdir() if entry.is_dir()} - set(names))
    if unknown:
        raise DataError(
            f"test classes are training classes, but {held} has {unknown[0]!r}; add it to train or remove it"
        )
    parts = [
        [(path, k) for k, name in enumerate(names) for path in _images(part / name, needed=part.name == "train")]
        for part in (root / "train", held)
    ]
    return RawData(
        train=_store(_by_turns(parts[0]), config.image_size),
        test=_store(parts[1], config.image_size),
        class_names=tuple(names),
        source=f"images of the folder {root.name}",
    )


def _find(data_dir: str | None, name: str, inner: Sequence[str], mark: str, way_out: str) -> Path:
    if data_dir is None:
        raise DataError(f"{name} needs its folder, but no --data-dir was given; {way_out}, and name it with --data-dir")
    for folder in (Path(data_dir) / part for part in inner):
        if (folder / mark).exists():
            return folder
    raise DataError(f"{name} needs {mark} in its folder, but {data_dir} has none; {way_out}, and correct --data-dir")


def _images(folder: Path, needed: bool = True) -> list[Path]:
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS) if folder.is_dir() else []
    if needed and not found:
        raise DataError(f"every class has an image, but {folder} has none ({', '.join(ENDINGS)}); add some")
    return found


def _by_turns(pairs: Sequence[tuple[Path, int]]) -> list[tuple[Path, int]]:
    """Put one image of each class after the other, so that the first n (`n_train`) are of all classes."""
    n_met: Counter[int] = Counter()
    turns = []
    for path, label in pairs:
        turns.append((n_met[label], path, label))
        n_met[label] += 1
    return [(path, label) for _, path, label in sorted(turns, key=lambda turn: (turn[0], turn[2]))]


def _words(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    return dict(line.split("\t", 1) for line in path.read_text().splitlines() if "\t" in line)


def _store(pairs: Sequence[tuple[Path, int]], side: int | None) -> DatasetStore:
    if not pairs:
        raise DataError("both parts of a data set have an image, but one folder has none; add images")
    if side is not None and side < 1:
        raise DataError(
            f"image_size is a number of pixels, but got image_size={side}; leave it out to read images as they are"
        )
    paths, targets = zip(*pairs, strict=True)
    return DatasetStore(ImageFiles(paths, targets, side), torch.tensor(targets), _workers(len(pairs)))


def _workers(n_images: int) -> int:
    return min(MOST_WORKERS, len(os.sched_getaffinity(0)), n_images // IMAGES_PER_WORKER)
