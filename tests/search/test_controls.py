"""Dense and uniformly narrower networks beside a front: trained by its recipes, shown, and never searched on."""

import json

import pytest
from archive_maker import make_row, make_run

from greenprune_core.config import BudgetConfig, DataConfig, GateConfig, NetworkConfig, OptimiserConfig, TrialConfig
from greenprune_core.subnetwork import load_subnetwork
from hpsearch.archive import CONTROLS_FOLDER, finished_ids, write_trial
from hpsearch.cli import main
from hpsearch.controls import Place, plan_controls, train_controls
from hpsearch.energy.measurement import choose_trials
from hpsearch.report import render_page, render_summary
from hpsearch.report.control_view import control_lines, placed_controls
from hpsearch.report.front_view import front_view
from hpsearch.search_run import open_run

CONFIG = TrialConfig(
    network=NetworkConfig(name="cifar_resnet8", width=4),
    data=DataConfig(name="digits", n_train=160),
    budget=BudgetConfig(target=0.5, unit="joules"),
    gates=GateConfig(learning_rate_factor=5.0),
    optimiser=OptimiserConfig(batch_size=32, shape="hold_then_cosine"),
    epochs=2,
)
DENSE_MACS, DENSE_J = 171_000, 8e-6


def member(number, accuracy, share):
    costs = {"macs": round(DENSE_MACS * share), "dense_macs": DENSE_MACS, "dense_energy_j": DENSE_J}
    return make_row(number, accuracy=accuracy, energy_j=DENSE_J * share, config=CONFIG.to_dict(), **costs)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    make_run(folder, [member(1, 0.3, 0.2), member(2, 0.5, 0.6), member(3, 0.6, 0.7)])
    before = render_summary(open_run(folder))
    said = []
    run, place = open_run(folder), Place()
    rows = list(train_controls(run, plan_controls(run, place, n_uniform=2), place, said.append))
    return folder, rows, said, before


@pytest.mark.slow
def test_the_dense_network_comes_first_and_narrower_ones_lie_near_the_front(trained):
    _, rows, said, _ = trained
    assert [row["control"] for row in rows] == ["dense", "uniform_width", "uniform_width"]
    assert rows[0]["macs"] == rows[0]["dense_macs"] > rows[1]["macs"] > rows[2]["macs"]
    assert rows[0]["details"]["recipe_of"] == "t00003"  # the most accurate
    for row, share in zip(rows, (1.0, 0.7, 0.2), strict=True):
        assert row["energy_j"] / row["dense_energy_j"] == pytest.approx(share, abs=0.15)
        assert row["dense_macs"] == rows[0]["dense_macs"]
    assert len(said) == 3


@pytest.mark.slow
def test_a_control_has_the_recipe_of_the_front_and_nothing_to_prune(trained):
    _, rows, _, _ = trained
    for row in rows:
        assert (row["config"]["epochs"], row["epochs"]) == (2, 2)
        assert row["config"]["optimiser"] == CONFIG.to_dict()["optimiser"]
        assert row["config"]["budget"]["target"] == 1.0
    kept = rows[2]["kept_channels"]
    assert all(0 < n_kept < n for n_kept, n in kept.values())
    shares = [n_kept / n for n_kept, n in kept.values()]
    assert max(shares) - min(shares) <= 0.125  # half a channel of four


@pytest.mark.slow
def test_what_has_a_row_is_not_trained_again(trained):
    folder, rows, _, _ = trained
    run, place, said = open_run(folder), Place(), []
    again = list(train_controls(run, plan_controls(run, place, n_uniform=2), place, said.append))
    assert [row["trial_id"] for row in again] == [row["trial_id"] for row in rows]
    assert all("trained before" in text for text in said)


@pytest.mark.slow
def test_controls_are_apart_from_the_search_its_front_and_its_picks(trained):
    folder, rows, _, before = trained
    run = open_run(folder)
    ids = {row["trial_id"] for row in rows}
    assert {row["trial_id"] for row in run.controls} == ids
    assert finished_ids(run.storage) == {"t00001", "t00002", "t00003"}
    assert not ids & set(run.trials["trial_id"].to_pylist())
    assert not ids & set(run.front["trial_id"].to_pylist())
    assert main(["pick", str(folder), "--trial", rows[0]["trial_id"]]) == 2
    # with controls the summary has a table more; hypervolume, energy spent and front are as before
    assert render_summary(run).startswith(before.split("Cost axis")[0])


@pytest.mark.slow
def test_controls_are_on_the_page_and_can_be_loaded(trained):
    folder, rows, _, _ = trained
    run = open_run(folder)
    assert [point.kind for point in front_view(run).points].count("control") == 3
    page = render_page(run)
    assert "dense network" in page
    assert "uniform width" in page
    network = load_subnetwork(folder / "subnetworks" / rows[2]["trial_id"])
    assert sum(parameter.numel() for parameter in network.parameters()) == rows[2]["params_kept"]


