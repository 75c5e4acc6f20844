import numpy as np
import pytest
import torch
from data_maker import make_folder, make_tiny_imagenet, save_image
from PIL import Image

from greenprune_core.config import DataConfig
from greenprune_core.data import load_data
from greenprune_core.data.folders import read_image
from greenprune_core.data.stores import DatasetStore
from greenprune_core.errors import DataError

TINY = DataConfig(name="tiny_imagenet")
FOLDER = DataConfig(name="folder")


def test_the_published_layout_of_tiny_imagenet_is_read(tmp_path):
    data = load_data(TINY, str(make_tiny_imagenet(tmp_path)))
    assert (data.n_train + data.n_validation, data.n_test, data.n_classes) == (48, 16, 4)
    assert data.input_shape == (3, 64, 64)
    assert data.class_names[2] == "thing 2, stuff"
    assert data.parts["test"].labels.bincount().tolist() == [4] * 4


def test_its_folder_may_be_named_itself(tmp_path):
    make_tiny_imagenet(tmp_path)
    assert load_data(TINY, str(tmp_path / "tiny-imagenet-200")).n_test == 16


def test_an_imagenet_style_tree_is_read(tmp_path):
    data = load_data(FOLDER, str(make_folder(tmp_path)))
    assert (data.n_train + data.n_validation, data.n_test) == (36, 12)
    assert data.class_names == ("class0", "class1", "class2")


def test_workers_read_the_same_batches_as_the_main_process(tmp_path):
    data = load_data(DataConfig(name="folder", shift=2, flip=True, crop=0.35), str(make_folder(tmp_path)))
    store = data.parts["train"]
    assert store.workers == 0
    here = list(data.train_batches(8, seed=0, epoch=0))
    data.parts["train"] = DatasetStore(store.dataset, store.labels, 2, store.indices, None, "cpu", "folder")
    there = list(data.train_batches(8, seed=0, epoch=0))
    assert len(here) == len(there) == 4
    for (a, la), (b, lb) in zip(here, there, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(la, lb)


def test_images_of_several_sizes_need_a_size(tmp_path):
    make_folder(tmp_path)
    for number in range(12):
        save_image(tmp_path / "train" / "class0" / f"{number}.png", 50, seed=number)
    with pytest.raises(DataError, match=r"one shape, but got \(3, 40, 40\) and \(3, 50, 50\); .*image_size"):
        load_data(FOLDER, str(tmp_path))
    assert load_data(DataConfig(name="folder", image_size=32), str(tmp_path)).input_shape == (3, 32, 32)


def test_a_size_of_no_pixels_is_not_told_as_a_damaged_image(tmp_path):
    make_folder(tmp_path)
    with pytest.raises(DataError, match="image_size is a number of pixels, but got image_size=0; leave it out"):
        load_data(DataConfig(name="folder", image_size=0), str(tmp_path))


def test_a_truncated_image_is_named(tmp_path):
    make_tiny_imagenet(tmp_path)
    path = tmp_path / "tiny-imagenet-200" / "val" / "images" / "val_3.JPEG"
    path.write_bytes(path.read_bytes()[:300])
    data = load_data(TINY, str(tmp_path))
    with pytest.raises(DataError, match=r"val_3\.JPEG does not"):
        list(data.plain_batches("test", 8))


def test_a_truncated_image_is_named_by_workers_too(tmp_path):
    make_folder(tmp_path)
    data = load_data(FOLDER, str(tmp_path))
    path = tmp_path / "val" / "class1" / "2.png"
    path.write_bytes(b"no image")
    store = data.parts["test"]
    data.parts["test"] = DatasetStore(store.dataset, store.labels, 1, store.indices, None, "cpu", "folder")
    with pytest.raises(DataError, match=r"2\.png does not") as caught:
        list(data.plain_batches("test", 8))
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize("ending", ["png", "ppm"])
def test_grey_values_of_sixteen_bits_are_scaled_and_not_all_white(tmp_path, ending):
    values = np.linspace(0, 65535, 64).reshape(8, 8).astype(np.uint16)
    path = tmp_path / f"deep.{ending}"
    if ending == "png":
        Image.fromarray(values).save(path)
    else:
        path.write_bytes(b"P5 8 8 65535\n" + values.astype(">u2").tobytes())
    pixels = read_image(path, None)
    assert pixels.shape == (3, 8, 8)
    assert np.abs(pixels[0].numpy() - values / 257).max() <= 1


def test_an_image_that_claims_an_absurd_size_is_named(tmp_path, monkeypatch):
    save_image(tmp_path / "huge.png", 40, seed=0)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DataError, match=r"huge\.png does not \(Image size \(1600 pixels\) exceeds.*replace or remove"):
        read_image(tmp_path / "huge.png", None)


def test_an_unknown_class_in_the_annotations_is_named(tmp_path):
    make_tiny_imagenet(tmp_path)
    path = tmp_path / "tiny-imagenet-200" / "val" / "val_annotations.txt"
    path.write_text(path.read_text().replace("n00000002", "n99999999", 1))
    with pytest.raises(DataError, match=r"val_annotations\.txt line 9 has 'n99999999'"):
        load_data(TINY, str(tmp_path))


@pytest.mark.parametrize(("config", "way_out"), [(TINY, "tiny-imagenet-200.zip"), (FOLDER, "train/<class>/")])
def test_without_a_folder_one_line_says_what_to_do(tmp_path, config, way_out):
    with pytest.raises(DataError, match=f"no --data-dir was given; .*{way_out}"):
        load_data(config)
    with pytest.raises(DataError, match=f"{tmp_path} has none; .*{way_out}"):
        load_data(config, str(tmp_path))


def test_a_test_class_that_training_lacks_is_named(tmp_path):
    make_folder(tmp_path)
    save_image(tmp_path / "val" / "other" / "0.png", 40, seed=0)
    with pytest.raises(DataError, match="'other'"):
        load_data(FOLDER, str(tmp_path))


def test_an_empty_class_is_named(tmp_path):
    make_folder(tmp_path)
    (tmp_path / "train" / "empty").mkdir()
    with pytest.raises(DataError, match="empty has none"):
        load_data(FOLDER, str(tmp_path))


@pytest.mark.parametrize(("config", "make"), [(TINY, make_tiny_imagenet), (FOLDER, make_folder)])
def test_the_first_images_of_a_folder_are_of_all_classes(tmp_path, config, make):
    make(tmp_path)
    whole = load_data(config, str(tmp_path))
    few = load_data(DataConfig(name=config.name, n_train=2 * whole.n_classes), str(tmp_path))
    assert few.parts["train"].labels.unique().tolist() == list(range(whole.n_classes))
