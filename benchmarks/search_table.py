"""A table of real trials on digits, on which whole searches can be replayed: every configuration, all epochs.

    python benchmarks/search_table.py record --minutes 60      # goes on where it was; 400 trials, about 3 s each
    python benchmarks/search_table.py pack                     # benchmarks/tables/digits.parquet

The space is a grid, so that whatever a sampler draws is in the table: kept share x learning rate x freeze point x
polariser. The recorded trial is `hpsearch.trial.TrialRun` on one thread; nothing is made up or interpolated.
"""

import argparse
import itertools
import json
import random
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from greenprune_core.config import (
    BudgetConfig,
    DataConfig,
    GateConfig,
    LossConfig,
    NetworkConfig,
    OptimiserConfig,
    PhaseConfig,
    TrialConfig,
)
from search_spaces import SearchSpace

HERE = Path(__file__).parent
RECORDED = HERE / "results" / "search_table.jsonl"
TABLE = HERE / "tables" / "digits.parquet"
EPOCHS = 12

GRID: Mapping[str, tuple[float, ...]] = {
    "target": (0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.57, 0.65, 0.8, 1.0),
    "learning_rate": (0.02, 0.05, 0.1, 0.2, 0.4),
    "freeze_at": (0.2, 0.35, 0.5, 0.7),
    "polar_weight": (0.0, 0.3),
}

BASE = TrialConfig(
    network=NetworkConfig(name="cifar_resnet8", width=8),
    data=DataConfig(name="digits", validation_share=0.25, shift=1, n_train=720),
    # the table was recorded before gates rested
    gates=GateConfig(look_every=1),
    optimiser=OptimiserConfig(batch_size=64, shape="hold_then_cosine"),
    epochs=EPOCHS,
)


def configure(point: Mapping[str, float]) -> TrialConfig:
    """Return the configuration of a point of the grid."""
    freeze_at = point["freeze_at"]
    return replace(
        BASE,
        budget=BudgetConfig(target=point["target"], unit="joules"),
        losses=LossConfig(polar_weight=point["polar_weight"]),
        phases=PhaseConfig(freeze_at=freeze_at, freeze_latest=freeze_at, warm_up=0.05),
        optimiser=replace(BASE.optimiser, learning_rate=point["learning_rate"]),
    )


def suggest(trial: Any) -> TrialConfig:
    """Draw a place on each axis of the grid, as a number, so that samplers know neighbours."""
    return configure({name: axis[trial.suggest_int(name, 0, len(axis) - 1)] for name, axis in GRID.items()})


SPACE = SearchSpace(name="grid", suggest=suggest, scientific=tuple(GRID))


def points() -> list[dict[str, float]]:
    """Return all points of the grid, in a fixed random order, so that any beginning of the record is a fair sample."""
    found = [dict(zip(GRID, values, strict=True)) for values in itertools.product(*GRID.values())]
    random.Random(0).shuffle(found)
    return found


def record(minutes: float) -> None:
    """Run the trials that are not recorded yet, for so long."""
    import torch

    torch.set_num_threads(1)
    RECORDED.parent.mkdir(exist_ok=True)
    lines = RECORDED.read_text().splitlines() if RECORDED.exists() else []
    known = {json.loads(line)["config_hash"] for line in lines}
    ends = time.monotonic() + 60 * minutes
    with RECORDED.open("a") as stream:
        for point in points():
            config = configure(point)
            if config.config_hash not in known and time.monotonic() < ends:
                stream.write(json.dumps({"config_hash": config.config_hash, **point, **_run(config)}) + "\n")
                stream.flush()


def _run(config: TrialConfig) -> dict[str, Any]:
    from greenprune_core.errors import GreenpruneError
    from hpsearch.trial import TrialRun

    curve: list[dict[str, Any]] = []
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        try:
            trial = TrialRun(config, Path(folder))
            for epoch in range(1, config.epochs + 1):
                report = trial.advance(epoch)
                curve.append(
                    {
                        "phase": report.phase,
                        "val_accuracy": report.val_accuracy,
                        "energy_j": report.expected_energy_j,
                        "seconds": time.monotonic() - began,
                    }
                )
        except GreenpruneError as error:
            return {"curve": curve, "error": str(error)}
    return {"curve": curve, "error": None}


def pack() -> None:
    """Write the record as one Parquet file."""
    grid = {configure(point).config_hash for point in points()}
    lines = (json.loads(line) for line in RECORDED.read_text().splitlines())
    rows = [row for row in lines if row["config_hash"] in grid]
    TABLE.parent.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), TABLE, compression="zstd")
    print(f"{len(rows)} configurations, {TABLE.stat().st_size / 1e3:.0f} kB: {TABLE}")


def read() -> dict[str, dict[str, Any]]:
    """Return the table: configuration hash -> point, curve and error."""
    return {row["config_hash"]: row for row in pq.read_table(TABLE).to_pylist()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["record", "pack"])
    parser.add_argument("--minutes", type=float, default=60.0)
    options = parser.parse_args()
    record(options.minutes) if options.action == "record" else pack()
