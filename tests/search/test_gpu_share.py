"""Trials that share a GPU: each has its part of the memory, and one that lacked it gets the GPU for itself, once."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import search_driver
import torch
from short_folder import short_folder

from greenprune_core.config import TrialConfig
from hpsearch import archive
from hpsearch.cluster import gpu_share
from hpsearch.settings import resolve
from hpsearch.storage import RunStorage
from hpsearch.tuner import Outcome, search

GIB = 2**30


@pytest.mark.parametrize(
    ("gpus", "total_gib", "share"),
    [(1, 16, 1.0), (2, 16, 1.0), (0.5, 16, 0.5 - 600 / 16384), (0.125, 2, 0.0625)],
    ids=["whole", "two", "half of a T4, less a CUDA context", "never less than half of the share"],
)
def test_a_trial_gets_its_share_of_the_memory_with_its_cuda_context_counted_in(
    gpus: float, total_gib: int, share: float
) -> None:
    assert gpu_share.share_of_memory(gpus, total_gib * GIB) == pytest.approx(share)


def test_only_lack_of_gpu_memory_on_a_shared_gpu_counts_as_crowded() -> None:
    lack = torch.OutOfMemoryError("CUDA out of memory")
    assert gpu_share.is_crowded(lack, 0.25)
    assert not gpu_share.is_crowded(lack, 1.0), "alone it had all there is"
    assert not gpu_share.is_crowded(lack, 0.0)
    assert not gpu_share.is_crowded(RuntimeError("CUDA error"), 0.25)


@pytest.mark.parametrize(("gpus", "fraction"), [(0.25, 0.25 - 600 / 16384), (1, 1.0), (0, None)])
def test_the_guard_is_set_on_each_gpu_that_the_process_sees(
    monkeypatch: pytest.MonkeyPatch, gpus: float, fraction: float | None
) -> None:
    guarded: dict[int, float] = {}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(total_memory=16 * GIB))
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda share, index: guarded.update({index: share})
    )
    gpu_share.limit(gpus)
    assert guarded == ({} if fraction is None else {0: pytest.approx(fraction), 1: pytest.approx(fraction)})


@pytest.fixture(scope="module")
def one_gpu() -> Iterator[None]:
    """A session of Ray that believes in a GPU."""
    import ray

    here = Path(__file__).parent
    with short_folder() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{search_driver.BENCHMARKS}:{here}")
        patch.setenv("EPOCHS", "2")
        patch.setenv("RAY_worker_niceness", "0")
        ray.init(
            num_cpus=4, num_gpus=1, include_dashboard=False, log_to_driver=False, _temp_dir=str(folder),
            object_store_memory=200_000_000,
        )  # fmt: skip
        yield
        ray.shutdown()


def _search(folder: Path, runner: str, space_needs: Any = None, **given: object) -> Outcome:
    import tabulated

    options = {"storage_path": str(folder), "name": "run", "space": "tabulated:SPACE", "gpus_per_trial": 0.25, **given}
    settings, _ = resolve(options, {})
    space = dataclasses.replace(tabulated.SPACE, needs=space_needs)
    return search(settings, space, say=print, runner=f"crowded:{runner}")


@pytest.mark.slow
def test_a_trial_without_enough_memory_is_run_again_once_alone_before_it_counts_as_failed(
    tmp_path: Path, one_gpu: None
) -> None:
    outcome = _search(tmp_path, "CrowdedTrial", trials=6, max_failures=0)
    rows = archive.rows(archive.read_trials(RunStorage.open(tmp_path / "run")))
    assert [row["state"] for row in rows] == ["complete"] * 6
    assert outcome.ledger.counts["failed"] == 0
    noted = _attempts(tmp_path / "run")
    lacked = {trial_id for trial_id in noted if int(trial_id, 16) % 3 == 0}
    assert lacked
    for trial_id, attempts in noted.items():
        shares = [share for share, _ in attempts]
        assert shares == ([0.25, 1.0, 1.0] if trial_id in lacked else [0.25, 0.25])
        assert all(n_neighbours == 0 for share, n_neighbours in attempts if share == 1), "it was not alone"


@pytest.mark.slow
def test_a_trial_that_lacks_memory_also_alone_has_failed_with_its_reason(tmp_path: Path, one_gpu: None) -> None:
    outcome = _search(tmp_path, "HopelessTrial", trials=1, max_failures=1.0)
    assert outcome.ledger.counts == {"failed": 1}
    rows = archive.rows(archive.read_trials(RunStorage.open(tmp_path / "run")))
    assert all("OutOfMemoryError: CUDA out of memory" in row["error"] for row in rows)


@pytest.mark.slow
def test_trials_of_one_search_may_need_different_shares_and_each_has_as_many_threads_as_processors(
    tmp_path: Path, one_gpu: None
) -> None:
    _search(tmp_path, "NeedyTrial", trials=6, max_failures=0, space_needs=_needs)
    rows = archive.rows(archive.read_trials(RunStorage.open(tmp_path / "run")))
    assert [row["state"] for row in rows] == ["complete"] * 6, [row["error"] for row in rows]
    found = {row["trial_id"]: json.loads(row["device"]) for row in rows}
    for trial_id, seen in found.items():
        wanted = {"cpus": 2.0, "gpus": 0.5} if int(trial_id, 16) % 2 else {"cpus": 1.0, "gpus": 0.25}
        assert seen == {"CPU": wanted["cpus"], "GPU": wanted["gpus"], "threads": int(wanted["cpus"])}
    assert len({seen["GPU"] for seen in found.values()}) == 2, "both kinds were drawn"


@pytest.mark.slow
def test_needs_that_no_node_can_meet_end_the_search_with_the_reason(tmp_path: Path, one_gpu: None) -> None:
    outcome = _search(tmp_path, "NeedyTrial", trials=2, space_needs=lambda config: {"gpus": 3})
    assert "a trial has to fit on one node" in str(outcome.error)
    assert outcome.ledger.n_finished == 0
    outcome = _search(tmp_path / "other", "NeedyTrial", trials=2, space_needs=lambda config: {"tpus": 1})
    assert "told as cpus and gpus, but tabulated told tpus" in str(outcome.error)


def _needs(config: TrialConfig) -> dict[str, float]:
    """One trial in two needs twice as much."""
    factor = 2 if int(config.config_hash, 16) % 2 else 1
    return {"cpus": factor, "gpus": 0.25 * factor}


def _attempts(run: Path) -> dict[str, list[tuple[float, int]]]:
    """Return the share of the GPU and the number of neighbours of each epoch that each trial began, in order."""
    found: dict[str, list[tuple[int, float, int]]] = {}
    for path in (run / "subnetworks" / "notes").glob("*"):
        trial_id, moment, share = path.name.split(".", 2)
        found.setdefault(trial_id, []).append((int(moment), float(share), int(path.read_text())))
    return {trial_id: [(share, n) for _, share, n in sorted(noted)] for trial_id, noted in found.items()}
