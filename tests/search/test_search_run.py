import json
import subprocess
import sys

import pytest
from archive_maker import make_row, make_rows, make_run

import hpsearch
from greenprune_core.errors import ConfigError


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
