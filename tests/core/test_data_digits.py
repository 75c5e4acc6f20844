import pytest
import torch

from greenprune_core.config import DataConfig
from greenprune_core.data import load_data


@pytest.fixture(scope="module")
def digits():
    return load_data(DataConfig(name="digits", validation_share=0.25, shift=1, flip=True))


def test_the_parts_hold_every_scan_once(digits):
    assert (digits.n_train, digits.n_validation, digits.n_test) == (1078, 360, 359)
    images = torch.cat([part.images for part in digits.parts.values()])
    everything = load_data(DataConfig(name="digits", validation_share=0.5))
    others = torch.cat([part.images for part in everything.parts.values()])
    assert len(images) == 1797
    assert torch.equal(images.flatten(1).unique(dim=0), others.flatten(1).unique(dim=0))


def test_the_images_are_those_of_scikit_learn(digits):
    from sklearn.datasets import load_digits

    bunch = load_digits()
    known = {(scan.tobytes(), int(label)) for scan, label in zip(bunch.images, bunch.target, strict=True)}
    test = digits.parts["test"]
    for image, label in zip(test.images, test.labels, strict=True):
        assert ((image[0].double() * 16).numpy().tobytes(), int(label)) in known


def test_every_class_gives_a_fifth_to_the_test(digits):
    share = digits.parts["test"].labels.bincount() / 1797
    assert share.min() > 0.018
    assert share.max() < 0.022


def test_the_test_part_does_not_depend_on_the_split_seed(digits):
    other = load_data(DataConfig(name="digits", validation_share=0.25, split_seed=1))
    assert torch.equal(other.parts["test"].images, digits.parts["test"].images)
    assert not torch.equal(other.parts["validation"].images, digits.parts["validation"].images)


def test_training_images_are_normalised(digits):
    images = torch.cat([images for images, _ in digits.plain_batches("train", 200)])
    assert images.mean().abs() < 1e-5
    assert (images.std(correction=0) - 1).abs() < 1e-5
    assert digits.input_shape == (1, 8, 8)
    assert digits.n_classes == 10


def test_a_step_is_the_same_whether_or_not_earlier_ones_were_made(digits):
    all_steps = list(digits.train_batches(100, seed=3, epoch=2))
    later = list(digits.train_batches(100, seed=3, epoch=2, first_step=7))
    assert len(all_steps) == digits.n_steps(100) == 10
    assert len(later) == 3
    for (images, labels), (others, other_labels) in zip(all_steps[7:], later, strict=True):
        assert torch.equal(images, others)
        assert torch.equal(labels, other_labels)


@pytest.mark.parametrize("change", [{"seed": 4}, {"epoch": 3}])
def test_another_seed_or_epoch_gives_other_batches(digits, change):
    images, _ = next(digits.train_batches(100, **({"seed": 3, "epoch": 2})))
    others, _ = next(digits.train_batches(100, **({"seed": 3, "epoch": 2} | change)))
    assert not torch.equal(images, others)


def test_an_epoch_shows_each_image_once_but_for_the_incomplete_last_batch():
    plain = load_data(DataConfig(name="digits"))
    seen = torch.cat([images for images, _ in plain.train_batches(64, seed=0, epoch=0)])
    whole = torch.cat([images for images, _ in plain.plain_batches("train", 500)])
    assert len(seen) == plain.n_train // 64 * 64 < plain.n_train
    n_distinct = len(whole.flatten(1).unique(dim=0))
    assert len(seen.flatten(1).unique(dim=0)) >= len(seen) - (plain.n_train - n_distinct)


def test_a_batch_larger_than_the_set_is_the_set(digits):
    few = load_data(DataConfig(name="digits", n_train=30))
    batches = list(few.train_batches(64, seed=0, epoch=0))
    assert [len(images) for images, _ in batches] == [30]


def test_plain_batches_keep_order_and_may_be_limited(digits):
    labels = torch.cat([labels for _, labels in digits.plain_batches("validation", 100)])
    first = torch.cat([labels for _, labels in digits.plain_batches("validation", 7, limit=20)])
    assert torch.equal(labels, digits.parts["validation"].labels)
    assert torch.equal(first, labels[:20])
