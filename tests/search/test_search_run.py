import json
import subprocess
import sys

import pytest
from archive_maker import make_row, make_rows, make_run

import hpsearch
from greenprune_core.errors import ConfigError
from hpsearch.energy.measured import write_measurements


@pytest.fixture
def run(tmp_path):
    make_run(tmp_path / "run", make_rows(30))
    return hpsearch.open_run(tmp_path / "run")


def test_an_opened_run_has_its_trials_and_its_front(run):
    assert run.trials.num_rows == 30
    energies = run.front["energy_j"].to_pylist()
    accuracies = run.front["val_accuracy"].to_pylist()
    assert energies == sorted(energies)
    assert accuracies == sorted(accuracies)
    assert run.front.schema == run.trials.schema


def test_limits_are_texts_or_numbers(run):
    assert run.pick(max_energy="1mJ").trial_id == run.pick(max_energy=1e-3).trial_id


def test_the_table_goes_to_pandas(run):
    pytest.importorskip("pandas")
    assert list(run.front.to_pandas()["trial_id"]) == [row["trial_id"] for row in run.compared.members]


def test_the_objectives_are_those_of_the_search(tmp_path):
    make_run(tmp_path / "run", [make_row(1)], objective="macs", third_objective="training-energy")
    names = [objective.name for objective in hpsearch.open_run(tmp_path / "run").objectives]
    assert names == ["accuracy", "macs", "training-energy"]


def test_a_run_of_a_newer_version_is_refused(tmp_path):
    storage = make_run(tmp_path / "run", [])
    facts = json.loads(storage.read_bytes("settings.json"))
    storage.write_bytes("settings.json", json.dumps(facts | {"schema_version": 99}).encode())
    with pytest.raises(ConfigError, match="install a newer one"):
        hpsearch.open_run(tmp_path / "run")


def test_damaged_settings_are_named(tmp_path):
    make_run(tmp_path / "run", []).write_bytes("settings.json", b"{")
    with pytest.raises(ConfigError, match=r"settings\.json is JSON, but that of"):
        hpsearch.open_run(tmp_path / "run")


@pytest.mark.slow
def test_reading_and_picking_load_neither_ray_nor_optuna_nor_torch(tmp_path):
    make_run(tmp_path / "run", make_rows(10))
    code = (
        "import sys, hpsearch\n"
        f"run = hpsearch.open_run({str(tmp_path / 'run')!r})\n"
        "run.front, run.pick(knee=True), run.figure().to_dict()\n"
        "import hpsearch.commands.report, hpsearch.commands.pick, hpsearch.commands.compare\n"
        "print(sorted({'ray', 'optuna', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr


def measured(trial_id, **other):
    line = {"trial_id": trial_id, "batch_size": 1, "latency_s": 2e-3, "energy_j": 5e-3, "energy_source": "nvml"}
    return line | {"latency_low_s": 1e-3, "latency_high_s": 3e-3, "energy_low_j": 4e-3, "energy_high_j": 6e-3} | other


def test_measured_latencies_join_the_rows_and_joules_only_when_asked(run):
    write_measurements(run.storage, [measured("t00003")])
    recorded, other = (hpsearch.open_run(run.storage.location, energy) for energy in ("recorded", "measured"))
    row, same = (next(row for row in opened.rows if row["trial_id"] == "t00003") for opened in (recorded, other))
    assert (row["latency_s"], row["energy_source"]) == (2e-3, "model:horowitz-45nm")
    assert (same["energy_j"], same["energy_source"]) == (5e-3, "nvml")
    assert other.front["trial_id"].to_pylist() == ["t00003"]
    assert other.front["energy_j"].to_pylist() == [5e-3]
    assert recorded.pick(max_latency="3ms").trial_id == "t00003"


def test_measured_joules_that_are_not_there_are_an_error(run):
    with pytest.raises(ConfigError, match="hpsearch measure"):
        _ = hpsearch.open_run(run.storage.location, "measured").front


def test_a_damaged_table_of_measurements_does_not_hide_the_run(run, caplog):
    run.storage.write_bytes("measurements.parquet", b"PAR1")
    assert hpsearch.open_run(run.storage.location).front.num_rows > 0
    assert "measurements.parquet" in caplog.text


@pytest.mark.parametrize(
    "damage", [{"trials": "x"}, {"trials": True}, {"objective": [1]}, {"pins": [1]}, {"pins": 3}, {"name": {}}]
)
def test_settings_of_other_types_than_a_search_writes_are_refused_by_name(tmp_path, damage):
    make_run(tmp_path / "run", [make_row(1)], **damage)
    with pytest.raises(ConfigError, match=f"is damaged: its {next(iter(damage))} is "):
        hpsearch.open_run(tmp_path / "run")
