"""Small data sets in the formats of the published ones, with random pixels."""

import gzip
import pickle
import random
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from greenprune_core.data.fashion_mnist import FILES


def make_fashion_mnist(folder: Path, n_train: int = 120, n_test: int = 40) -> Path:
    """Four gzipped IDX files."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(0)
    for n, (images, labels) in ((n_train, FILES[:2]), (n_test, FILES[2:])):
        header = struct.pack(">IIII", 0x803, n, 28, 28)
        (folder / images).write_bytes(gzip.compress(header + draw.randbytes(n * 28 * 28), compresslevel=1))
        content = struct.pack(">II", 0x801, n) + bytes(k % 10 for k in range(n))
        (folder / labels).write_bytes(gzip.compress(content))
    return folder


def make_cifar(monkeypatch: pytest.MonkeyPatch, root: Path, n_classes: int = 10, n_per_file: int = 40) -> Path:
    """The pickled batches of CIFAR-10 or 100; torchvision is told not to expect the published checksums."""
    from torchvision.datasets import CIFAR10, CIFAR100

    dataset = CIFAR10 if n_classes == 10 else CIFAR100
    folder = root / dataset.base_folder
    folder.mkdir(parents=True)
    names = [f"class{k}" for k in range(n_classes)]
    for part in ("train_list", "test_list"):
        monkeypatch.setattr(dataset, part, [[name, None] for name, _ in getattr(dataset, part)])
        for name, _ in getattr(dataset, part):
            pixels = np.random.default_rng(0).integers(0, 256, (n_per_file, 3 * 32 * 32), dtype=np.uint8)
            labels = [k % n_classes for k in range(n_per_file)]
            key = "labels" if n_classes == 10 else "fine_labels"
            (folder / name).write_bytes(pickle.dumps({"data": pixels, key: labels}))
    meta = {**dataset.meta, "md5": None}
    monkeypatch.setattr(dataset, "meta", meta)
    (folder / meta["filename"]).write_bytes(pickle.dumps({meta["key"]: names}))
    return root


def make_tiny_imagenet(root: Path, n_classes: int = 4, n_train: int = 12, n_test: int = 4, side: int = 64) -> Path:
    """The published layout: wnids.txt, words.txt, train/<wnid>/images, val with its annotations."""
    top = root / "tiny-imagenet-200"
    ids = [f"n{k:08d}" for k in range(n_classes)]
    lines = []
    for k, wnid in enumerate(ids):
        for n in range(n_train):
            save_image(top / "train" / wnid / "images" / f"{wnid}_{n}.JPEG", side, seed=100 * k + n)
        for n in range(n_test):
            name = f"val_{k * n_test + n}.JPEG"
            save_image(top / "val" / "images" / name, side, seed=5000 + 100 * k + n)
            lines.append(f"{name}\t{wnid}\t0\t0\t{side - 1}\t{side - 1}\n")
    (top / "wnids.txt").write_text("\n".join(ids) + "\n")
    (top / "words.txt").write_text("".join(f"{wnid}\tthing {k}, stuff\n" for k, wnid in enumerate(ids)))
    (top / "val" / "val_annotations.txt").write_text("".join(lines))
    return root


def make_folder(root: Path, n_classes: int = 3, n_train: int = 12, n_test: int = 4, side: int = 40) -> Path:
    """An ImageNet-style tree of train/<class> and val/<class>."""
    for part, n_images in (("train", n_train), ("val", n_test)):
        for k in range(n_classes):
            for n in range(n_images):
                save_image(root / part / f"class{k}" / f"{n}.png", side, seed=1000 * k + n)
    return root


def save_image(path: Path, side: int, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
