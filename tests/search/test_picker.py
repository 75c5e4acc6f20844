import json
import math

import pytest
from archive_maker import make_row

from greenprune_core.errors import ConfigError
from hpsearch.front import find_front
from hpsearch.objectives import THIRD, choose
from hpsearch.picker import NothingFitsError, as_plain, pick

ROWS = [
    make_row(1, accuracy=0.80, energy_j=0.5e-3, macs=30, latency_s=3e-3),
    make_row(2, accuracy=0.90, energy_j=1.0e-3, macs=20),
    make_row(3, accuracy=0.91, energy_j=1.8e-3, macs=25),
    make_row(4, accuracy=0.85, energy_j=1.2e-3, macs=10),
    make_row(5, accuracy=0.99, energy_j=0.1e-3, state="failed", error="NaN"),
]


def test_a_ceiling_takes_the_most_accurate_below_it():
    picked = pick(ROWS, max_energy_j=1.5e-3)
    assert picked.trial_id == "t00002"
    assert picked.limits[0].margin(picked.row) == pytest.approx(0.5e-3)
    assert picked.is_on_front


def test_a_budget_that_is_met_exactly_fits():
    assert pick(ROWS, max_energy_j=1.0e-3).trial_id == "t00002"


def test_a_floor_alone_takes_the_cheapest_above_it():
    assert pick(ROWS, min_accuracy=0.82).trial_id == "t00002"


def test_a_budget_in_macs_finds_its_best_off_the_front_of_energies():
    picked = pick(ROWS, max_macs=15)
    assert picked.trial_id == "t00004"
    assert picked.is_on_front  # of accuracy against MACs


def test_limits_go_together():
    assert pick(ROWS, max_energy_j=2e-3, min_accuracy=0.905).trial_id == "t00003"
    assert pick(ROWS, max_energy_j=2e-3, max_macs=22).trial_id == "t00002"


def test_the_neighbours_are_one_step_along_the_front():
    picked = pick(ROWS, max_energy_j=1.5e-3)
    assert picked.cheaper.row["trial_id"] == "t00001"
    assert picked.dearer.row["trial_id"] == "t00003"
    assert picked.dearer.accuracy_change == pytest.approx(0.01)
    assert picked.dearer.cost_change == pytest.approx(0.8e-3)


def test_a_difference_within_the_intervals_is_called_noise():
    picked = pick(ROWS, max_energy_j=1.5e-3)  # n = 1000: 0.90 and 0.91 overlap, 0.80 does not
    assert picked.dearer.is_within_noise is True
    assert picked.cheaper.is_within_noise is False


def test_at_the_end_of_the_front_there_is_no_further_step():
    assert pick(ROWS, max_energy_j=1.0).dearer is None
    assert pick(ROWS, max_energy_j=0.6e-3).cheaper is None


def test_ties_go_to_the_cheaper():
    rows = [make_row(1, accuracy=0.9, energy_j=2e-3), make_row(2, accuracy=0.9, energy_j=1e-3)]
    assert pick(rows, max_energy_j=1).trial_id == "t00002"


def test_the_knee_is_the_bend_of_the_front():
    assert pick(ROWS, knee=True).trial_id == "t00002"


def test_a_trial_is_taken_by_its_name_or_an_unambiguous_beginning():
    picked = pick(ROWS, trial="t00004")
    assert not picked.is_on_front
    assert (picked.cheaper.row["trial_id"], picked.dearer.row["trial_id"]) == ("t00002", "t00003")
    with pytest.raises(ConfigError, match="could be t00001"):
        pick(ROWS, trial="t0000")


def test_nothing_fits_names_the_nearest_and_by_how_much():
    with pytest.raises(NothingFitsError, match=r"nearest is t00001 .*100 µJ \(25\.0%\) above the limit") as error:
        pick(ROWS, max_energy_j=0.4e-3)
    assert error.value.nearest["trial_id"] == "t00001"


def test_nothing_fits_both_limits_and_the_one_that_misses_least_is_named():
    with pytest.raises(NothingFitsError) as error:
        pick(ROWS, max_energy_j=0.9e-3, min_accuracy=0.895)
    assert error.value.nearest["trial_id"] == "t00001"  # misses 10.6 % of the accuracy; t00002 11.1 % of the energy


@pytest.mark.parametrize(
    ("criteria", "message"),
    [
        ({}, "needs one way to choose"),
        ({"knee": True, "trial": "t00001"}, "one way to choose, but got knee and trial"),
        ({"knee": True, "max_energy_j": 1.0}, "one way to choose, but got limits and knee"),
        ({"max_energy_j": 0}, "limit of the energy is above 0, but got 0; leave it out"),
        ({"max_macs": math.nan}, "limit of the macs is above 0, but got nan"),
        ({"min_accuracy": 0.0}, "limit of the accuracy is above 0 and at most 1, but got 0.0"),
        ({"min_accuracy": 90}, "at most 1, but got 90"),
        ({"trial": "t00005"}, r"is failed \(NaN\)"),
        ({"trial": "x"}, "names a trial of the run"),
    ],
)
def test_criteria_that_do_not_work_are_refused(criteria, message):
    with pytest.raises(ConfigError, match=message):
        pick(ROWS, **criteria)


def test_only_measured_trials_can_be_picked_by_latency():
    assert pick(ROWS, max_latency_s=1.0).trial_id == "t00001"
    with pytest.raises(ConfigError, match="hpsearch measure"):
        pick(ROWS[1:4], max_latency_s=1.0)


def test_of_no_complete_trial_nothing_can_be_picked():
    with pytest.raises(ConfigError, match="let a trial finish first"):
        pick(ROWS[4:], max_energy_j=1.0)