def control(number, kind, **other):
    return make_row(number, control=kind, details={"channel_share": 0.5}, **other)


def show(tmp_path, rows, controls):
    storage = make_run(tmp_path / "run", rows)
    for row in controls:
        write_trial(storage, row, CONTROLS_FOLDER)
    return open_run(tmp_path / "run")


def test_a_control_stands_against_the_best_of_the_front_for_no_more(tmp_path):
    rows = [make_row(1, accuracy=0.8, energy_j=0.5e-3), make_row(2, accuracy=0.9, energy_j=1.5e-3)]
    controls = [
        control(3, "dense", accuracy=0.895, energy_j=2e-3),
        control(4, "uniform_width", accuracy=0.7, energy_j=1e-3),
        control(5, "uniform_width", accuracy=0.6, energy_j=0.1e-3),
    ]
    dense, narrow, cheap = control_lines(show(tmp_path, rows, controls))
    assert (dense.label, dense.rival, dense.difference) == ("dense network", "t00002", "+0.50 points, within noise")
    assert (narrow.label, narrow.rival) == ("uniform width 50%", "t00001")
    assert (narrow.difference, narrow.test_difference) == ("+10.00 points, beyond noise", "+10.00 points, beyond noise")
    assert (cheap.rival, cheap.difference) == (None, "nothing so cheap")


def test_seeds_of_a_control_are_one_line_with_their_mean(tmp_path):
    seeds = [
        control(n, "dense", seed=n, accuracy=0.9 + n / 100, energy_j=2e-3, config_hash="dense-1") for n in (4, 5, 6)
    ]
    run = show(tmp_path, [make_row(1)], seeds)
    (row,) = placed_controls(run)
    assert row["val_accuracy"] == pytest.approx(0.95)
    (point,) = [point for point in front_view(run).points if point.kind == "control"]
    assert point.low < 0.95 < point.high
    assert front_view(run).n_controls_left_out == 0


def test_a_control_of_another_source_is_left_out_and_counted(tmp_path):
    run = show(tmp_path, [make_row(1)], [control(2, "dense", energy_source="nvml"), control(3, "dense")])
    assert [row["trial_id"] for row in placed_controls(run)] == ["t00003"]
    assert "1 control left out" in render_page(run)


def test_controls_are_measured_with_the_front_or_by_name(tmp_path):
    run = show(tmp_path, [make_row(1), make_row(2, accuracy=0.1)], [control(3, "dense")])
    for name in ("t00001", "t00002", "t00003"):
        run.storage.write_bytes(f"subnetworks/{name}/card.json", b"{}")
    assert [row["trial_id"] for row in choose_trials(run)] == ["t00001", "t00003"]
    assert [row["trial_id"] for row in choose_trials(run, ["t00003"])] == ["t00003"]


def test_of_a_repeated_configuration_every_seed_is_measured(open_rows):
    run = open_rows([make_row(n, seed=n, config_hash="t00001") for n in (1, 2, 3)])
    for row in run.rows:
        run.storage.write_bytes(f"subnetworks/{row['trial_id']}/card.json", b"{}")
    assert [row["trial_id"] for row in choose_trials(run)] == ["t00001", "t00002", "t00003"]


def test_a_run_without_a_front_has_no_controls(tmp_path, capsys):
    make_run(tmp_path / "run", [make_row(1, state="failed", error="NaN")])
    assert main(["controls", str(tmp_path / "run")]) == 2
    assert "let a trial finish first" in capsys.readouterr().err
    make_run(tmp_path / "old", [make_row(1, config=None)])
    assert main(["controls", str(tmp_path / "old")]) == 2
    assert "is not recorded" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_trains_what_is_asked_and_prints_a_table(tmp_path, capsys):
    make_run(tmp_path / "run", [member(1, 0.3, 0.3), member(2, 0.5, 0.6)])
    assert main(["controls", str(tmp_path / "run"), "--uniform", "0", "--seeds", "2"]) == 0
    out = capsys.readouterr().out
    assert "2/2 dense-" in out
    assert "the front for no more" in out
    seeds = [json.loads(row["config"])["seed"] for row in _controls(tmp_path / "run")]
    assert sorted(seeds) == [CONFIG.seed, CONFIG.seed + 1]


def _controls(folder):
    from hpsearch.archive import read_archive
    from hpsearch.storage import RunStorage

    return read_archive(RunStorage.open(folder), CONTROLS_FOLDER).table.to_pylist()
