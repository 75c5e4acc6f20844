"""How good the searches are: hypervolume against training epochs spent, replayed on a table of real trials.

    python benchmarks/search_quality.py [--seeds 20] [--epochs 1200]

Arms: ours with and without halving, stock OptunaSearch's sampler (default TPE), NSGA-II, random. Every arm draws from
the same grid (`search_table.py`), runs 4 trials at a time on a simulated clock where an epoch takes its recorded
seconds, and pays for every epoch it trains, a stopped trial's too; only finished trials enter its front. Result:
benchmarks/results/search_quality-<date>.json.
"""

import argparse
import heapq
import json
import random
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import search_table
from optuna.trial import TrialState

from hpsearch.journal import DriverJournal
from hpsearch.objectives import choose
from hpsearch.pareto import FrontTracker, hypervolume
from hpsearch.provenance import describe
from hpsearch.rungs import Halving, Rungs, usual_grace
from hpsearch.storage import RunStorage
from hpsearch.study import SearchStudy

RESULTS = Path(__file__).parent / "results" / f"search_quality-{datetime.now(UTC):%Y-%m-%d}.json"
N_SLOTS = 4
SHARE = 0.95
"""Share of the table's best hypervolume that an arm has to reach."""

Table = dict[str, dict[str, Any]]


class Arm:
    """A searcher on the table: it draws, hears how trials end, and may stop them at rungs."""

    rungs: tuple[int, ...] = ()

    def ask(self) -> tuple[str, Any] | None:
        """Return a configuration's hash and a handle, or None when there is nothing new."""
        raise NotImplementedError

    def tell(self, key: str, handle: Any, values: list[float] | None, state: TrialState) -> None:
        """Hear how a trial ended."""
        raise NotImplementedError

    def goes_on(self, key: str, epoch: int, accuracy: float, energy_j: float) -> bool:
        """Decide at a rung."""
        return True


class Ours(Arm):
    """Our study, with or without halving."""

    def __init__(self, seed: int, folder: Path, *, halving: bool, sampler: str = "tpe") -> None:
        self._study = SearchStudy(
            _NoDisk(RunStorage.open(folder)),
            name="run",
            space=search_table.SPACE,
            objectives=choose(),
            sampler=sampler,
            seed=0,
            sampler_seed=seed,
        )
        plan = Halving(grace=usual_grace(search_table.EPOCHS), epochs=search_table.EPOCHS)
        self._rungs = Rungs(plan) if halving else None
        self.rungs = plan.rungs if halving else ()

    def ask(self) -> tuple[str, Any] | None:
        suggestion = self._study.ask()
        return None if suggestion is None else (suggestion.trial_id, suggestion)

    def tell(self, key: str, handle: Any, values: list[float] | None, state: TrialState) -> None:
        if values is not None:
            self._study.tell_complete(key, values, attributes={}, constraints={})
        elif state == TrialState.PRUNED:
            self._study.tell_stopped(key, attributes={})
        else:
            self._study.tell_failed(key, "recorded failure")

    def goes_on(self, key: str, epoch: int, accuracy: float, energy_j: float) -> bool:
        assert self._rungs is not None
        return self._rungs.goes_on(key, epoch, accuracy, energy_j)


class Stock(Arm):
    """A sampler of Optuna as OptunaSearch uses it: every configuration runs to its end, twins too."""

    def __init__(self, sampler: optuna.samplers.BaseSampler) -> None:
        self._study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)

    def ask(self) -> tuple[str, Any] | None:
        trial = self._study.ask()
        return search_table.suggest(trial).config_hash, trial

    def tell(self, key: str, handle: Any, values: list[float] | None, state: TrialState) -> None:
        self._study.tell(handle, values, state=TrialState.COMPLETE if values is not None else TrialState.FAIL)


class _NoDisk(DriverJournal):
    """The journal without its writes: the replay is about what is drawn."""

    def flush(self) -> None:
        self._pending.clear()


