import gzip
import struct
import urllib.request

import pytest
import torch

from greenprune_core.config import DataConfig
from greenprune_core.data import fashion_mnist, load_data
from greenprune_core.errors import DataError

CONFIG = DataConfig(name="fashion_mnist")


@pytest.fixture
def folder(tmp_path):
    """A folder of the right format with 40 training and 20 test images."""
    for n, (images, labels) in ((40, fashion_mnist.FILES[:2]), (20, fashion_mnist.FILES[2:])):
        pixels = bytes(k % 251 for k in range(n * 28 * 28))
        write(tmp_path / images, struct.pack(">IIII", 0x803, n, 28, 28) + pixels)
        write(tmp_path / labels, struct.pack(">II", 0x801, n) + bytes(k % 10 for k in range(n)))
    return tmp_path


def write(path, content):
    path.write_bytes(gzip.compress(content))


def test_a_folder_named_by_hand_is_read(folder):
    data = load_data(CONFIG, str(folder))
    assert (data.n_train, data.n_validation, data.n_test) == (36, 4, 20)
    assert data.input_shape == (1, 28, 28)
    assert data.class_names[9] == "Ankle boot"


def test_pixels_arrive_as_they_are_in_the_file(folder):
    data = load_data(CONFIG, str(folder))
    images, _ = next(data.plain_batches("test", 20))
    raw = torch.arange(20 * 28 * 28).remainder(251).reshape(20, 1, 28, 28)
    assert torch.allclose(images * data.std + data.mean, raw / 255, atol=1e-6)


def test_pooling_averages_whole_blocks(folder):
    small = load_data(DataConfig(name="fashion_mnist", image_size=14), str(folder)).parts["test"].images
    raw = load_data(CONFIG, str(folder)).parts["test"].images.float() / 255
    assert small.shape == (20, 1, 14, 14)
    assert torch.allclose(small[3, 0, 2, 5], raw[3, 0, 4:6, 10:12].mean())


def test_padding_surrounds_with_zeros(folder):
    padded = load_data(DataConfig(name="fashion_mnist", image_size=32), str(folder)).parts["test"].images
    raw = load_data(CONFIG, str(folder)).parts["test"].images
    assert torch.equal(padded[:, :, 2:30, 2:30], raw)
    assert padded.sum() == raw.sum()


@pytest.mark.parametrize("size", [13, 0, 27])
def test_a_size_that_does_not_divide_is_refused_with_those_that_do(folder, size):
    with pytest.raises(DataError, match=rf"image_size={size} .*2, 4, 7, 14"):
        load_data(DataConfig(name="fashion_mnist", image_size=size), str(folder))


def test_a_truncated_file_is_named(folder):
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz is not .*fetch it again"):
        load_data(CONFIG, str(folder))


def test_a_file_shorter_than_its_header_says_is_named_with_both_sizes(folder):
    write(folder / "t10k-images-idx3-ubyte.gz", struct.pack(">IIII", 0x803, 20, 28, 28) + bytes(100))
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte\.gz has 100 instead of 15680"):
        load_data(CONFIG, str(folder))


def test_other_bytes_than_idx_are_named(folder):
    write(folder / "t10k-labels-idx1-ubyte.gz", b"<html>not found</html>")
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte\.gz begins with 3c68746d"):
        load_data(CONFIG, str(folder))


def test_a_label_out_of_range_is_named(folder):
    write(folder / "train-labels-idx1-ubyte.gz", struct.pack(">II", 0x801, 40) + bytes([0] * 39 + [10]))
    with pytest.raises(DataError, match=r"\[0, 10\).*train-labels.* holds 10 at image 39"):
        load_data(CONFIG, str(folder))


def test_images_and_labels_of_other_numbers_are_refused(folder):
    write(folder / "train-labels-idx1-ubyte.gz", struct.pack(">II", 0x801, 39) + bytes(39))
    with pytest.raises(DataError, match=r"40 images .* 39"):
        load_data(CONFIG, str(folder))


def test_a_missing_file_of_the_four_is_named(folder):
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte\.gz is missing"):
        load_data(CONFIG, str(folder))


def test_without_files_and_network_one_line_says_what_to_do(tmp_path, monkeypatch):
    def refuse(*_arguments, **_keywords):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr(fashion_mnist, "SYSTEM_FOLDERS", (tmp_path / "nowhere",))
    with pytest.raises(DataError, match="apt install dataset-fashion-mnist") as caught:
        load_data(CONFIG, str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not fashion_mnist.SYSTEM_FOLDERS[0].is_dir(), reason="Debian's dataset-fashion-mnist is absent")
def test_the_real_images_are_found_in_debians_folder():
    data = load_data(DataConfig(name="fashion_mnist", image_size=14))
    assert (data.n_train, data.n_validation, data.n_test) == (54000, 6000, 10000)
    assert data.parts["validation"].labels.bincount().tolist() == [600] * 10
    assert float(data.mean) == pytest.approx(0.286, abs=0.001)
