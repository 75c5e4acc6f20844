import hashlib
import json

import pytest
import torch

from greenprune_core.config import DataConfig, TrialConfig
from greenprune_core.data.augment import flip, mixup, resized_crop, shift, step_generator
from greenprune_core.errors import ConfigError


def test_a_generator_depends_on_every_number_and_their_order():
    draws = {tuple(torch.randint(0, 2**40, (2,), generator=step_generator(*key)).tolist()) for key in KEYS}
    assert len(draws) == len(KEYS)


KEYS = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (0, 12), (0, 1), (12,)]


def test_shift_moves_each_image_by_its_own_offset():
    images = torch.zeros(400, 1, 7, 7)
    images[:, :, 3, 3] = 1
    moved = shift(images, 2, step_generator(0))
    assert torch.all(moved.sum(dim=(1, 2, 3)) == 1)
    places = moved.flatten(1).argmax(dim=1)
    rows, columns = places // 7, places % 7
    assert set(rows.tolist()) == set(columns.tolist()) == {1, 2, 3, 4, 5}
    assert len(set(places.tolist())) == 25


def test_what_is_shifted_in_is_zero():
    moved = shift(torch.ones(200, 2, 4, 4), 1, step_generator(1))
    counts = set(moved.sum(dim=(2, 3)).flatten().int().tolist())
    assert counts == {16, 12, 9}


def test_flip_mirrors_about_half_of_the_images():
    images = torch.arange(3.0).expand(1000, 1, 1, 3)
    mirrored = (flip(images, step_generator(2))[:, 0, 0, 0] == 2).sum()
    assert 400 < mirrored < 600


def test_a_resized_crop_shows_a_part_of_the_image_in_its_own_order():
    """On a ramp the ends of each row of the result are the sides of the part: its width is their difference."""
    ramp = torch.arange(64.0).expand(500, 1, 64, 64)
    across = resized_crop(ramp, 0.25, step_generator(5))[:, 0, 32]
    assert torch.all(across.diff(dim=1) >= 0)
    widths = (across[:, -1] - across[:, 0]) / 63
    assert widths.min() > (0.25 * 3 / 4) ** 0.5 - 0.03
    assert widths.max() <= 1
    assert widths.std() > 0.05
    again = resized_crop(ramp, 0.25, step_generator(5))
    assert torch.equal(again[:, 0, 32], across)


def test_a_crop_of_everything_is_nearly_the_image_and_its_place_varies():
    images = torch.rand(8, 3, 9, 9)
    whole = resized_crop(images, 1.0, step_generator(6))
    # sides are cut by the aspect ratio alone: to sqrt(3/4) of the image at most
    assert whole.shape == images.shape
    assert (whole - images).abs().mean() < 0.3
    centres = resized_crop(torch.arange(33.0).expand(300, 1, 33, 33), 0.1, step_generator(7))[:, 0, 16, 16]
    assert centres.min() < 12
    assert centres.max() > 20


def test_mixup_blends_images_and_labels_alike():
    images = torch.eye(3).repeat(50, 1)[:, :, None, None]
    labels = torch.arange(3).repeat(50)
    mixed, targets = mixup(images, labels, 0.5, 3, step_generator(3))
    assert torch.allclose(mixed.flatten(1), targets)
    assert torch.allclose(targets.sum(dim=1), torch.ones(150))
    assert not torch.equal(mixed, images)


def test_a_trial_without_a_crop_keeps_its_identity_and_one_with_it_has_another():
    plain, cropped = TrialConfig(), TrialConfig(data=DataConfig(crop=0.35))
    values = plain.to_dict()
    del values["data"]["crop"]
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    assert plain.config_hash == hashlib.sha256(text.encode()).hexdigest()[:16]
    assert TrialConfig.from_dict(values) == plain
    assert cropped.config_hash != plain.config_hash
    with pytest.raises(ConfigError, match="crop is a share"):
        DataConfig(crop=0.0)
