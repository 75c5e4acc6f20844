"""The cards of the report: network, gates, learning curve, and the command that runs a trial again."""

import pytest
from archive_maker import make_row

from hpsearch.report.cards import make_cards, reproduce_command


def test_a_card_draws_the_network_and_the_gates(open_rows):
    kept = {"early": [4, 16], "late": [64, 64]}
    (card,) = make_cards(
        open_rows([make_row(1, kept_channels=kept, gate_histogram=[3, 0, 1], disagreement=0.01, flips=2)])
    )
    early, late = card.network
    assert late.outline == late.filled == 120.0
    assert early.outline == pytest.approx(60.0)  # the root of a quarter
    assert early.filled == pytest.approx(15.0)
    assert card.network_summary == "68 of 80 channels kept in 2 groups; fewest in early: 4 of 16"
    assert [bar.title.split(" ", 1)[0] for bar in card.histogram] == ["3", "0", "1"]
    assert card.agreement == "a gate differed from the consensus on 1.00% of the images; the repair moved 2 gates"


def test_a_learning_curve_knows_its_phases(open_rows):
    history = [{"epoch": n, "phase": "select" if n < 3 else "finish", "val_accuracy": n / 10} for n in (1, 2, 3, 4)]
    (card,) = make_cards(open_rows([make_row(1, history=history)]))
    assert [(name, width) for name, _, width in card.curve.phases] == [("select", 160.0), ("finish", 160.0)]
    assert (card.curve.low, card.curve.high) == ("10.00 %", "40.00 %")
    assert card.curve.points.split()[0] == "80.0,116.0"


def test_the_command_that_runs_a_trial_again_pins_every_draw(open_rows):
    run = open_rows([make_row(1, params={"learning_rate": 0.1, "shape": "linear"})], pins=["epochs=2"], seed=7)
    command = reproduce_command(run, run.rows[0])
    assert command == (
        "hpsearch search --space digits --trials 1 --seed 0 --name again-t00001"
        " --set epochs=10 --set learning_rate=0.1 --set shape=linear --set seed=1"
    )


def test_the_command_keeps_the_profile_and_the_number_of_seeds(open_rows):
    config = {"seed": 1, "budget": {"profile": "my edge.json"}}
    rows = [make_row(n, seed=n, params={"target": 0.5}, config_hash="t00001", config=config) for n in (1, 2, 3)]
    (card,) = make_cards(open_rows(rows))
    assert card.reproduce.endswith("--set target=0.5 --set seed=1 --profile 'my edge.json' --repeats 3")
    assert card.repeats == ("seed 1: 90.00 %", "seed 2: 90.00 %", "seed 3: 90.00 %")


def test_the_command_asks_for_the_processors_and_the_share_of_a_gpu_that_the_trial_had(open_rows):
    run = open_rows([make_row(1, params={})], cpus_per_trial=2.0, gpus_per_trial=0.25)
    assert reproduce_command(run, run.rows[0]).endswith(" --set seed=1 --cpus-per-trial 2 --gpus-per-trial 0.25")
    run = open_rows([make_row(1, params={})], cpus_per_trial=1.0, gpus_per_trial=0.0)
    assert "per-trial" not in reproduce_command(run, run.rows[0])


def test_the_command_asks_for_the_objectives_and_the_data_of_the_search(open_rows):
    asked = {"objective": "latency", "third_objective": "training-energy", "data_dir": "/my data"}
    run = open_rows([make_row(1, params={}, model_latency_s=1e-3)], **asked)
    wanted = " --objective latency --third-objective training-energy --data-dir '/my data'"
    assert reproduce_command(run, run.rows[0]).endswith(wanted)
