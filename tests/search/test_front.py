import math

import pytest
from archive_maker import make_row

from hpsearch.front import accuracy_interval, find_front
from hpsearch.objectives import choose
from hpsearch.picker import pick


def ids(rows):
    return [row["trial_id"] for row in rows]


def test_the_front_goes_from_the_cheapest_to_the_dearest():
    rows = [
        make_row(1, accuracy=0.95, energy_j=3e-3),
        make_row(2, accuracy=0.90, energy_j=1e-3),
        make_row(3, accuracy=0.89, energy_j=2e-3),
    ]
    front = find_front(rows)
    assert ids(front.members) == ["t00002", "t00001"]
    assert len(front.candidates) == 3


def test_only_complete_trials_compare():
    rows = [make_row(1), make_row(2, accuracy=0.99, state="stopped"), make_row(3, accuracy=1.0, state="failed")]
    assert ids(find_front(rows).members) == ["t00001"]


def test_energies_of_different_sources_never_meet():
    rows = [make_row(n) for n in range(3)] + [make_row(9, energy_j=1e-9, energy_source="nvml")]
    front = find_front(rows)
    assert front.energy_source == "model:horowitz-45nm"
    assert "t00009" not in ids(front.candidates)
    assert dict(front.left_out) == {"its energy is from nvml, not from model:horowitz-45nm": 1}


def test_a_front_of_macs_does_not_mind_the_sources_of_energy():
    rows = [make_row(1, macs=10), make_row(2, macs=5, accuracy=0.8, energy_source="nvml")]
    assert ids(find_front(rows, choose("macs")).members) == ["t00002", "t00001"]


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_a_row_without_a_finite_objective_is_left_out_and_counted(value):
    front = find_front([make_row(1), make_row(2, accuracy=value)])
    assert ids(front.members) == ["t00001"]
    assert dict(front.left_out) == {"val_accuracy is missing or not finite": 1}


def test_controls_are_not_compared():
    front = find_front([make_row(1, accuracy=0.9), make_row(2, accuracy=0.95, control="dense")])
    assert ids(front.members) == ids(front.candidates) == ["t00001"]


def test_of_equal_trials_one_is_a_member_and_names_the_others():
    front = find_front([make_row(2), make_row(1), make_row(3), make_row(4, accuracy=0.5, energy_j=1e-4)])
    assert ids(front.members) == ["t00004", "t00001"]
    assert front.twins == {"t00001": ("t00002", "t00003")}
    assert front.names_of(front.members[1]) == {"t00001", "t00002", "t00003"}


def test_no_trial_makes_an_empty_front():
    assert find_front([]).members == ()


def test_seeds_of_one_configuration_are_one_point_with_their_means_and_an_interval():
    seeds = [
        make_row(n, seed=n, accuracy=0.90 + 0.01 * n, energy_j=1e-3 + 1e-5 * n, config_hash="t00000") for n in range(3)
    ]
    front = find_front([*seeds, make_row(7, accuracy=0.5, energy_j=1e-4)])
    (_, folded) = front.members
    assert len(front.candidates) == 2
    assert folded["trial_id"] == "t00000"
    assert folded["val_accuracy"] == pytest.approx(0.91)
    assert folded["energy_j"] == pytest.approx(1.01e-3)
    assert [repeat["seed"] for repeat in folded["repeats"]] == [0, 1, 2]
    assert accuracy_interval(folded) == pytest.approx((0.91 - 4.303 * 0.01 / 3**0.5, 0.91 + 4.303 * 0.01 / 3**0.5))
    assert front.names_of(folded) == {"t00000", "t00001", "t00002"}


def test_one_measured_seed_does_not_stand_for_the_mean_accuracy():
    lucky = [make_row(n, seed=n, accuracy=accuracy, config_hash="t00000") for n, accuracy in enumerate((0.95, 0.75))]
    steady = [make_row(n, seed=n, accuracy=0.9, config_hash="t00002") for n in (2, 3)]
    rows = [*lucky, *steady]
    for row, latency in zip(rows, (1e-3, None, 1e-3, None), strict=True):
        row |= {"latency_s": latency, "energy_j": latency, "energy_source": latency and "rapl"}
    front = find_front(rows)
    assert [row["val_accuracy"] for row in front.candidates] == pytest.approx([0.85, 0.9])
    assert ids(front.members) == ["t00002"]
    assert accuracy_interval(front.candidates[0])[0] < 0.5, "Student's, over two seeds"
    assert pick(rows, max_latency_s=2e-3).trial_id == "t00002"
    picked = pick(rows[:2], min_accuracy=0.8)
    assert (picked.trial_id, picked.row["val_accuracy"], picked.row["energy_j"]) == ("t00000", 0.85, 1e-3)
    assert pick(front, max_energy_j=2e-3).trial_id == "t00002"


def test_with_three_objectives_a_cheap_training_is_enough():
    rows = [make_row(1, accuracy=0.95, train_energy_j=9.0), make_row(2, accuracy=0.9, train_energy_j=1.0)]
    assert len(find_front(rows).members) == 1
    assert len(find_front(rows, choose("energy", "training-energy")).members) == 2


def test_the_interval_is_that_of_the_repeats_where_there_are_some():
    row = make_row(1, accuracy=0.9)
    over_images = accuracy_interval(row)
    assert over_images[0] < 0.9 < over_images[1]
    row["repeats"] = [{"seed": n, "val_accuracy": 0.9 + 0.001 * n} for n in range(3)]
    low, high = accuracy_interval(row)
    assert high - low == pytest.approx(2 * 4.303 * 0.001 / math.sqrt(3), rel=1e-3)
