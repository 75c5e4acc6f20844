import torch

from greenprune_core.data.augment import flip, mixup, shift, step_generator


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


def test_mixup_blends_images_and_labels_alike():
    images = torch.eye(3).repeat(50, 1)[:, :, None, None]
    labels = torch.arange(3).repeat(50)
    mixed, targets = mixup(images, labels, 0.5, 3, step_generator(3))
    assert torch.allclose(mixed.flatten(1), targets)
    assert torch.allclose(targets.sum(dim=1), torch.ones(150))
    assert not torch.equal(mixed, images)
