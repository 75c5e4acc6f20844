"""Small trials side by side on one real GPU: all end, and together they are faster than one at a time.

Each number side by side prints a line `PACKING | ...`; the rates are reported, they decide nothing.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from short_folder import short_folder

from hpsearch import archive
from hpsearch.settings import resolve
from hpsearch.storage import RunStorage
from hpsearch.tuner import search
from search_spaces import load_space, pin

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use"),
]

N_TRIALS = 8


@pytest.fixture(scope="module")
def session() -> Iterator[None]:
    import ray

    with short_folder() as folder:
        ray.init(num_cpus=N_TRIALS, num_gpus=1, include_dashboard=False, log_to_driver=False, _temp_dir=str(folder))
        yield
        ray.shutdown()


@pytest.mark.parametrize("n_packed", [1, 2, 4, 8])
def test_small_trials_share_a_gpu(tmp_path: Path, session: None, n_packed: int) -> None:
    options = {
        "storage_path": str(tmp_path), "name": "run", "space": "digits", "trials": N_TRIALS, "max_failures": 0.0,
        "gpus_per_trial": 1 / n_packed, "sampler": "random",
    }  # fmt: skip
    settings, _ = resolve(options, {})
    began = time.monotonic()
    outcome = search(settings, pin(load_space("digits"), {"epochs": "12"}), say=print)
    seconds = time.monotonic() - began
    assert outcome.error is None
    rows = archive.rows(archive.read_trials(RunStorage.open(tmp_path / "run")))
    assert [row["state"] for row in rows] == ["complete"] * N_TRIALS, [row["error"] for row in rows]
    assert {row["device"] for row in rows} == {torch.cuda.get_device_name(0)}
    # a meter cannot tell trials apart that run side by side
    assert all(row["energy_source"].startswith("model:") for row in rows)
    assert all(row["train_energy_source"].startswith("model:") for row in rows)
    figures = {"side by side": n_packed, "trials": N_TRIALS, "s": round(seconds, 1), "device": rows[0]["device"]}
    print(f"PACKING | {json.dumps(figures)} | {60 * N_TRIALS / seconds:.1f} trials a minute")
