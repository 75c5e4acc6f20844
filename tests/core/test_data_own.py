import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, WeightedRandomSampler

from greenprune_core.config import DataConfig, TrialConfig
from greenprune_core.data import ImageData, RawData, TensorStore, data_names, load_data, register_data
from greenprune_core.errors import ConfigError, DataError

CONFIG = DataConfig(name="mine", validation_share=0.2)


def tensors(n=50, n_classes=5, side=6):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(n, 2, side, side, generator=generator), torch.arange(n) % n_classes


def test_own_tensors_are_split_per_class():
    data = ImageData.from_tensors(tensors(), tensors(20), CONFIG)
    assert (data.n_train, data.n_validation, data.n_test, data.n_classes) == (40, 10, 20, 5)
    assert data.parts["validation"].labels.bincount().tolist() == [2] * 5


def test_images_without_a_channel_axis_get_one():
    images, labels = tensors()
    data = ImageData.from_tensors((images[:, 0], labels), (images[:, 1], labels), CONFIG)
    assert data.input_shape == (1, 6, 6)


def test_a_constant_channel_stays_finite():
    images, labels = tensors()
    images[:, 1] = 0.5
    data = ImageData.from_tensors((images, labels), (images, labels), CONFIG)
    batch, _ = next(data.plain_batches("test", 50))
    assert torch.all(batch[:, 1].abs() < 1e-6)


def test_nan_is_refused_with_its_image():
    images, labels = tensors()
    images[17, 0, 2, 3] = float("nan")
    with pytest.raises(DataError, match=r"mine \(train\) holds nan in image 17"):
        ImageData.from_tensors((images, labels), tensors(), CONFIG)


@pytest.mark.parametrize(("wrong", "message"), [(-1, "holds -1 at image 4"), (5, r"\[0, 5\).*holds 5 at image 4")])
def test_labels_out_of_range_are_refused(wrong, message):
    images, labels = tensors()
    labels[4] = wrong
    with pytest.raises(DataError, match=message):
        ImageData.from_tensors((images, labels), tensors(), CONFIG, class_names="abcde")


def test_labels_that_are_no_class_numbers_are_refused_at_once():
    images, labels = tensors()
    with pytest.raises(DataError, match=r"mine \(train\) has 5 different labels up to 2000000000; number them anew"):
        ImageData.from_tensors((images, labels * 500_000_000), tensors(), CONFIG)
    assert ImageData.from_tensors((images, labels * 200), tensors(), CONFIG).n_classes == 801
    names = [str(k) for k in range(4001)]
    assert ImageData.from_tensors((images, labels * 1000), tensors(), CONFIG, class_names=names).n_classes == 4001


@pytest.mark.parametrize(("channels", "side"), [(1, 6), (2, 8)])
def test_test_images_of_another_shape_are_refused_when_loaded(channels, side):
    images, labels = torch.rand(12, channels, side, side), torch.arange(12) % 5
    message = rf"of the training images, \[2, 6, 6\], but mine \(test\) has \[{channels}, {side}, {side}\]"
    with pytest.raises(DataError, match=message):
        ImageData.from_tensors(tensors(), (images, labels), CONFIG)
    train, test = (DataLoader(TensorDataset(*part)) for part in (tensors(), (images, labels)))
    with pytest.raises(DataError, match=message):
        ImageData.from_loaders(train, test, CONFIG)


def test_test_images_of_another_size_are_resized_where_a_size_is_set():
    config = DataConfig(name="mine", validation_share=0.2, image_size=6)
    assert ImageData.from_tensors(tensors(side=12), tensors(side=6), config).input_shape == (2, 6, 6)


