"""The joules of a trial's training: counted where the trial is alone on its device, else modelled, always labelled."""

import itertools
import json
import os
from collections import Counter
from types import SimpleNamespace

import pytest
import search_driver  # noqa: F401  puts the tabulated trials on the import path
import tabulated

from greenprune_core.config import TrialConfig
from greenprune_core.errors import ConfigError
from greenprune_core.measure.meter import MeterUnavailableError, NoMeter, ReplayMeter
from hpsearch.cluster.worker import TrialHost
from hpsearch.energy.training_energy import TrainingMeter, is_exclusive, open_training_meter
from hpsearch.searcher import _spent
from hpsearch.settings import SearchSettings
from hpsearch.stopping import Budgets, StopRequest

MODELLED_J = 5.0


class SpendingTrial(tabulated.InstantTrial):
    """A trial that knows what it has spent, as a real one does."""

    def spent(self):
        return {"train_energy_j": MODELLED_J * self.epoch, "train_energy_source": "model:none", "train_seconds": 1.0}

    def finish(self):
        return {**super().finish(), **self.spent()}


class FailingTrial(SpendingTrial):
    def advance(self, until_epoch):
        if until_epoch > 3:
            raise RuntimeError("NaN in the loss")
        return super().advance(until_epoch)


@pytest.fixture
def make_task(tmp_path, monkeypatch):
    def make(kind=SpendingTrial, **other):
        (tmp_path / "settings.json").touch()
        monkeypatch.setattr("hpsearch.cluster.worker.load", lambda path: kind)
        config = TrialConfig(epochs=9)
        return {
            **{"trial_id": config.config_hash, "config": config.to_dict(), "run": str(tmp_path), "rungs": [1, 3]},
            **{"runner": "", "cpus": 1, "gpus": 0, "device": "cpu", "data_dir": None, "timeout_s": None},
            **{"meter": "auto", "is_alone": True, "repeats": 1, **other},
        }

    return make


@pytest.fixture
def counter(monkeypatch):
    """A counter that goes on by 2 J with every reading, in the place of RAPL."""
    meter = ReplayMeter(itertools.count(0.0, 2.0), source="rapl")
    monkeypatch.setattr("hpsearch.energy.training_energy.choose_meter", lambda name, device: meter)
    return meter


def test_a_trial_alone_on_the_machine_is_counted_by_the_meter(make_task, counter):
    host = TrialHost(make_task())
    report = host.step()
    assert (report["train_energy_j"], report["train_energy_source"]) == (2.0, "rapl")  # one epoch between two readings
    host.step()
    row = json.loads(host.step()["row"])
    assert (row["train_energy_j"], row["train_energy_source"]) == (18.0, "rapl")


