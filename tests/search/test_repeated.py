"""`--repeats`: one configuration with several seeds; each is a row, the mean is told, the spread kept."""

import json
import os
import weakref
import zipfile
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

import pytest
import search_driver  # noqa: F401  puts the tabulated trials on the import path
import tabulated
import torch

from greenprune_core.config import TrialConfig
from greenprune_core.errors import ConfigError
from hpsearch import archive
from hpsearch.cli import main
from hpsearch.cluster.worker import TrialHost
from hpsearch.fold import fold_repeats
from hpsearch.repeated import RepeatedTrial, Repeats
from hpsearch.search_run import open_run
from hpsearch.settings import resolve
from hpsearch.storage import RunStorage
from hpsearch.study.ledger import Ledger
from hpsearch.study.opening import check_run, open_ledger
from hpsearch.trial import TrialReport
from hpsearch.tuner import task

N_SEEDS = 3


def _open(folder: Path, **given) -> tuple[Ledger, object]:
    options = {"storage_path": str(folder), "name": "run", "trials": 4, "repeats": N_SEEDS, **given}
    settings, _ = resolve(options, {})
    return open_ledger(RunStorage.open(settings.run), settings, tabulated.SPACE)[0], settings


def _task(ledger: Ledger, settings, suggestion, rungs=()) -> dict:
    return task(suggestion, settings, ledger.storage, "tabulated:NoisyTrial", rungs)


def _run(ledger: Ledger, settings) -> str:
    """Run one trial as a worker does, and book it as the searcher does."""
    suggestion = ledger.suggest()
    report = TrialHost(_task(ledger, settings, suggestion)).step()
    assert report["state"] == "complete", report
    ledger.finish(suggestion.trial_id, json.loads(report["row"]))
    return suggestion.trial_id


def _rows(folder: Path) -> list[dict]:
    return archive.rows(archive.read_trials(RunStorage.open(folder / "run")))


def test_each_seed_is_a_row_with_its_network_and_the_mean_is_told_with_the_spread_beside_it(tmp_path):
    ledger, settings = _open(tmp_path)
    trial_id = _run(ledger, settings)
    rows = _rows(tmp_path)
    accuracies = [row["val_accuracy"] for row in rows]
    assert sorted(row["seed"] for row in rows) == [0, 1, 2]
    assert {row["config_hash"] for row in rows} == {trial_id}
    assert {row["node"] for row in rows} == {os.uname().nodename}
    for row in rows:
        assert TrialConfig.from_dict(row["config"]).config_hash == row["trial_id"]
        assert row["config"]["seed"] == row["seed"]
        card = json.loads((tmp_path / "run" / "subnetworks" / row["trial_id"] / "card.json").read_text())
        assert card["seed"] == row["seed"]
    (told,) = [trial for trial in ledger.study._trials() if trial.state.name == "COMPLETE"]
    assert told.values[0] == pytest.approx(mean(accuracies))
    assert told.user_attrs["n_seeds"] == N_SEEDS
    assert told.user_attrs["val_accuracy_std"] == pytest.approx(stdev(accuracies))
    assert stdev(accuracies) > 0
    assert ledger.energy_j == 3.0, "each seed spent a joule"


