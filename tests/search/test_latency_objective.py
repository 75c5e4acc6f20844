"""Latency by a calibrated profile as the second objective, training energy as the third, and what a search has cost."""

import json

import pytest
from archive_maker import make_row, make_run

from greenprune_core.cost import load_profile
from greenprune_core.cost.profile import pricing_profile
from greenprune_core.errors import ConfigError
from hpsearch.cli import main
from hpsearch.front import find_front
from hpsearch.objectives import choose
from hpsearch.report.front_view import front_view
from hpsearch.search_run import open_run

MODELLED = "model:here"


def timed_row(number, *, accuracy, model_latency_s, source=MODELLED, **other):
    return make_row(
        number,
        accuracy=accuracy,
        model_latency_s=model_latency_s,
        dense_model_latency_s=1e-3,
        model_latency_source=source,
        **other,
    )


@pytest.fixture
def timed_run(tmp_path):
    """The faster network is the dearer one in joules, so that the two objectives disagree."""
    rows = [
        timed_row(1, accuracy=0.90, model_latency_s=2e-4, energy_j=1.5e-3),
        timed_row(2, accuracy=0.90, model_latency_s=4e-4, energy_j=0.5e-3),
        timed_row(3, accuracy=0.95, model_latency_s=5e-4, energy_j=1.8e-3),
        timed_row(4, accuracy=0.80, model_latency_s=1e-5, source="model:other", energy_j=0.1e-3),
        make_row(5, accuracy=0.99),
    ]
    make_run(tmp_path / "run", rows, objective="latency")
    return tmp_path / "run"


def ids(rows):
    return [row["trial_id"] for row in rows]


def test_the_front_is_of_modelled_latencies_of_one_profile(timed_run):
    front = open_run(timed_run).compared
    assert ids(front.members) == ["t00001", "t00003"]
    assert front.sources == {"latency": MODELLED}
    assert front.left_out == {
        "its latency is from model:other, not from model:here": 1,
        "model_latency_s is missing or not finite": 1,
    }


def test_the_picture_names_the_profile_and_ends_at_the_dense_network(timed_run):
    view = front_view(open_run(timed_run))
    assert view.axis.title == "latency per inference, model:here"
    assert view.axis.dense == 1e-3


