"""Fashion-MNIST (Zalando, MIT licence): 60,000 training and 10,000 test images of 28x28 grey pixels."""

from pathlib import Path

from greenprune_core.config import DataConfig
from greenprune_core.data.checks import check_labels
from greenprune_core.data.idx import read_idx
from greenprune_core.data.places import one_at_a_time, reason, short_timeout
from greenprune_core.data.raw import RawData
from greenprune_core.data.stores import TensorStore
from greenprune_core.errors import DataError
from greenprune_core.home import cache_folder

FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
SIDE = 28

SYSTEM_FOLDERS = (Path("/usr/share/datasets/fashion-mnist"), Path("/usr/local/share/datasets/fashion-mnist"))
"""Where Debian's package dataset-fashion-mnist puts the files."""

CLASS_NAMES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip

SOURCE = "Fashion-MNIST, Xiao, Rasul and Vollgraf, arXiv 1708.07747, Zalando SE (MIT licence)"


def load(_config: DataConfig, data_dir: str | None) -> RawData:
    """Read the set from `data_dir`, else from Debian's folder, else download it with torchvision.

    Raises:
        DataError: it is nowhere and cannot be downloaded, or a file is wrong.
    """
    with one_at_a_time(cache_folder() if data_dir is None else Path(data_dir)):
        folder = find_folder(data_dir) or _download(data_dir)
    stores = [_read(folder / images, folder / labels) for images, labels in (FILES[:2], FILES[2:])]
    return RawData(train=stores[0], test=stores[1], class_names=CLASS_NAMES, source=SOURCE)


def find_folder(data_dir: str | None) -> Path | None:
    """Return the first folder that holds one of the four files; a half-filled one is an error when it is read."""
    own = [] if data_dir is None else [Path(data_dir)]
    candidates = [folder / inner for folder in own for inner in ("", "fashion-mnist", "FashionMNIST/raw")]
    candidates += [*SYSTEM_FOLDERS, cache_folder() / "FashionMNIST" / "raw"]
    for folder in candidates:
        if any((folder / name).is_file() for name in FILES):
            return folder
    return None


def _download(data_dir: str | None) -> Path:
    from torchvision.datasets import FashionMNIST

    root = Path(data_dir) if data_dir is not None else cache_folder()
    try:
        with short_timeout():
            FashionMNIST(str(root), download=True)
    except (OSError, RuntimeError) as error:
        raise DataError(
            "fashion_mnist needs its four .gz files, but they are neither in "
            f"{data_dir if data_dir is not None else '--data-dir (not given)'} nor in {SYSTEM_FOLDERS[0]}, and the "
            f"download failed ({reason(error)}); "
            "apt install dataset-fashion-mnist, or give their folder as --data-dir"
        ) from error
    return root / "FashionMNIST" / "raw"


def _read(images_file: Path, labels_file: Path) -> TensorStore:
    for path in (images_file, labels_file):
        if not path.is_file():
            raise DataError(f"fashion_mnist is four .gz files, but {path} is missing; copy it there")
    images, labels = read_idx(images_file, 3), read_idx(labels_file, 1)
    if tuple(images.shape[1:]) != (SIDE, SIDE):
        raise DataError(
            f"fashion_mnist has images of {SIDE}x{SIDE}, but {images_file} has {images.shape[1]}x{images.shape[2]}; "
            "use the original files"
        )
    if len(images) != len(labels):
        raise DataError(
            f"every image has one label, but {images_file} has {len(images)} images and {labels_file} has "
            f"{len(labels)} labels; fetch both again"
        )
    return TensorStore(images, check_labels(labels, len(images), len(CLASS_NAMES), str(labels_file)))