def test_a_budget_holds_for_the_network_of_the_picked_seed_not_for_the_mean():
    energies = {0: 1.1e-3, 1: 0.9e-3, 2: 1.0e-3}
    seeds = [
        make_row(n, seed=n, accuracy=0.9 + n / 100, energy_j=energy, config_hash="t00000")
        for n, energy in energies.items()
    ]
    picked = pick(seeds, max_energy_j=0.95e-3)
    assert (picked.trial_id, picked.row["energy_j"]) == ("t00001", 0.9e-3)
    assert picked.row["val_accuracy"] == pytest.approx(0.91)
    assert picked.is_on_front
    with pytest.raises(NothingFitsError):
        pick(seeds, max_energy_j=0.89e-3)


def test_a_latency_budget_holds_for_the_picked_seed_too_and_the_front_has_the_mean():
    seeds = [
        make_row(n, seed=n, accuracy=0.9 + n / 100, model_latency_s=latency, config_hash="t00000")
        for n, latency in enumerate((1e-3, 5e-3))
    ]
    assert find_front(seeds, choose("latency")).members[0]["model_latency_s"] == pytest.approx(3e-3)
    plain = as_plain(pick(seeds, max_latency_s=2e-3))
    assert (plain["trial_id"], plain["seed"], plain["model_latency_s"]) == ("t00000", 0, 1e-3)
    seeds[0]["model_latency_s"], seeds[1]["model_latency_s"] = 5e-3, 1e-3
    plain = as_plain(pick(seeds, max_latency_s=2e-3))
    assert (plain["trial_id"], plain["seed"], plain["model_latency_s"]) == ("t00001", 1, 1e-3)


def test_the_measured_time_of_a_repeated_configuration_is_the_mean_over_the_seeds_that_were_measured():
    times = (1e-3, 3e-3, None)
    seeds = [make_row(n, seed=n, latency_s=time, config_hash="t00000") for n, time in enumerate(times)]
    assert find_front(seeds).members[0]["latency_s"] == pytest.approx(2e-3)


def test_an_equal_of_a_member_is_on_the_front_too():
    rows = [*ROWS, make_row(6, accuracy=0.90, energy_j=1.0e-3, macs=20)]
    picked = pick(rows, trial="t00006")
    assert picked.is_on_front
    assert (picked.cheaper.row["trial_id"], picked.dearer.row["trial_id"]) == ("t00001", "t00003")


def test_the_knee_is_that_of_the_cost_that_was_searched_on():
    rows = [
        make_row(1, accuracy=0.5, energy_j=1e-3, macs=1),
        make_row(2, accuracy=0.9, energy_j=1.9e-3, macs=2),
        make_row(3, accuracy=0.92, energy_j=2e-3, macs=30),
    ]
    assert pick(rows, knee=True, cost="macs").trial_id == "t00002"
    assert pick(rows, knee=True).axis.name == "energy"


def test_three_objectives_decide_together_what_is_on_the_front_and_where_its_knee_lies():
    rows = [
        make_row(1, accuracy=0.90, energy_j=1.0e-3, train_energy_j=9.0),
        make_row(2, accuracy=0.89, energy_j=1.1e-3, train_energy_j=2.0),
        make_row(3, accuracy=0.70, energy_j=0.2e-3, train_energy_j=9.0),
    ]
    third = THIRD["training-energy"]
    assert not pick(rows, trial="t00002").is_on_front
    assert pick(rows, trial="t00002", third=third).is_on_front
    assert pick(rows, knee=True).trial_id == "t00001"
    assert pick(rows, knee=True, third=third).trial_id == "t00002"
    assert pick(find_front(rows, choose("energy", "training-energy")), trial="t00002").is_on_front


def test_a_trial_without_the_third_objective_is_picked_by_a_budget_all_the_same():
    rows = [
        make_row(1, accuracy=0.90, energy_j=1.0e-3, train_energy_j=5.0, train_energy_source="nvml"),
        make_row(2, accuracy=0.95, energy_j=0.9e-3, train_energy_j=4.0, train_energy_source="model:x"),
        make_row(3, accuracy=0.85, energy_j=0.5e-3, train_energy_j=5.0, train_energy_source="nvml"),
        make_row(4, accuracy=0.97, energy_j=1.2e-3, train_energy_j=None),
    ]
    third = THIRD["training-energy"]
    assert pick(rows, max_energy_j=1.0e-3, third=third).trial_id == "t00002"
    assert pick(rows, max_energy_j=1.5e-3, third=third).trial_id == "t00004"
    assert pick(rows[3:], knee=True, third=third).trial_id == "t00004"


def test_a_trial_without_figures_can_be_picked_by_name_and_has_no_neighbours():
    picked = pick([*ROWS, make_row(8, accuracy=math.nan)], trial="t00008")
    assert (picked.cheaper, picked.dearer, picked.is_on_front) == (None, None, False)


def test_controls_are_not_picked():
    rows = [*ROWS, make_row(9, accuracy=0.99, energy_j=1e-6, control="dense")]
    assert pick(rows, max_energy_j=1.5e-3).trial_id == "t00002"


def test_a_front_can_be_picked_from_too():
    assert pick(find_front(ROWS), max_energy_j=1.5e-3).trial_id == "t00002"


def test_a_pick_is_plain_json():
    rows = [{**row, "test_accuracy": math.nan} for row in ROWS]
    plain = json.loads(json.dumps(as_plain(pick(rows, max_energy_j=1.5e-3)), allow_nan=False))
    assert plain["trial_id"] == "t00002"
    assert plain["limits"][0]["margin_share"] == pytest.approx(1 / 3)
    assert plain["dearer"]["is_within_noise"] is True
