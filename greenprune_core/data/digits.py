"""Scans of handwritten digits that come with scikit-learn: 1,797 images of 8x8 pixels, no download."""

import importlib.util
from pathlib import Path

import numpy as np
import torch

from greenprune_core.config import DataConfig
from greenprune_core.data.raw import RawData
from greenprune_core.data.split import stratified_split
from greenprune_core.data.stores import TensorStore
from greenprune_core.errors import DataError

SIDE = 8
BRIGHTEST = 16

TEST_SHARE = 0.2
TEST_SEED = 0

SOURCE = (
    "Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, UCI, 1998 (CC BY 4.0): "
    "the 1,797 images shipped with scikit-learn"
)


def load(_config: DataConfig, _data_dir: str | None) -> RawData:
    """Read the digits: 359 for the test, always the same ones, 1,438 for training and validation.

    The set has no split of its own as shipped. Ours is random within each class, so writers appear on both sides:
    accuracies are higher than for unseen writers.

    Raises:
        DataError: scikit-learn is not installed.
    """
    table = np.loadtxt(_file(), delimiter=",", dtype=np.float32)
    images = torch.from_numpy(table[:, :-1]).reshape(-1, 1, SIDE, SIDE).div(BRIGHTEST)
    labels = torch.from_numpy(table[:, -1]).to(torch.int64)
    train, test = stratified_split(labels, TEST_SHARE, TEST_SEED)
    return RawData(
        train=TensorStore(images[train], labels[train]),
        test=TensorStore(images[test], labels[test]),
        class_names=tuple(str(digit) for digit in range(10)),
        source=SOURCE,
    )


def _file() -> Path:
    """Find the table in scikit-learn's folder; importing the library would take 1 to 4 s in every worker process."""
    spec = importlib.util.find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise DataError("digits come with scikit-learn, but it is not installed; pip install scikit-learn")
    path = Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"
    if not path.is_file():
        raise DataError(f"digits are the file {path}, but it is missing; reinstall scikit-learn")
    return path
