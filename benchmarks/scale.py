"""Large clusters on a simulated clock: the real study, ledger and halving, trials that only take simulated time.

    python benchmarks/scale.py [--trials 10000] [--slots 64 256 1024] [--seconds 60]

What is simulated is the cluster: W slots, each trial taking its time. What is real is the driver: every suggestion and
every booking runs for real, and its processor time passes on the simulated clock while the driver is busy with it, one
thing at a time, like Tune's loop. Two costs are added as constants: Tune's own, and the waits for the disk; processor
time and not wall time, so that the figure does not depend on what else this machine does. A slot waits from the end of
its trial until the driver has booked it and drawn the next. Result: benchmarks/results/scale-<date>.json.
"""

import argparse
import heapq
import json
import math
import os
import random
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import tabulated

from hpsearch.journal import DriverJournal
from hpsearch.ledger import Ledger
from hpsearch.objectives import choose
from hpsearch.provenance import describe
from hpsearch.storage import RunStorage
from hpsearch.study import SearchStudy

RESULTS = Path(__file__).parent / "results" / f"scale-{datetime.now(UTC):%Y-%m-%d}.json"
TUNE_S = 0.012
"""Tune's own processor time per trial in the driver: its loop over start, result and stop, as profiled with no-op
trials; part of what overhead.py measures."""
DISK_S = 0.008
"""Waits for the disk per trial: three synchronised writes (suggestion, row, result) of 2.6 ms each, as profiled."""


def simulate(n_slots: int, n_trials: int, seconds: float, sampler: str, spread: float = 0.2) -> dict[str, Any]:
    """Return busy share and wall time of a search with so many slots; durations vary by +-`spread`."""
    durations = random.Random(0)
    with tempfile.TemporaryDirectory(prefix="scale-", dir=os.environ.get("SCALE_DIR")) as folder:
        storage = RunStorage.open(folder)
        study = SearchStudy(
            DriverJournal(storage), name="run", space=tabulated.SPACE, objectives=choose(), sampler=sampler, seed=0
        )
        ledger = Ledger(storage, study, choose())
        clock, n_asked, spent, drawing, booking = 0.0, 0, 0.0, 0.0, 0.0
        ends: list[tuple[float, int, Any]] = []
        busy_before_last_wave = 0.0
        while ledger.n_finished < n_trials:
            while n_asked < n_trials and len(ends) < n_slots:
                began = time.process_time()
                suggestion = ledger.suggest()
                took = time.process_time() - began
                clock, drawing = clock + took + TUNE_S + DISK_S, drawing + took
                duration = seconds * durations.uniform(1 - spread, 1 + spread)
                heapq.heappush(ends, (clock + duration, n_asked, suggestion))
                n_asked, spent = n_asked + 1, spent + duration
                if n_asked == n_trials:
                    left = sum(end - clock for end, *_ in ends)
                    busy_before_last_wave = (spent - left) / (n_slots * clock)
            end, _, suggestion = heapq.heappop(ends)
            clock = max(clock, end)
            row = tabulated.InstantTrial(suggestion.config, Path(folder)).finish()
            began = time.process_time()
            ledger.finish(suggestion.trial_id, row)
            took = time.process_time() - began
            clock, booking = clock + took, booking + took
    return {
        "slots": n_slots,
        "trials": n_trials,
        "seconds per trial": seconds,
        "sampler": sampler,
        "busy share before the last wave": round(busy_before_last_wave, 4),
        "wall over ideal": round(clock / (math.ceil(n_trials / n_slots) * seconds), 4),
        "driver ms per suggestion": round(1e3 * drawing / n_trials, 2),
        "driver ms per booking": round(1e3 * booking / n_trials, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--slots", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--sampler", default="tpe")
    options = parser.parse_args()
    os.environ["EPOCHS"] = "1"
    found: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    found["machine"] = describe()
    for n_slots in options.slots:
        result = simulate(n_slots, options.trials, options.seconds, options.sampler)
        found[f"{options.sampler}, {n_slots} slots, {options.seconds:g} s"] = result
        print(json.dumps(result), flush=True)
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
