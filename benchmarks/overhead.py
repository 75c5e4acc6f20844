"""What a search costs beside its trials: ours and stock Ray Tune with OptunaSearch, side by side in one run.

    python benchmarks/overhead.py [--trials 300] [--slots 2] [--parts driver,sampler,busy,memory]

driver: trials do nothing (`tabulated.InstantTrial`), so that wall seconds per trial are all overhead; Ray's start and
the start of the workers are left out by timing from the tenth end of a trial to the last. The arms take turns, a
third of their trials each time, so that whatever else the machine does falls on all of them. Stock as it comes,
without `reuse_actors`, takes seconds a trial: it gets a dozen trials each time, timed from the fourth end. busy:
trials of 5 s that only sleep; the share of the slots' time in which they ran one, from the first start to the start
of the last wave. memory: 100 real trials of five epochs on digits, one after the other in one worker process, and
what it has grown. Result: benchmarks/results/overhead-<date>.json.
"""

import argparse
import contextlib
import json
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import tabulated
from optuna.trial import create_trial
from results_file import write_result

from hpsearch import archive
from hpsearch.cluster.session import QUIET
from hpsearch.commands.search import SMOKE
from hpsearch.settings import resolve
from hpsearch.storage import RunStorage
from hpsearch.study.mirror import make_sampler
from hpsearch.trial import TrialRun
from hpsearch.tuner import search
from search_spaces import load_space, pin

ALL_PARTS = "driver,sampler,busy,memory"
ROUNDS = 3
N_MEMORY = 100


def ours(folder: Path, n_trials: int, runner: str = "InstantTrial") -> list[float]:
    """Return the moments at which trials were booked by our engine, journal, rows and all."""
    from hpsearch.study.ledger import Ledger

    ends: list[float] = []
    finish = Ledger.finish

    def timed(self: Ledger, trial_id: str, row: Any) -> str:
        state = finish(self, trial_id, row)
        ends.append(time.perf_counter())
        return state

    given = {"storage_path": str(folder), "name": "ours", "space": "tabulated:SPACE", "trials": n_trials}
    Ledger.finish = timed  # type: ignore[method-assign]
    try:
        outcome = search(resolve(given, {})[0], tabulated.SPACE, say=print, runner=f"tabulated:{runner}")
    finally:
        Ledger.finish = finish  # type: ignore[method-assign]
    assert outcome.error is None, outcome.error
    return ends


def stock(folder: Path, n_trials: int, slots: int, *, reuse: bool, quiet: bool) -> list[float]:
    """Return the moments at which trials ended in stock `tune.Tuner` with `OptunaSearch`.

    With `quiet` it has the same environment as ours (no CSV, JSON and TensorBoard files, no experiment snapshots);
    without, it is as it comes.
    """
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    for name, value in QUIET.items():
        if quiet:
            os.environ[name] = value
        elif name.startswith("TUNE_"):
            os.environ.pop(name, None)

    class Ends(tune.Callback):
        def __init__(self) -> None:
            self.moments: list[float] = []

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            self.moments.append(time.perf_counter())

    ends = Ends()
    tuner = tune.Tuner(
        tune.with_resources(_stock_trainable(), {"cpu": 1}),
        tune_config=tune.TuneConfig(
            search_alg=OptunaSearch(_draw, metric=["accuracy", "energy_j"], mode=["max", "min"], seed=0),
            num_samples=n_trials,
            max_concurrent_trials=slots,
            reuse_actors=reuse,
        ),
        run_config=tune.RunConfig(name="stock", storage_path=str(folder), verbose=0, callbacks=[ends]),
    )
    tuner.fit()
    return ends.moments


def _draw(trial: optuna.Trial) -> None:
    tabulated.suggest(trial)


def _stock_trainable() -> type:
    from ray import tune

    class Nothing(tune.Trainable):
        def setup(self, config: dict[str, Any]) -> None: ...

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.config = new_config
            return True

        def step(self) -> dict[str, Any]:
            target = self.config["target"]
            return {"accuracy": 1 - (1 - target) ** 2, "energy_j": target, "done": True}

        def save_checkpoint(self, checkpoint_dir: str) -> None: ...

    return Nothing