def test_a_test_label_that_training_never_has_is_refused():
    with pytest.raises(DataError, match=r"mine \(test\) holds 5"):
        ImageData.from_tensors(tensors(), tensors(12, n_classes=6), CONFIG)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64), r"\[4, 3\]"),
        (torch.zeros(0, 1, 2, 2), torch.zeros(0, dtype=torch.int64), r"N >= 1"),
        (torch.zeros(4, 1, 2, 2, dtype=torch.int32), torch.zeros(4, dtype=torch.int64), "int32"),
        (torch.zeros(4, 1, 2, 2), torch.zeros(3, dtype=torch.int64), r"4 images and labels of shape \[3\]"),
        (torch.zeros(4, 1, 2, 2), torch.zeros(4), "float32"),
        (torch.zeros(4, 1, 2, 2).numpy(), torch.zeros(4), "images are a torch.Tensor, but .* has ndarray; convert"),
        (torch.zeros(4, 1, 2, 2), [0, 0, 0, 0], "labels are a torch.Tensor, but .* has list; convert"),
    ],
)
def test_wrong_shapes_and_types_are_refused(images, labels, message):
    with pytest.raises(DataError, match=message):
        ImageData.from_tensors((images, labels), tensors(), CONFIG)


@pytest.mark.parametrize("part", [(*tensors(), 3), tensors()[0], TensorDataset(*tensors())])
def test_what_is_no_pair_of_images_and_labels_is_refused(part):
    with pytest.raises(
        DataError, match=r"\(images, labels\), but mine \(train\) is a (tuple of 3|Tensor|TensorDataset);"
    ):
        ImageData.from_tensors(part, tensors(), CONFIG)


def test_the_whole_trial_in_the_place_of_its_data_is_refused():
    loader = DataLoader(TensorDataset(*tensors()))
    rule = "told by a DataConfig, but got TrialConfig; a trial's own is config.data"
    with pytest.raises(ConfigError, match=rule):
        load_data(TrialConfig())
    with pytest.raises(ConfigError, match=rule):
        ImageData.from_tensors(tensors(), tensors(), TrialConfig())
    with pytest.raises(ConfigError, match=rule):
        ImageData.from_loaders(loader, loader, TrialConfig())


def test_a_data_set_in_the_place_of_a_loader_is_refused():
    with pytest.raises(DataError, match=r"DataLoader, but mine \(train\) is a TensorDataset; wrap"):
        ImageData.from_loaders(TensorDataset(*tensors()), DataLoader(TensorDataset(*tensors())), CONFIG)


def test_more_training_images_than_there_are_is_refused():
    with pytest.raises(DataError, match="n_train=41 of 40"):
        ImageData.from_tensors(tensors(), tensors(), DataConfig(name="mine", validation_share=0.2, n_train=41))


def test_a_part_without_images_is_refused():
    with pytest.raises(DataError, match="two images, but got 1"):
        ImageData.from_tensors(tensors(1, n_classes=1), tensors(4, n_classes=1), CONFIG)


def test_few_images_per_class_still_give_the_share():
    data = ImageData.from_tensors(tensors(100, n_classes=50), tensors(), DataConfig(name="mine", validation_share=0.1))
    assert data.n_validation == 10
    assert data.parts["validation"].labels.bincount().max() == 1


def test_own_loaders_give_the_same_batches_as_own_tensors():
    images, labels = tensors()
    loader = DataLoader(TensorDataset(images, labels), batch_size=7, shuffle=True)
    config = DataConfig(name="mine", validation_share=0.2, shift=1)
    ours = ImageData.from_loaders(loader, loader, config)
    same = ImageData.from_tensors((images, labels), (images, labels), config)
    assert ours.n_train == 40
    for (a, la), (b, lb) in zip(
        ours.train_batches(8, seed=1, epoch=0), same.train_batches(8, seed=1, epoch=0), strict=True
    ):
        assert torch.allclose(a, b, atol=1e-6)
        assert torch.equal(la, lb)


def test_a_loader_with_workers_gives_the_same_batches():
    images, labels = tensors()
    dataset = TensorDataset(images, labels)
    one, two = (ImageData.from_loaders(*[DataLoader(dataset, num_workers=n)] * 2, CONFIG) for n in (0, 2))
    for (a, _), (b, _) in zip(one.plain_batches("train", 16), two.plain_batches("train", 16), strict=True):
        assert torch.equal(a, b)


class Noisy(TensorDataset):
    """Changes its images at random, as a training set with its augmentation inside does."""

    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        return image + torch.rand(1) + random.random() + np.random.rand(), label


