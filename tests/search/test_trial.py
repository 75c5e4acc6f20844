"""A trial is a plain function: it needs no ray, repeats bit for bit, and goes on from its checkpoint."""

import json
import pickle
import subprocess
import sys

import pytest
import torch
from torch import fx, nn

from greenprune_core.config import (
    BudgetConfig,
    DataConfig,
    GateConfig,
    NetworkConfig,
    OptimiserConfig,
    PhaseConfig,
    TrialConfig,
)
from greenprune_core.errors import ConfigError, UnsupportedNetworkError
from greenprune_core.subnetwork import load_subnetwork
from hpsearch.archive import SCHEMA, read_trials, write_trial
from hpsearch.storage import RunStorage
from hpsearch.trial import TrialRun, run_trial

CONFIG = TrialConfig(
    network=NetworkConfig(name="cifar_resnet8", width=4),
    data=DataConfig(name="digits", n_train=320),
    budget=BudgetConfig(target=0.5, unit="joules"),
    phases=PhaseConfig(warm_up=0.1, freeze_at=0.5, freeze_latest=0.7),
    gates=GateConfig(learning_rate_factor=5.0),
    optimiser=OptimiserConfig(batch_size=16, learning_rate=0.8),
    epochs=4,
)
TIMES = {"started_at", "finished_at", "train_seconds"}


def without_times(row):
    row = {key: value for key, value in row.items() if key not in TIMES}
    row["phase_cost"] = {
        phase: {key: value for key, value in cost.items() if key != "seconds"}
        for phase, cost in row["phase_cost"].items()
    }
    return row


@pytest.fixture(scope="module")
def finished_trial(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trial") / "abc"
    return folder, run_trial(CONFIG, folder)


def test_the_row_fits_the_archive_and_says_what_was_reached(finished_trial, tmp_path):
    _, row = finished_trial
    assert set(row) <= set(SCHEMA.names)
    storage = RunStorage.open(str(tmp_path))
    write_trial(storage, {**row, "trial_id": "abc", "state": "complete"})
    stored = read_trials(storage).to_pylist()[0]
    assert stored["energy_j"] == row["energy_j"] <= 0.5 * row["dense_energy_j"]
    assert stored["energy_source"] == stored["train_energy_source"] == "model:horowitz-45nm"
    assert stored["train_energy_j"] > 1000 * stored["energy_j"]
    assert sum(cost["macs"] for cost in json.loads(stored["phase_cost"]).values()) == stored["train_macs"]
    assert sum(cost["joules"] for cost in json.loads(stored["phase_cost"]).values()) == pytest.approx(
        stored["train_energy_j"]
    )
    assert stored["config_hash"] == CONFIG.config_hash


def test_equal_seeds_give_bit_identical_rows_and_networks(finished_trial, tmp_path):
    folder, row = finished_trial
    again = run_trial(CONFIG, tmp_path / "again")
    assert without_times(again) == without_times(row)
    assert (tmp_path / "again" / "weights.safetensors").read_bytes() == (folder / "weights.safetensors").read_bytes()


def test_a_trial_goes_on_from_its_checkpoint_with_the_same_result(finished_trial, tmp_path):
    _, row = finished_trial
    first = TrialRun(CONFIG, tmp_path / "sub")
    report = first.advance(2)
    assert report.epoch == 2
    assert report.expected_energy_j < row["dense_energy_j"]
    first.save(tmp_path / "state.pt")
    second = TrialRun.restore(tmp_path / "state.pt", CONFIG, tmp_path / "sub")
    assert second.epoch == 2
    second.advance(CONFIG.epochs)
    assert second.is_finished
    assert without_times(second.finish()) == without_times(row)


def test_before_the_cut_the_energy_reported_is_what_the_budget_would_keep():
    run = TrialRun(CONFIG, "unused")
    report = run.advance(1)
    assert report.phase == "select"
    assert report.expected_energy_j <= 0.5 * 1.0001 * run.advance(4).expected_energy_j / 0.4


def test_the_saved_sub_network_classifies_as_its_row_says(finished_trial):
    from greenprune_core.data import load_data

    folder, row = finished_trial
    network = load_subnetwork(folder).eval()
    data = load_data(CONFIG.data)
    n_right = 0
    with torch.no_grad():
        for images, labels in data.plain_batches("test", 128):
            raw = images * data.std[:, None, None] + data.mean[:, None, None]
            n_right += int((network(raw).argmax(1) == labels).sum())
    assert n_right / data.n_test == pytest.approx(row["test_accuracy"], abs=1.5 / data.n_test)


@pytest.mark.slow
def test_a_trial_loads_no_ray():
    code = "import sys, hpsearch.trial; sys.exit('ray' in sys.modules or 'optuna' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class Malice:
    """What an attacker with the rights to write the storage would leave there: unpickling it makes a file."""

    def __init__(self, proof):
        self.proof = proof

    def __reduce__(self):
        return (open, (str(self.proof), "w"))


@pytest.mark.parametrize("write", [torch.save, lambda thing, path: path.write_bytes(pickle.dumps(thing))])
def test_a_checkpoint_with_code_in_it_is_refused_and_the_code_never_runs(tmp_path, write):
    path, proof = tmp_path / "state.pt", tmp_path / "it ran"
    write({"format": Malice(proof), "config_hash": CONFIG.config_hash}, path)
    with pytest.raises(ConfigError, match="start anew"):
        TrialRun.restore(path, CONFIG, tmp_path / "sub")
    assert not proof.exists()


def doubled(x):
    return 2 * x


fx.wrap("doubled")


class OwnFunction(nn.Sequential):
    def forward(self, x):
        return super().forward(doubled(x))


def test_a_network_whose_remains_could_not_be_saved_is_refused_before_it_trains(tmp_path):
    network = OwnFunction(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    with pytest.raises(UnsupportedNetworkError, match=r"but got .*test_trial\.doubled"):
        TrialRun(CONFIG, tmp_path, network=network)