def seconds_per_trial(moments: list[float]) -> float:
    """Return the steady pace: from the end of the tenth trial to the last, of the fourth where only a dozen ran."""
    first = min(9, len(moments) // 4)
    return (moments[-1] - moments[first]) / (len(moments) - first - 1)


def sampler_seconds(n_finished: int, sampler: str, n_asks: int) -> dict[str, float]:
    """Return seconds per suggestion and per told trial of our study, with so many finished trials."""
    from hpsearch.objectives import choose
    from hpsearch.storage import RunStorage
    from hpsearch.study.journal import DriverJournal
    from hpsearch.study.search_study import SearchStudy

    with tempfile.TemporaryDirectory() as folder:
        study = SearchStudy(
            DriverJournal(RunStorage.open(folder)),
            name="run",
            space=tabulated.SPACE,
            objectives=choose(),
            sampler=sampler,
        )
        study.fill(_finished(n_finished))
        asked, told = 0.0, 0.0
        for _ in range(n_asks):
            began = time.perf_counter()
            suggestion = study.ask()
            asked += time.perf_counter() - began
            assert suggestion is not None
            began = time.perf_counter()
            study.tell_complete(suggestion.trial_id, _values(suggestion.params), attributes={}, constraints={})
            told += time.perf_counter() - began
    return {"suggest_s": asked / n_asks, "tell_s": told / n_asks}


def stock_sampler_seconds(n_finished: int, n_asks: int) -> float:
    """Return seconds per suggestion of Optuna's default TPE in memory, as OptunaSearch uses it."""
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=optuna.samplers.TPESampler(seed=0))
    study.add_trials(_finished(n_finished))
    began = time.perf_counter()
    for _ in range(n_asks):
        trial = study.ask()
        tabulated.suggest(trial)
        study.tell(trial, _values(trial.params))
    return (time.perf_counter() - began) / n_asks


def _finished(n_trials: int) -> list[optuna.trial.FrozenTrial]:
    study = optuna.create_study(sampler=make_sampler("random", 1))
    found = []
    for _ in range(n_trials):
        trial = study.ask()
        tabulated.suggest(trial)
        found.append(create_trial(values=_values(trial.params), params=trial.params, distributions=trial.distributions))
    return found


def _values(params: dict[str, Any]) -> list[float]:
    lost = abs(params["learning_rate"] - 0.1) + 0.3 * (1 - params["target"]) ** 2
    return [max(0.0, 0.99 - lost), params["target"] * 1e-6]


class WatchedTrial(TrialRun):
    """A real trial that says how large its process is."""

    def finish(self, *given: Any) -> dict[str, Any]:
        row = super().finish(*given)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        details = {"pid": os.getpid(), "resident_bytes": pages * os.sysconf("SC_PAGE_SIZE")}
        return {**row, "details": {**row["details"], **details}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=300)
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--parts", default=ALL_PARTS)
    options = parser.parse_args()
    logging.getLogger("ray").setLevel(logging.ERROR)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    os.environ.update({"EPOCHS": "1", "SLEEP_S": "5", "OMP_NUM_THREADS": "1"})
    load_before, found = round(os.getloadavg()[0], 2), {}
    parts = {
        "sampler": _sampler,
        "driver": lambda: _driver(options.trials, options.slots),
        "busy": lambda: _busy(options.slots),
        "memory": _memory,
    }
    title = "overhead" if options.parts == ALL_PARTS else f"overhead_{options.parts.replace(',', '_')}"
    with _ray(options.slots):
        for name in options.parts.split(","):
            found[name] = parts[name]()
            print(name, json.dumps(found[name], indent=2), flush=True)
            # after each part, so that one that breaks off takes no other with it
            print(write_result(title, {"slots": options.slots, "load_1min before": load_before}, found))