@pytest.mark.parametrize("workers", [0, 2])
def test_what_a_data_set_draws_depends_on_the_step_alone_and_takes_nothing_from_the_caller(workers):
    dataset = Noisy(*tensors())
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    data = ImageData.from_loaders(*[DataLoader(dataset, num_workers=workers)] * 2, CONFIG)
    whole = list(data.train_batches(8, seed=1, epoch=0))
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (random.getstate(), np.random.get_state()[1].tolist())
    torch.manual_seed(99)
    late = list(data.train_batches(8, seed=1, epoch=0, first_step=2))
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(whole[2:], late, strict=True))
    other = next(data.train_batches(8, seed=1, epoch=1))[0]
    assert len({round(float(image.mean()), 4) for image in torch.cat((whole[0][0], other))}) == 16


def test_labels_that_a_data_set_transforms_are_learnt_as_it_gives_them():
    class Parity(TensorDataset):
        targets = tensors()[1].tolist()
        target_transform = staticmethod(lambda label: label % 2)

        def __getitem__(self, index):
            image, label = super().__getitem__(index)
            return image, self.target_transform(int(label))

    loader = DataLoader(Parity(*tensors()))
    data = ImageData.from_loaders(loader, loader, CONFIG)
    assert data.n_classes == 2
    assert torch.equal(data.parts["test"].labels, tensors()[1] % 2)


def test_nan_behind_a_loader_is_refused_when_it_comes():
    images, labels = tensors()
    images[23] = float("inf")
    loader = DataLoader(TensorDataset(images, labels))
    good = DataLoader(TensorDataset(*tensors()))
    data = ImageData.from_loaders(good, loader, CONFIG)
    with pytest.raises(DataError, match="inf in image 23; remove or repair it and others"):
        list(data.plain_batches("test", 10))
    images[0] = float("nan")
    with pytest.raises(DataError, match=r"inf in image 23;|nan in image 0;"):  # wherever the split has put them
        ImageData.from_loaders(loader, good, CONFIG)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(())


def test_loaders_that_are_empty_or_whose_order_is_not_ours_are_refused():
    dataset = TensorDataset(*tensors())
    weighted = DataLoader(dataset, sampler=WeightedRandomSampler([1.0] * 50, 50))
    with pytest.raises(DataError, match="WeightedRandomSampler"):
        ImageData.from_loaders(weighted, DataLoader(dataset), CONFIG)
    batches = DataLoader(dataset, batch_sampler=[[0, 1], [2, 3]])
    with pytest.raises(DataError, match=r"mine \(train\) brings list"):
        ImageData.from_loaders(batches, DataLoader(dataset), CONFIG)
    with pytest.raises(DataError, match=r"mine \(test\) has 0 images"):
        ImageData.from_loaders(DataLoader(dataset), DataLoader(TensorDataset(*tensors(0))), CONFIG)
    collating = DataLoader(dataset, collate_fn=tuple)
    with pytest.raises(DataError, match=r"mine \(test\) brings collate_fn=tuple, which would be left out; do in the"):
        ImageData.from_loaders(DataLoader(dataset, batch_size=None), collating, CONFIG)
    with pytest.raises(DataError, match="streams"):
        ImageData.from_loaders(DataLoader(Stream()), DataLoader(dataset), CONFIG)


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"'digit'.*nearest: digits"):
        load_data(DataConfig(name="digit"))


def test_a_data_set_can_be_registered_once(monkeypatch):
    from greenprune_core.data import registry

    monkeypatch.setattr(registry, "_LOADERS", dict(registry._LOADERS))
    store = TensorStore(*tensors())
    raw = RawData(train=store, test=store, class_names=tuple("abcde"), source="made here")
    register_data("mine", lambda config, data_dir: raw)
    assert "mine" in data_names()
    assert load_data(CONFIG).source == "made here"
    with pytest.raises(ConfigError, match="free name"):
        register_data("digits", lambda config, data_dir: raw)


