import shutil
import threading
import time
from pathlib import Path

import pytest
import torch
from data_maker import make_cifar

from greenprune_core.config import DataConfig
from greenprune_core.data import cifar, load_data
from greenprune_core.errors import DataError


@pytest.mark.parametrize(("name", "n_classes", "n_files"), [("cifar10", 10, 5), ("cifar100", 100, 1)])
def test_published_files_are_read(tmp_path, monkeypatch, name, n_classes, n_files):
    root = make_cifar(monkeypatch, tmp_path, n_classes, n_per_file=100)
    data = load_data(DataConfig(name=name), str(root))
    assert data.n_train + data.n_validation == n_files * 100
    assert (data.n_test, data.n_classes, data.input_shape) == (100, n_classes, (3, 32, 32))
    assert data.class_names[1] == "class1"
    assert data.mean.shape == (3,)


def test_channels_lie_before_rows(tmp_path, monkeypatch):
    import pickle

    root = make_cifar(monkeypatch, tmp_path)
    content = pickle.loads((root / "cifar-10-batches-py" / "test_batch").read_bytes())
    images = load_data(DataConfig(name="cifar10"), str(root)).parts["test"].images
    assert torch.equal(images.flatten(1), torch.from_numpy(content["data"]))


def test_a_changed_file_is_named(tmp_path, monkeypatch):
    root = make_cifar(monkeypatch, tmp_path)
    from torchvision.datasets import CIFAR10

    published = [["data_batch_1", "c99cafc152244af753f735de768cd75f"], *CIFAR10.train_list[1:]]
    monkeypatch.setattr(CIFAR10, "train_list", published)
    with pytest.raises(DataError, match=r"data_batch_1 \(\d+ bytes\) differs"):
        load_data(DataConfig(name="cifar10"), str(root))


def test_a_missing_file_is_named(tmp_path, monkeypatch):
    root = make_cifar(monkeypatch, tmp_path)
    (root / "cifar-10-batches-py" / "data_batch_4").unlink()
    with pytest.raises(DataError, match="data_batch_4, but it is missing"):
        load_data(DataConfig(name="cifar10"), str(root))


def test_without_files_and_network_one_line_says_what_to_do(tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR10

    def refuse(self):
        raise OSError("a first line\nno network")

    monkeypatch.setattr(CIFAR10, "download", refuse)
    with pytest.raises(
        DataError, match=r"\(no network\); fetch https://.*cifar-10-python.tar.gz.*--data-dir"
    ) as caught:
        load_data(DataConfig(name="cifar10"), str(tmp_path))
    assert "\n" not in str(caught.value)


def test_downloads_go_to_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cifar.cache_folder() == tmp_path / "greenprune"


def test_trials_that_begin_together_on_a_node_download_once(tmp_path, monkeypatch):
    from concurrent.futures import ThreadPoolExecutor

    from torchvision.datasets import CIFAR10

    root = make_cifar(monkeypatch, tmp_path / "published")
    begun, fetched = threading.Barrier(4), []

    def fetch(self):
        folder = Path(self.root) / self.base_folder
        if folder.is_dir():
            return  # torchvision looks whether the files are there
        fetched.append(folder)
        folder.mkdir()
        for file in (root / self.base_folder).iterdir():
            time.sleep(0.01)  # so that a second one would find half of the files
            shutil.copy2(file, folder)

    def load(_):
        begun.wait()
        return load_data(DataConfig(name="cifar10"), str(tmp_path / "node")).n_test

    monkeypatch.setattr(CIFAR10, "download", fetch)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(load, range(4))) == [40] * 4
    assert len(fetched) == 1