def replay(arm: Arm, table: Table, n_epochs: int, corner: tuple[float, float]) -> list[tuple[int, float]]:
    """Return (epochs spent, hypervolume) after every finished trial, until so many epochs are spent."""
    tracker, spent, clock = FrontTracker(corner), 0, 0.0
    curve: list[tuple[int, float]] = []
    running: list[tuple[float, int, int, str, Any]] = []
    n_asked, is_over = 0, False
    while spent < n_epochs:
        while len(running) < N_SLOTS and not is_over:
            drawn = arm.ask()
            if drawn is None:
                is_over = True
            else:
                n_asked += 1
                heapq.heappush(running, (clock + 0.1, n_asked, 0, *drawn))
        if not running:
            break
        clock, order, epoch, key, handle = heapq.heappop(running)
        trial = table[key]["curve"]
        if epoch < len(trial):
            spent, epoch = spent + 1, epoch + 1
        point = trial[epoch - 1] if trial else None
        if point is None or (epoch == len(trial) and table[key]["error"]):
            arm.tell(key, handle, None, TrialState.FAIL)
        elif epoch == search_table.EPOCHS:
            arm.tell(key, handle, [point["val_accuracy"], point["energy_j"]], TrialState.COMPLETE)
            curve.append((spent, tracker.add((1 - point["val_accuracy"], point["energy_j"]))))
        elif (
            epoch in arm.rungs
            and point["phase"] != "warm_up"
            and not arm.goes_on(key, epoch, point["val_accuracy"], point["energy_j"])
        ):
            arm.tell(key, handle, None, TrialState.PRUNED)
        else:
            seconds = trial[epoch]["seconds"] - point["seconds"] if epoch < len(trial) else 0.0
            heapq.heappush(running, (clock + seconds, order, epoch, key, handle))
    return curve


def arms(folder: Path) -> dict[str, Callable[[int], Arm]]:
    """Return the arms by name, each made from a seed."""
    return {
        "ours": lambda seed: Ours(seed, folder, halving=True),
        "ours without halving": lambda seed: Ours(seed, folder, halving=False),
        "stock OptunaSearch (TPE)": lambda seed: Stock(optuna.samplers.TPESampler(seed=seed)),
        "NSGA-II": lambda seed: Stock(optuna.samplers.NSGAIISampler(seed=seed)),
        "random": lambda seed: Stock(optuna.samplers.RandomSampler(seed=seed)),
    }


def at(curve: list[tuple[int, float]], epochs: int) -> float:
    """Return the hypervolume after so many epochs."""
    return max((volume for spent, volume in curve if spent <= epochs), default=0.0)


def first_at(curve: list[tuple[int, float]], volume: float) -> float:
    """Return the epochs spent until a hypervolume is reached; infinite if it never is."""
    return min((spent for spent, reached in curve if reached >= volume), default=float("inf"))


def interval(values: list[float]) -> list[float]:
    """Return the 95 % bootstrap interval of the mean."""
    draws = random.Random(0)
    means = sorted(float(np.mean(draws.choices(values, k=len(values)))) for _ in range(1000))
    return [means[25], means[974]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=1200)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    table = search_table.read()
    ends = [row["curve"][-1] for row in table.values() if not row["error"]]
    points = [(1 - end["val_accuracy"], end["energy_j"]) for end in ends]
    corner = (1.0, 1.05 * max(energy for _, energy in points))
    best = hypervolume(points, corner)
    stages = list(range(60, options.epochs + 1, 60))
    found: dict[str, Any] = {
        "machine": describe(), "configurations": len(table), "failed": len(table) - len(ends),
        "epochs of a trial": search_table.EPOCHS, "seeds": options.seeds, "slots": N_SLOTS, "after epochs": stages,
    }  # fmt: skip
    for name, make in arms(Path(tempfile.gettempdir())).items():
        curves = [replay(make(seed), table, options.epochs, corner) for seed in range(options.seeds)]
        reached = [first_at(curve, SHARE * best) for curve in curves]
        volumes = {stage: [at(curve, stage) / best for curve in curves] for stage in stages}
        found[name] = {
            f"epochs to {SHARE:.0%} of the best hypervolume, median": float(np.median(reached)),
            "quartiles": [float(np.quantile(reached, q, method="nearest")) for q in (0.25, 0.75)],
            "share of the best hypervolume, mean": [round(float(np.mean(volumes[stage])), 4) for stage in stages],
            "95 %": [[round(end, 4) for end in interval(volumes[stage])] for stage in stages],
            "trials finished, mean": float(np.mean([len(curve) for curve in curves])),
        }
        print(name, {k: v for k, v in found[name].items() if "mean" not in k and k != "95 %"}, flush=True)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