def test_a_file_reference_brings_a_data_set(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "from greenprune_core.data import RawData, TensorStore\n"
        "def load(config, data_dir):\n"
        "    store = TensorStore(torch.rand(20, 1, 4, 4), torch.arange(20) % 2)\n"
        "    return RawData(train=store, test=store, class_names=('a', 'b'), source='made here')\n"
        "def wrong(config, data_dir):\n"
        "    return 3\n"
        "def bare():\n"
        "    return 3\n"
    )
    data = load_data(DataConfig(name=f"{tmp_path / 'mine.py'}:load"))
    assert (data.n_classes, data.n_test) == (2, 20)
    with pytest.raises(DataError, match="returned int"):
        load_data(DataConfig(name=f"{tmp_path / 'mine.py'}:wrong"))
    with pytest.raises(
        ConfigError, match=r"configuration and the folder, but .*:bare takes \(\) \(too many.*; change its"
    ):
        load_data(DataConfig(name=f"{tmp_path / 'mine.py'}:bare"))
    with pytest.raises(ConfigError, match=r"configuration and the folder, but .*:torch is a module; name a function"):
        load_data(DataConfig(name=f"{tmp_path / 'mine.py'}:torch"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_sees_the_same_batches_as_the_cpu():
    config = DataConfig(name="mine", validation_share=0.2, shift=2, flip=True, mixup=0.4)
    here, there = (ImageData.from_tensors(tensors(), tensors(), config, device=device) for device in ("cpu", "cuda"))
    for (a, la), (b, lb) in zip(
        here.train_batches(8, seed=1, epoch=0), there.train_batches(8, seed=1, epoch=0), strict=True
    ):
        assert b.is_cuda
        assert torch.allclose(a, b.cpu(), atol=1e-5)
        assert torch.allclose(la, lb.cpu())


def test_statistics_are_of_images_from_all_over_the_training_part_in_batches_of_one_size():
    images, labels = tensors()
    by_class = labels.argsort(stable=True)
    data = ImageData.from_tensors((images[by_class], labels[by_class]), tensors(20), CONFIG)
    assert torch.cat([labels for _, labels in data.spread_batches(10, 4)]).bincount().tolist() == [2] * 5
    assert [len(images) for images, _ in data.spread_batches(10, 9)] == [5, 5]
    assert [len(images) for images, _ in data.spread_batches(5, 2)] == [3, 2]
    every = torch.cat([images for images, _ in data.spread_batches(40, 100)])
    assert torch.equal(every, next(data.plain_batches("train", 40))[0])


class Failing(TensorDataset):
    """A data set of the user's that fails at one image in its own way."""

    def __init__(self, targets):
        super().__init__(*tensors())
        self.targets = targets

    def __getitem__(self, index):
        if index == 7:
            raise OSError("disk is gone")
        return super().__getitem__(index)


@pytest.mark.parametrize("workers", [0, 1])
def test_what_the_users_own_data_set_raises_is_told_with_the_image(workers):
    failing = DataLoader(Failing(tensors()[1]), num_workers=workers)
    with pytest.raises(DataError, match="image 7 raised OSError: disk is gone; repair or remove it") as caught:
        ImageData.from_loaders(failing, DataLoader(TensorDataset(*tensors(20))), CONFIG)
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize(
    ("targets", "reason"), [(None, "OSError: disk is gone"), (["cat"] * 50, "ValueError: too many")]
)
def test_labels_that_cannot_be_read_are_told(targets, reason):
    loader = DataLoader(Failing(targets))
    with pytest.raises(DataError, match=f"class number.*labels of mine .train. raised {reason}.*whole numbers"):
        ImageData.from_loaders(loader, loader, CONFIG)


def test_images_of_one_class_are_refused():
    images, labels = tensors()
    with pytest.raises(DataError, match=r"all 40 training images of mine \(train\) are of class 4; add images"):
        ImageData.from_tensors((images, torch.full_like(labels, 4)), tensors(20), CONFIG)


def test_values_beyond_float32_and_sparse_images_are_refused():
    images, labels = tensors()
    far = images.double()
    far[4, 0, 0, 0] = 1e300
    with pytest.raises(DataError, match="holds inf in image 4"):
        ImageData.from_tensors((far, labels), tensors(20), CONFIG)
    with pytest.raises(DataError, match=r"images are dense, but mine \(train\) has torch.sparse_coo; call to_dense"):
        ImageData.from_tensors((images.to_sparse(), labels), tensors(20), CONFIG)


def test_images_that_require_a_gradient_are_learnt_from_as_plain_ones():
    images, labels = tensors()
    data = ImageData.from_tensors((images.requires_grad_(), labels), tensors(20), CONFIG)
    assert not next(data.plain_batches("train", 8))[0].requires_grad
