"""Searches of real trials on a real Ray that end by their energy budget: what is kept, and how they go on."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import search_driver
from short_folder import short_folder

from hpsearch import archive
from hpsearch.cli import main
from hpsearch.settings import resolve
from hpsearch.start import resolve_space
from hpsearch.storage import RunStorage
from hpsearch.tuner import Outcome, search

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

N_TRIALS = 4  # as many as the space has first points
PINS = ("epochs=4", "n_train=256")


@pytest.fixture(scope="module", autouse=True)
def ray_session() -> Iterator[None]:
    import ray

    from hpsearch.cluster.session import connect

    with short_folder() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", str(folder))
        # at the niceness that Ray gives them workers starve beside other tests
        patch.setenv("RAY_worker_niceness", "0")
        patch.setenv("PYTHONPATH", f"{search_driver.BENCHMARKS}{os.pathsep}{Path(__file__).parent}")
        connect("local")
        yield
        ray.shutdown()


def _search(folder: Path, **given) -> Outcome:
    options = {"storage_path": str(folder), "name": "run", "space": "digits", "trials": N_TRIALS, "pins": PINS}
    # one after the other, so that it is known who runs when the budget is used up
    settings, _ = resolve({**options, "max_concurrent": 1, **given}, {})
    return search(settings, resolve_space(settings), say=lambda line: None, runner="eager:EagerTrial")


def _rows(folder: Path) -> list[dict]:
    return sorted(
        archive.rows(archive.read_trials(RunStorage.open(folder / "run"))), key=lambda row: row["finished_at"]
    )


def _checkpoints(folder: Path) -> list[str]:
    return [path.stem for path in (folder / "run" / "checkpoints").glob("*.pt")]


@pytest.fixture(scope="module")
def budget(tmp_path_factory) -> str:
    """A budget that is used up while the second trial runs."""
    folder = tmp_path_factory.mktemp("first")
    outcome = _search(folder, energy_budget="1pJ", at_budget="finish")
    (first,) = _rows(folder)
    assert (outcome.reason, first["state"]) == ("energy budget used up", "complete")
    return f"{1.4 * first['train_energy_j']:.6g}J"


@pytest.fixture(scope="module")
def finished(tmp_path_factory, budget) -> Path:
    """A run whose second trial came to its end after the budget was used up."""
    folder = tmp_path_factory.mktemp("finish")
    outcome = _search(folder, energy_budget=budget, at_budget="finish")
    assert (outcome.reason, outcome.error) == ("energy budget used up", None)
    return folder


def test_finish_lets_the_running_trial_come_to_its_end_and_starts_no_other(finished, budget):
    first, second = _rows(finished)
    assert {first["state"], second["state"]} == {"complete"}
    assert first["train_energy_j"] < float(budget.removesuffix("J"))
    assert first["train_energy_j"] + second["train_energy_j"] > float(budget.removesuffix("J"))
    assert _checkpoints(finished) == []
    assert {path.name for path in (finished / "run" / "subnetworks").iterdir()} == {
        first["trial_id"],
        second["trial_id"],
    }


def test_resuming_with_the_used_up_budget_starts_nothing(finished, budget):
    again = _search(finished, energy_budget=budget, at_budget="finish", resume=True)
    assert (again.reason, again.ledger.n_finished) == ("energy budget used up", 2)
    assert len(_rows(finished)) == 2
    assert again.ledger.study.open_ids == []


def test_stop_keeps_the_running_trial_and_resume_ends_it_as_if_nothing_had_been(tmp_path, finished, budget, capsys):
    outcome = _search(tmp_path, energy_budget=budget)
    assert (outcome.reason, outcome.error) == ("energy budget used up", None)
    (first,) = _rows(tmp_path)
    (kept,) = _checkpoints(tmp_path)
    assert kept != first["trial_id"]
    assert outcome.ledger.study.open_ids == []
    assert main(["status", str(tmp_path / "run")]) == 0
    assert "1 of 4 trials finished (1 complete, " in capsys.readouterr().out

    again = _search(tmp_path, resume=True)
    rows = _rows(tmp_path)
    assert (again.reason, again.error) == (None, None)
    assert [row["state"] for row in rows] == ["complete"] * N_TRIALS
    assert _checkpoints(tmp_path) == []
    second = next(row for row in rows if row["trial_id"] == kept)
    assert 1 <= second["details"]["continued_at_epoch"] < 4
    uncut = next(row for row in _rows(finished) if row["trial_id"] == kept)
    for column in ("val_accuracy", "energy_j", "train_energy_j", "train_macs", "epochs"):
        assert second[column] == uncut[column], column