@pytest.mark.parametrize("other", [{"is_alone": False}, {"meter": "none"}, {"repeats": 2}])
def test_a_trial_beside_others_or_repeated_keeps_the_model(make_task, counter, other, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    host = TrialHost(make_task(**other))
    report = host.step()
    assert (report["train_energy_j"], report["train_energy_source"]) == (MODELLED_J, "model:none")


def test_a_trial_that_goes_on_in_another_process_keeps_the_model(make_task, counter):
    TrialHost(make_task()).step()
    again = TrialHost(make_task())
    again.step()
    assert json.loads(again.step()["row"])["train_energy_source"] == "model:none"


def test_a_meter_that_fails_on_the_way_leaves_all_to_the_model():
    meter = TrainingMeter(ReplayMeter([1.0, 2.0, 3.0], source="nvml"))
    with meter:
        pass
    assert meter.columns() == {"train_energy_j": 1.0, "train_energy_source": "nvml"}
    with meter:
        pass  # the recording ends, as when another process comes onto the GPU
    assert meter.columns() == {}
    with meter:
        pass
    assert meter.columns() == {}


def test_a_window_too_short_for_the_counter_is_not_told(monkeypatch):
    slow = ReplayMeter([0.0, 1.0], source="nvml")
    slow.window_s = 3600.0
    meter = TrainingMeter(slow)
    with meter:
        pass
    assert meter.columns() == {}
    assert TrainingMeter(NoMeter()).columns() == {}


def test_stopped_and_failed_trials_keep_what_they_spent(make_task):
    report = TrialHost(make_task(meter="none")).step()
    assert _spent(report) == {
        **{name: report[name] for name in ("node", "started_at", "finished_at", "epochs")},
        **{"train_energy_j": MODELLED_J, "train_energy_source": "model:none", "train_seconds": 1.0},
    }
    host = TrialHost(make_task(FailingTrial, meter="none"))
    host.step()
    host.step()
    failed = host.step()
    assert failed["state"] == "failed"
    assert json.loads(failed["row"])["train_energy_j"] == MODELLED_J * 3


def test_exclusive_is_a_whole_gpu_or_the_whole_machine(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert is_exclusive(1, 1, is_alone=False)
    assert not is_exclusive(1, 0.5, is_alone=False)
    assert is_exclusive(1, 0.5, is_alone=True)
    assert not is_exclusive(1, 2, is_alone=True)  # the counter is that of one GPU
    assert is_exclusive(8, 0, is_alone=False)
    assert not is_exclusive(4, 0, is_alone=False)
    assert is_exclusive(4, 0, is_alone=True)


def test_the_gpu_that_ray_gives_is_the_one_that_is_counted(monkeypatch):
    asked = []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.setattr("greenprune_core.measure.choose.NvmlMeter", lambda index: asked.append(index) or NoMeter())
    open_training_meter({"meter": "auto", "cpus": 1, "gpus": 1}, is_continued=False)
    assert asked == [3]


def test_a_counter_that_falls_while_training_leaves_all_to_the_model():
    meter = TrainingMeter(ReplayMeter([1.0, 4.0, 4.0, 0.5], source="rapl"))
    with meter:
        pass
    assert meter.columns() == {"train_energy_j": 3.0, "train_energy_source": "rapl"}
    with meter:
        pass
    assert meter.columns() == {}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"meter": "rapl"}, "one trial at a time"),
        ({"meter": "nvml", "gpus_per_trial": 0.5}, "one trial at a time"),
        ({"meter": "nvml"}, "nvml those on GPUs"),
        ({"meter": "rapl", "gpus_per_trial": 1.0}, "rapl counts trials on processors"),
        ({"meter": "rapl", "max_concurrent": 1, "repeats": 2}, "one training per trial"),
        ({"at_budget": "finish"}, "at-budget belongs to a budget"),
        ({"energy_budget": "3kW"}, "energy-budget needs an energy"),
        ({"energy_budget": "2mW"}, "with the unit 'mW'"),
    ],
)
def test_settings_that_cannot_count_are_refused(monkeypatch, given, words):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    with pytest.raises(ConfigError, match=words):
        SearchSettings(**given)
    assert SearchSettings(meter="rapl", max_concurrent=1).meter == "rapl"


@pytest.mark.parametrize(("lets_finish", "stops"), [(False, True), (True, False)])
def test_a_spent_energy_budget_counts_running_trials_and_stops_or_lets_them_finish(lets_finish, stops):
    request = StopRequest()
    ledger = SimpleNamespace(
        energy_j=8.0, reasons=Counter(), n_finished=1, feasibility=SimpleNamespace(n_seen=0, is_unmet=False)
    )
    budgets = Budgets(
        request,
        ledger,
        time_s=None,
        energy_j=10.0,
        max_failures=0.5,
        n_trials=9,
        lets_finish=lets_finish,
        say=lambda text: None,
    )
    budgets.check(1.9)
    assert not request.is_set
    budgets.check(2.0)
    assert request.reason == "energy budget used up"
    assert request.stops_running is stops
    request.ask("interrupted")
    assert request.stops_running
    assert request.reason == "energy budget used up"


def test_no_right_to_read_rapl_is_the_reason_of_the_failure(make_task, monkeypatch):
    def refuse(name, device):
        raise MeterUnavailableError("RAPL needs the right to read /sys/x, but got permission denied; let root run: y")

    monkeypatch.setattr("hpsearch.energy.training_energy.choose_meter", refuse)
    failed = TrialHost(make_task(meter="rapl")).step()
    assert failed["state"] == "failed"
    assert "right to read /sys/x" in failed["error"]
