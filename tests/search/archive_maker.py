"""Made-up runs for tests of the reading side: rows of the archive's schema, no training behind them."""

import datetime
import json
import math
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from greenprune_core.config import LossConfig, TrialConfig
from hpsearch.archive import SCHEMA_VERSION, to_table, write_trial
from hpsearch.storage import RunStorage

DENSE_MACS = 40_000_000
DENSE_ENERGY_J = 2e-3
START = datetime.datetime(2026, 11, 1, 12, tzinfo=datetime.UTC)


def make_row(number: int, *, accuracy: float | None = 0.9, energy_j: float = 1e-3, **other: Any) -> dict[str, Any]:
    """One complete row; any column can be given."""
    kept = energy_j / DENSE_ENERGY_J
    # another draw and another seed: a trial of its own, no repeat of the one before
    config = TrialConfig(epochs=10, seed=number, losses=LossConfig(polar_weight=0.3 + number / 1000))
    row: dict[str, Any] = {
        "trial_id": f"t{number:05d}",
        "state": "complete",
        "config_hash": f"t{number:05d}",
        "seed": number,
        "params": {"target": round(kept, 3), "polar_weight": 0.3},
        "config": config.to_dict(),
        "val_accuracy": accuracy,
        "test_accuracy": None if accuracy is None else accuracy - 0.004,
        "dense_macs": DENSE_MACS,
        "macs": round(DENSE_MACS * kept),
        "dense_params": 270_000,
        "params_kept": round(270_000 * kept),
        "energy_j": energy_j,
        "dense_energy_j": DENSE_ENERGY_J,
        "energy_source": "model:horowitz-45nm",
        "train_energy_j": 50.0 + number % 7,
        "train_energy_source": "model:horowitz-45nm",
        "train_seconds": 8.0,
        "train_macs": 10**12,
        "epochs": 10,
        "n_validation": 1000,
        "n_test": 2000,
        "node": "worker-1",
        "device": "cpu",
        "started_at": START + datetime.timedelta(seconds=5 * number),
        "finished_at": START + datetime.timedelta(seconds=5 * number + 8),
        "version": "0.1.0+abc1234",
    }
    return row | other


def make_rows(n: int, seed: int = 0) -> list[dict[str, Any]]:
    """A plausible search: accuracy rises with energy and depends on the draws; some trials stopped, some failed."""
    draw = random.Random(seed)
    return [_searched_row(number, draw) for number in range(n)]


def make_run(folder: Path, rows: Iterable[dict[str, Any]], in_one_part: bool = False, **settings: Any) -> RunStorage:
    """Write settings and rows as a run folder; thousands of rows in one part, which reads the same and writes fast."""
    storage = RunStorage.open(folder)
    values = {"name": folder.name, "space": "digits", "seed": 0, "sampler": "tpe", "objective": "energy"}
    values |= {"trials": 32, "third_objective": None, "storage_path": str(folder.parent)}
    session = {
        "started_at": START.isoformat(),
        "version": "0.1.0+abc1234",
        "host": "head",
        "packages": {"torch": "2.15"},
    }
    facts = {"schema_version": SCHEMA_VERSION, "settings": values | settings, "sessions": [session]}
    storage.write_bytes("settings.json", json.dumps(facts).encode())
    if in_one_part:
        sink = pa.BufferOutputStream()
        pq.write_table(to_table(list(rows)), sink)
        storage.write_bytes("trials/all.parquet", sink.getvalue().to_pybytes())
        return storage
    for row in rows:
        write_trial(storage, row)
    return storage


def _searched_row(number: int, draw: random.Random) -> dict[str, Any]:
    target, rate = draw.uniform(0.1, 0.95), 10 ** draw.uniform(-2.5, -0.3)
    polar, noise = draw.uniform(0.1, 1.0), draw.uniform(0.0, 0.6)
    granularity = draw.choice(["channel", "layer", "both"])
    loss = 0.03 + 0.12 * (1 - target) ** 2 + 0.02 * (math.log10(rate) + 1.2) ** 2 + draw.gauss(0, 0.004)
    loss += 0.03 if granularity == "layer" else 0.0
    params = {"target": target, "learning_rate": rate, "polar_weight": polar, "noise": noise}
    params |= {"granularity": granularity}
    chance = draw.random()
    state = "failed" if chance < 0.03 else "stopped" if chance < 0.15 else "complete"
    energy = DENSE_ENERGY_J * target * draw.uniform(0.9, 1.0)
    row = make_row(number, accuracy=1 - loss, energy_j=energy, params=params, state=state)
    if state == "failed":
        row |= {"val_accuracy": None, "test_accuracy": None, "energy_j": None, "macs": None, "params_kept": None}
        row["error"] = draw.choice(["TrainingError: loss is NaN at step 40", "TrialTimeout: over 600 s"])
        return row
    if state == "stopped":
        row |= {"error": "stopped at rung 3", "epochs": 3}
    return row | _pictures(target, 1 - loss, draw)


def _pictures(target: float, accuracy: float, draw: random.Random) -> dict[str, Any]:
    layers = {f"layer{stage}.{block}.conv1": 16 * 2 ** (stage - 1) for stage in (1, 2, 3) for block in range(3)}
    kept = {}
    for name, width in layers.items():
        kept[name] = [max(1, round(width * min(1.0, target * draw.uniform(0.7, 1.3)))), width]
    history = []
    for epoch in range(1, 11):
        phase = "warm_up" if epoch < 2 else "select" if epoch < 5 else "finish"
        history.append(
            {
                "epoch": epoch,
                "phase": phase,
                "val_accuracy": accuracy * (1 - 0.6 * math.exp(-epoch / 2)),
                "expected_macs": DENSE_MACS * (1 if epoch < 2 else target),
            }
        )
    n_open = round(300 * target)
    return {
        "gate_histogram": [300 - n_open, *[0] * 17, draw.randrange(4), n_open],
        "disagreement": draw.uniform(0, 0.02),
        "flips": draw.randrange(5),
        "kept_channels": kept,
        "history": history,
        "phase_cost": {
            "warm_up": {"macs": 1e11, "seconds": 1.0},
            "select": {"macs": 4e11, "seconds": 4.0},
            "finish": {"macs": 5e11 * target, "seconds": 3.0},
        },
    }