def test_pick_takes_modelled_latency_and_calls_it_so(timed_run, capsys):
    assert main(["pick", str(timed_run), "--max-latency", "450us"]) == 0
    shown = capsys.readouterr().out
    assert "picked t00001: the most accurate within modelled latency at most 450 µs" in shown
    assert "200 µs (model:here)" in shown
    assert main(["pick", str(timed_run), "--max-latency", "1us"]) == 3
    assert "modelled latency" in capsys.readouterr().err
    assert main(["pick", str(timed_run), "--min-accuracy", "0.9", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["trial_id"] == "t00001"  # the fastest, not the cheapest in joules


def test_a_measured_latency_takes_the_place_of_modelled_ones(tmp_path, capsys):
    rows = [
        timed_row(1, accuracy=0.90, model_latency_s=2e-4),
        timed_row(2, accuracy=0.95, model_latency_s=3e-4, latency_s=7e-4),
    ]
    make_run(tmp_path / "run", rows)
    assert main(["pick", str(tmp_path / "run"), "--max-latency", "1ms"]) == 0
    shown = capsys.readouterr().out
    assert "picked t00002: the most accurate within latency at most 1.00 ms" in shown
    assert "700 µs (measured)" in shown


def test_runs_of_two_profiles_are_not_compared(timed_run, tmp_path, capsys):
    make_run(
        tmp_path / "b", [timed_row(1, accuracy=0.9, model_latency_s=1e-4, source="model:there")], objective="latency"
    )
    assert main(["compare", str(timed_run), str(tmp_path / "b")]) == 2
    assert "their latency is from model:here (run) and from model:there (b)" in capsys.readouterr().err


def test_counted_and_modelled_training_energies_do_not_meet_on_one_front():
    rows = [
        make_row(1, accuracy=0.9, train_energy_j=5.0),
        make_row(2, accuracy=0.8, train_energy_j=4.0),
        make_row(3, accuracy=0.7, train_energy_j=1.0, train_energy_source="rapl"),
    ]
    front = find_front(rows, choose("macs", "training-energy"))
    assert ids(front.candidates) == ["t00001", "t00002"]
    assert front.left_out == {"its training-energy is from rapl, not from model:horowitz-45nm": 1}
    assert len(front.members) == 2  # the second is worse but for its cheaper training


@pytest.mark.slow
def test_three_objectives_go_through_front_report_and_pick(tmp_path, capsys):
    rows = [
        make_row(1, accuracy=0.90, energy_j=1e-3, train_energy_j=9.0),
        make_row(2, accuracy=0.90, energy_j=0.9e-3, train_energy_j=5.0),
        make_row(3, accuracy=0.80, energy_j=1.2e-3, train_energy_j=1.0),
    ]
    make_run(tmp_path / "run", rows, third_objective="training-energy")
    run = open_run(tmp_path / "run")
    assert ids(run.compared.members) == ["t00002", "t00003"]
    assert front_view(run).third_axis.title == "energy of training, model:horowitz-45nm"
    assert main(["status", str(tmp_path / "run"), "--json"]) == 0
    assert 0 < json.loads(capsys.readouterr().out)["hypervolume"] < 1
    assert main(["report", str(tmp_path / "run")]) == 0
    assert "energy of training, model:horowitz-45nm" in (tmp_path / "run" / "report.html").read_text()
    capsys.readouterr()
    assert main(["pick", str(tmp_path / "run"), "--knee", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["trial_id"] == "t00002"


def test_status_shows_what_the_search_cost_and_when_it_has_paid_back(tmp_path, capsys):
    rows = [
        make_row(1, accuracy=0.9, energy_j=1e-3, train_energy_j=3.0e6),
        make_row(2, accuracy=None, energy_j=1e-3, state="stopped", train_energy_j=0.6e6),
        make_row(3, accuracy=None, energy_j=1e-3, state="failed", train_energy_j=None),
    ]
    make_run(tmp_path / "run", rows)
    assert main(["status", str(tmp_path / "run"), "--carbon-intensity", "400"]) == 0
    shown = capsys.readouterr().out
    assert "training: 3.60 MJ = 1 kWh, model:horowitz-45nm; complete 3.00 MJ (1), stopped 600 kJ (1)" in shown
    assert "1 trials do not know their energy" in shown
    assert "0.4 kg CO2e" in shown
    assert "1.00 kJ" in shown  # of a million inferences, 1 mJ each
    assert "3,600,000,000 inferences" in shown
    assert main(["status", str(tmp_path / "run"), "--carbon-intensity", "-1"]) == 2
    assert "above 0 g/kWh" in capsys.readouterr().err


def test_counted_training_is_not_paid_back_with_modelled_inferences(tmp_path, capsys):
    make_run(tmp_path / "run", [make_row(1, energy_j=1e-3, train_energy_source="rapl")])
    assert main(["status", str(tmp_path / "run")]) == 0
    assert "not known: training and inference have different sources" in capsys.readouterr().out


def test_a_profile_without_timings_or_joules_is_refused_where_they_are_needed(tmp_path, capsys):
    from hpsearch.settings import SearchSettings
    from hpsearch.start import check_profile

    reference = load_profile("horowitz-45nm")
    assert pricing_profile(reference) is reference
    with pytest.raises(ConfigError, match="has none; make one with hpsearch calibrate"):
        check_profile(reference, SearchSettings(objective="latency"))
    check_profile(reference, SearchSettings())
    arguments = ["search", "--objective", "latency", "--storage-path", str(tmp_path), "--name", "x", "--trials", "9"]
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert "timings at batch size 1" in message
    assert message.count("\n") == 1
    assert not (tmp_path / "x").exists()