def test_a_repeated_trial_counts_once_and_is_one_point_of_the_front_with_an_interval(tmp_path, capsys):
    ledger, settings = _open(tmp_path)
    for _ in range(2):
        _run(ledger, settings)
    assert ledger.n_finished == 2
    assert len(_rows(tmp_path)) == 2 * N_SEEDS
    assert len(fold_repeats(_rows(tmp_path))) == 2
    assert main(["status", str(tmp_path / "run"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["states"]["complete"], found["n_asked"]) == (2, 4)
    for member in open_run(tmp_path / "run").compared.members:
        assert len(member["repeats"]) == N_SEEDS


def test_a_worker_that_dies_between_two_seeds_goes_on_with_the_next(tmp_path):
    ledger, settings = _open(tmp_path)
    suggestion = ledger.suggest()
    given = _task(ledger, settings, suggestion)
    first = TrialHost(given)
    first._trial = first._open()
    first._trial.advance(13)  # the first seed has 9 epochs
    first._save()
    kept = tmp_path / "run" / "subnetworks" / suggestion.trial_id / "card.json"
    kept.unlink()  # as on another node, whose disk it was
    again = TrialHost(given)
    report = again.step()
    whole = TrialHost(given)
    (tmp_path / "run" / "checkpoints" / f"{suggestion.trial_id}.pt").unlink()
    assert kept.exists()
    row = json.loads(report["row"])
    assert [row["seed"], *(other["seed"] for other in row["repeats"])] == [0, 1, 2]
    uninterrupted = json.loads(whole.step()["row"])
    for name in ("val_accuracy", "energy_j", "config_hash"):
        assert row[name] == uninterrupted[name]
        assert [other[name] for other in row["repeats"]] == [other[name] for other in uninterrupted["repeats"]]


@pytest.mark.parametrize(("now", "n_trained"), [(2, 3), (1, 3), (5, 5)])
def test_a_checkpoint_goes_on_with_another_number_of_seeds_and_ends_with_those_that_were_begun(
    tmp_path, now, n_trained
):
    config = TrialConfig(epochs=3)
    before = Repeats(tabulated.NoisyTrial, 3)(config, tmp_path / "first")
    before.advance(7)  # in the third seed
    (tmp_path / "aside").mkdir()
    before.save(tmp_path / "aside" / "kept.pt")
    trial = Repeats(tabulated.NoisyTrial, now).restore(tmp_path / "aside" / "kept.pt", config, tmp_path / "first")
    assert trial.advance(trial.epochs).epoch == 3 * n_trained
    assert trial.is_finished
    assert len(trial.finish()["repeats"]) == n_trained - 1


@pytest.mark.parametrize("name", ["folders/../../planted.py", "folders//planted.py", "folders/planted.py"])
def test_a_checkpoint_never_writes_outside_the_folders_of_its_seeds(tmp_path, name):
    config, folder = TrialConfig(epochs=3), tmp_path / "run" / "subnetworks" / "first"
    path = tmp_path / "kept.pt"
    Repeats(tabulated.NoisyTrial, 2)(config, folder).save(path)
    with zipfile.ZipFile(path, "a") as checkpoint:
        checkpoint.writestr(name, "import os")
    with pytest.raises(ConfigError, match="holds the files of its own seeds"):
        Repeats(tabulated.NoisyTrial, 2).restore(path, config, folder)
    assert not list(tmp_path.rglob("planted.py"))


@pytest.mark.parametrize(("before", "now"), [(2, 1), (1, 2)])
def test_a_resume_with_another_number_of_seeds_is_refused(tmp_path, before, now):
    ledger, settings = _open(tmp_path, repeats=before)
    check_run(ledger.storage, replace(settings, resume=True))
    with pytest.raises(
        ConfigError, match=rf"keeps its repeats, .* made with {before} and got {now}; .*--repeats {before}"
    ):
        check_run(ledger.storage, replace(settings, resume=True, repeats=now))


def test_rungs_judge_the_first_seed_only(tmp_path):
    ledger, settings = _open(tmp_path)
    host = TrialHost(_task(ledger, settings, ledger.suggest(), rungs=(1, 3)))
    reports = [host.step() for _ in range(3)]
    assert [report.get("is_at_rung") for report in reports] == [True, True, None]
    assert reports[2]["state"] == "complete"


def test_a_kill_between_the_rows_of_two_seeds_has_the_trial_taken_up_again(tmp_path, monkeypatch):
    ledger, settings = _open(tmp_path)
    _run(ledger, settings)
    suggestion = ledger.suggest()
    row = json.loads(TrialHost(_task(ledger, settings, suggestion)).step()["row"])
    write = archive.write_trial

    def die_at_the_first_seed(storage, values):
        if values["trial_id"] == suggestion.trial_id:
            raise KeyboardInterrupt
        write(storage, values)

    monkeypatch.setattr(archive, "write_trial", die_at_the_first_seed)
    with pytest.raises(KeyboardInterrupt):
        ledger.finish(suggestion.trial_id, row)
    monkeypatch.undo()
    again, settings = _open(tmp_path, resume=True)
    assert again.n_finished == 1
    assert again.suggest().trial_id == suggestion.trial_id
    again.finish(suggestion.trial_id, row)
    assert len({row["trial_id"] for row in _rows(tmp_path)}) == 2 * N_SEEDS


def test_a_reopened_run_tells_the_mean_of_rows_that_were_not_told(tmp_path, monkeypatch):
    ledger, settings = _open(tmp_path)
    monkeypatch.setattr(ledger.study, "tell_complete", lambda *arguments, **options: None)
    _run(ledger, settings)
    again, _ = _open(tmp_path, resume=True)
    (told,) = [trial for trial in again.study._trials() if trial.state.name == "COMPLETE"]
    assert told.values[0] == pytest.approx(mean(row["val_accuracy"] for row in _rows(tmp_path)))
    assert again.n_finished == 1


def test_a_seeds_memory_is_free_before_the_next_begins(tmp_path, monkeypatch):
    """Both at once would take twice a GPU's share."""
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)

    class Trial:
        epochs = 1
        is_finished = False
        epoch = 0

        def __init__(self, config, folder):
            assert [one() for one in alive if one() is not None] == []
            alive.append(weakref.ref(self))
            self.config, self.cycle = config, self  # as in a traced network

        def advance(self, until_epoch):
            self.epoch, self.is_finished = 1, True
            return TrialReport(epoch=1, phase="done", val_accuracy=0.5, expected_energy_j=1.0, expected_macs=1.0)

        def finish(self):
            return {"trial_id": self.config.config_hash}

    alive = []
    trial = RepeatedTrial(Trial, TrialConfig(), tmp_path, N_SEEDS)
    assert trial.advance(N_SEEDS).epoch == N_SEEDS
    assert len(alive) == N_SEEDS
