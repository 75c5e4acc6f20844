"""Large clusters on a simulated clock: the real study, ledger and halving, trials that only take simulated time.

    python benchmarks/scale.py [--trials 10000] [--slots 64 256 1024] [--seconds 60] [--halving]

What is simulated is the cluster: W slots, each trial taking its time. Times are those of real trials (the table of
`search_table.py`), scaled to a mean of `--seconds`; results follow the rule of `tabulated.py`, because no table has
10,000 different configurations. What is real is the driver: every suggestion, every decision at a rung and every
booking runs for real, and its processor time passes on the simulated clock while the driver is busy with it, one thing
at a time, like Tune's loop. Two costs are added as constants: Tune's own, and the waits for the disk; processor time
and not wall time, so that the figure does not depend on what else this machine does. A slot waits from the end of its
trial until the driver has booked it and drawn the next. Result: benchmarks/results/scale-<date>.json.
"""

import argparse
import heapq
import json
import math
import os
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import search_table
import tabulated
from results_file import write_result

from hpsearch.objectives import choose
from hpsearch.storage import RunStorage
from hpsearch.study.journal import DriverJournal
from hpsearch.study.ledger import Ledger
from hpsearch.study.rungs import Halving, Rungs, usual_grace
from hpsearch.study.search_study import SearchStudy, Suggestion

EPOCHS = 12
TUNE_S = 0.012
"""Tune's own processor time per trial in the driver: its loop over start, result and stop, as profiled with no-op
trials; part of what overhead.py measures."""
WRITE_S = 0.0026
"""Wait for the disk of one synchronised write, as profiled. A trial has two (suggestion, row) and one for each rung;
its end is told in the journal without waiting."""
DISK_S = 2 * WRITE_S


class Driver:
    """The real driver, with a stopwatch on what it does."""

    def __init__(self, folder: str, sampler: str, *, halving: bool) -> None:
        self._folder = Path(folder)
        study = SearchStudy(
            DriverJournal(RunStorage.open(folder)),
            name="run",
            space=tabulated.SPACE,
            objectives=choose(),
            sampler=sampler,
            seed=0,
        )
        self.ledger = Ledger(RunStorage.open(folder), study, choose())
        self.rungs = Rungs(Halving(grace=usual_grace(EPOCHS), epochs=EPOCHS)) if halving else None
        self.seconds = {"drawing": 0.0, "deciding": 0.0, "booking": 0.0}

    def suggest(self) -> tuple[Suggestion, float]:
        """Draw; return the suggestion and the processor seconds."""
        began = time.process_time()
        suggestion = self.ledger.suggest()
        assert suggestion is not None
        return suggestion, self._took("drawing", began)

    def goes_on(self, suggestion: Suggestion) -> tuple[bool, float]:
        """Decide at the rung; book the trial if it stops."""
        assert self.rungs is not None
        (rung,) = self.rungs.halving.rungs
        report = tabulated.InstantTrial(suggestion.config, self._folder).advance(rung)
        began = time.process_time()
        measured = (rung, report.val_accuracy, report.expected_energy_j)
        goes_on = self.rungs.goes_on(suggestion.trial_id, *measured)
        self.ledger.study.note_rung(suggestion.trial_id, *measured)
        if not goes_on:
            self.ledger.stop(suggestion.trial_id, "behind", {"epochs": rung})
        return goes_on, self._took("deciding", began)

    def book(self, suggestion: Suggestion) -> float:
        """Book a trial at its end."""
        trial = tabulated.InstantTrial(suggestion.config, self._folder)
        trial.advance(EPOCHS)
        row = trial.finish()
        began = time.process_time()
        self.ledger.finish(suggestion.trial_id, row)
        return self._took("booking", began)

    def _took(self, what: str, began: float) -> float:
        took = time.process_time() - began
        self.seconds[what] += took
        return took


def recorded_durations() -> list[float]:
    """Return how long real trials took, over their mean."""
    seconds = [row["curve"][-1]["seconds"] for row in search_table.read().values() if row["curve"]]
    return [each * len(seconds) / sum(seconds) for each in seconds]


def simulate(n_slots: int, n_trials: int, seconds: float, sampler: str, *, halving: bool = False) -> dict[str, Any]:
    """Return busy share and wall time of a search with so many slots."""
    draws, recorded = random.Random(0), recorded_durations()
    clock, n_asked, spent = 0.0, 0, 0.0
    share, busy_before_last_wave = usual_grace(EPOCHS) / EPOCHS, 0.0
    # (moment, order, suggestion, seconds that are left after it)
    events: list[tuple[float, int, Suggestion, float]] = []
    with tempfile.TemporaryDirectory(prefix="scale-", dir=os.environ.get("SCALE_DIR")) as folder:
        driver = Driver(folder, sampler, halving=halving)
        while driver.ledger.n_finished < n_trials:
            while n_asked < n_trials and len(events) < n_slots:
                suggestion, took = driver.suggest()
                clock += took + TUNE_S + DISK_S
                whole = seconds * draws.choice(recorded)
                first = whole * share if halving else whole
                heapq.heappush(events, (clock + first, n_asked, suggestion, whole - first))
                n_asked, spent = n_asked + 1, spent + first
                if n_asked == n_trials:
                    busy_before_last_wave = (spent - sum(end - clock for end, *_ in events)) / (n_slots * clock)
            end, order, suggestion, left = heapq.heappop(events)
            clock = max(clock, end)
            if left > 0:
                goes_on, took = driver.goes_on(suggestion)
                clock += took + WRITE_S
                if goes_on:
                    heapq.heappush(events, (clock + left, order, suggestion, 0.0))
                    spent += left
            else:
                clock += driver.book(suggestion)
    waits = DISK_S + (WRITE_S if halving else 0.0)
    per_trial = sum(driver.seconds.values()) / n_trials + TUNE_S + waits
    return {
        "slots": n_slots,
        "trials": n_trials,
        "seconds per trial, mean": seconds,
        "sampler": sampler,
        "halving": halving,
        "stopped": driver.ledger.counts["stopped"],
        "busy share before the last wave": round(busy_before_last_wave, 4),
        "wall over ideal": round(clock / (math.ceil(n_trials / n_slots) * seconds), 4),
        "driver ms per trial": {what: round(1e3 * took / n_trials, 2) for what, took in driver.seconds.items()},
        "driver ms per trial, with Tune and disk": round(1e3 * per_trial, 2),
        "slots at which the driver is the limit": int(spent / n_trials / per_trial),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--slots", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--sampler", default="tpe")
    parser.add_argument("--halving", action="store_true")
    options = parser.parse_args()
    os.environ["EPOCHS"] = str(EPOCHS)
    load_before, results = round(os.getloadavg()[0], 2), []
    for n_slots in options.slots:
        results.append(simulate(n_slots, options.trials, options.seconds, options.sampler, halving=options.halving))
        print(json.dumps(results[-1]), flush=True)
    name = f"scale_{options.sampler}" + ("_halving" if options.halving else "")
    print(write_result(name, {"tune_s": TUNE_S, "write_s": WRITE_S, "load_1min before": load_before}, results))


if __name__ == "__main__":
    main()