@contextlib.contextmanager
def _ray(slots: int) -> Iterator[None]:
    import ray

    environment = {"PYTHONPATH": str(Path(__file__).parent)}
    os.environ.update({"RAY_USAGE_STATS_ENABLED": "0", "RAY_AIR_NEW_OUTPUT": "0", **environment})
    ray.init(
        address="local", num_cpus=slots, include_dashboard=False, log_to_driver=False, object_store_memory=200_000_000
    )
    yield
    ray.shutdown()


def _driver(n_trials: int, slots: int) -> dict[str, Any]:
    n_each = n_trials // ROUNDS
    arms = {
        # seconds a trial: a tenth of the trials says as much
        "stock, as it comes": lambda folder: stock(folder, max(12, n_each // 10), slots, reuse=False, quiet=False),
        "stock, reuse_actors": lambda folder: stock(folder, n_each, slots, reuse=True, quiet=False),
        "stock, reuse_actors, no log files": lambda folder: stock(folder, n_each, slots, reuse=True, quiet=True),
        "ours": lambda folder: ours(folder, n_each),
    }
    paces: dict[str, list[float]] = {name: [] for name in arms}
    counts = dict.fromkeys(arms, 0)
    for _ in range(ROUNDS):
        for name, arm in arms.items():
            with tempfile.TemporaryDirectory(prefix="overhead-") as folder:
                moments = arm(Path(folder))
            paces[name].append(seconds_per_trial(moments))
            counts[name] += len(moments)
            print(name, round(paces[name][-1], 4), flush=True)
    best = min(statistics.median(values) for name, values in paces.items() if name != "ours")
    return {
        **{
            name: {
                "n": counts[name],
                "seconds per trial, median of rounds": round(statistics.median(values), 4),
                "rounds": [round(value, 4) for value in values],
            }
            for name, values in paces.items()
        },
        "ours over the best stock": round(statistics.median(paces["ours"]) / best, 3),
    }


def _busy(slots: int, n_trials: int = 24) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="overhead-") as folder:
        ours(Path(folder), n_trials, "SleepingTrial")
        rows = archive.rows(archive.read_trials(RunStorage.open(f"{folder}/ours")))
    spans = sorted((row["started_at"].timestamp(), row["finished_at"].timestamp()) for row in rows)
    begins, ends = spans[0][0], spans[-slots][0]
    busy = sum(max(0.0, min(stop, ends) - start) for start, stop in spans)
    return {"n": len(spans), "seconds of a trial": 5, "busy share": round(busy / (slots * (ends - begins)), 4)}


def _memory() -> dict[str, Any]:
    space = pin(load_space("digits"), dict(pair.split("=") for pair in SMOKE))
    with tempfile.TemporaryDirectory(prefix="overhead-") as folder:
        given = {"storage_path": folder, "name": "ours", "space": "digits", "trials": N_MEMORY, "max_concurrent": 1}
        outcome = search(resolve(given, {})[0], space, say=print, runner="overhead:WatchedTrial")
        assert outcome.error is None, outcome.error
        rows = archive.rows(archive.read_trials(RunStorage.open(f"{folder}/ours")))
    details = [row["details"] for row in rows if row["details"]]
    sizes = [round(detail["resident_bytes"] / 1e6) for detail in details]
    return {
        "n": outcome.ledger.n_finished,
        "of them failed": outcome.ledger.counts["failed"],
        "processes": len({detail["pid"] for detail in details}),
        "resident MB after trials 1, 10, 50 and the last": [sizes[0], sizes[9], sizes[len(sizes) // 2], sizes[-1]],
        "grown by MB from the first trial to the last": sizes[-1] - sizes[0],
    }


def _sampler() -> dict[str, Any]:
    result: dict[str, Any] = {}
    for n_finished in (100, 1_000, 10_000):
        result[str(n_finished)] = {
            "ours": {name: round(value, 4) for name, value in sampler_seconds(n_finished, "tpe", 20).items()},
            "stock default TPE, suggest and tell": round(stock_sampler_seconds(n_finished, 5), 4),
        }
        print(n_finished, result[str(n_finished)], flush=True)
    return result


if __name__ == "__main__":
    main()
