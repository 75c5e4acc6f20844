"""The searches that benchmarks/search_quality.py compares, on the table of benchmarks/search_table.py."""

import json
import subprocess
from abc import ABC, abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import search_table
from optuna.trial import TrialState

from hpsearch.objectives import choose
from hpsearch.storage import RunStorage
from hpsearch.study.journal import DriverJournal
from hpsearch.study.rungs import Halving, Rungs, usual_grace
from hpsearch.study.search_study import SearchStudy
from search_spaces.fragments import KNOWN_GOOD

FIRST_TARGETS = (0.5, 0.25, 0.2, 1.0)
"""Kept shares at which a space's known-good point is tried first: those of the shipped space digits, whose 0.15 is
below this grid."""


class Arm(ABC):
    """A searcher on the table: it draws, hears how trials end, and may stop them."""

    stops: tuple[int, ...] = ()
    """Epochs at which it may stop a trial."""

    @abstractmethod
    def ask(self) -> tuple[str, Any] | None:
        """Return a configuration's hash and a handle, or None when there is nothing new."""

    @abstractmethod
    def tell(self, key: str, handle: Any, values: list[float] | None, state: TrialState) -> None:
        """Hear how a trial ended."""

    def goes_on(self, key: str, handle: Any, epoch: int, point: dict[str, Any]) -> bool:
        """Decide at one of `stops`."""
        return True


def first_points() -> tuple[dict[str, int], ...]:
    """Return the known-good point of the shipped spaces at some kept shares, each axis at its nearest place.

    It comes from another data set (docs/method-log.md) and was not chosen by a look at this table.
    """
    axes = {
        name: min(range(len(axis)), key=lambda place: abs(axis[place] - float(KNOWN_GOOD[name] or 0)))
        for name, axis in search_table.GRID.items()
        if name != "target"
    }
    return tuple({"target": search_table.GRID["target"].index(target), **axes} for target in FIRST_TARGETS)


class Ours(Arm):
    """Our study, with or without halving, with or without first points."""

    def __init__(self, seed: int, folder: Path, *, halving: bool, points: bool, sampler: str = "tpe") -> None:
        self._study = SearchStudy(
            _NoDisk(RunStorage.open(folder)),
            name="run",
            space=replace(search_table.SPACE, first_points=first_points() if points else ()),
            objectives=choose(),
            sampler=sampler,
            seed=0,
            sampler_seed=seed,
        )
        plan = Halving(grace=usual_grace(search_table.EPOCHS), epochs=search_table.EPOCHS)
        self._rungs = Rungs(plan) if halving else None
        self.stops = plan.rungs if halving else ()

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

    def goes_on(self, key: str, handle: Any, epoch: int, point: dict[str, Any]) -> bool:
        assert self._rungs is not None
        return point["phase"] == "warm_up" or self._rungs.goes_on(key, epoch, point["val_accuracy"], point["energy_j"])


class Stock(Arm):
    """A sampler of Optuna as OptunaSearch uses it: every configuration runs to its end, twins too."""

    def __init__(self, sampler: optuna.samplers.BaseSampler) -> None:
        self._study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)

    def ask(self) -> tuple[str, Any] | None:
        trial = self._study.ask()
        return search_table.suggest(trial).config_hash, trial

    def tell(self, key: str, handle: Any, values: list[float] | None, state: TrialState) -> None:
        self._study.tell(handle, values, state=TrialState.COMPLETE if values is not None else TrialState.FAIL)


class MoAsha(Arm):
    """Syne Tune's MO-ASHA in a process of its own, see benchmarks/search_moasha.py."""

    stops = tuple(range(1, search_table.EPOCHS + 1))

    def __init__(self, seed: int, python: str, *, ranks: bool = False, grace: int = 1, factor: int = 3) -> None:
        script = str(Path(__file__).with_name("search_moasha.py"))
        self._child = subprocess.Popen([python, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        space = {name: len(axis) for name, axis in search_table.GRID.items()}
        begin = {
            "space": space,
            "seed": seed,
            "epochs": search_table.EPOCHS,
            "ranks": ranks,
            "grace": grace,
            "factor": factor,
        }
        self._write(begin)
        self._n_asked = 0

    def ask(self) -> tuple[str, Any] | None:
        self._n_asked += 1
        places = self._answer({"ask": self._n_asked})
        point = {name: axis[places[name]] for name, axis in search_table.GRID.items()}
        return search_table.configure(point).config_hash, self._n_asked

    def tell(self, key: str, handle: Any, values: list[float] | None, state: TrialState) -> None:
        """Nothing: it has heard the last epoch."""

    def goes_on(self, key: str, handle: Any, epoch: int, point: dict[str, Any]) -> bool:
        report = {"report": handle, "epoch": epoch, "error": 1 - point["val_accuracy"], "energy_j": point["energy_j"]}
        return bool(self._answer(report))

    def close(self) -> None:
        """End the process."""
        assert self._child.stdin is not None
        self._child.stdin.close()
        self._child.wait()

    def _write(self, request: dict[str, Any]) -> None:
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps(request) + "\n")
        self._child.stdin.flush()

    def _answer(self, request: dict[str, Any]) -> Any:
        self._write(request)
        assert self._child.stdout is not None
        return json.loads(self._child.stdout.readline())


class _NoDisk(DriverJournal):
    """The journal without its writes: the replay is about what is drawn."""

    def flush(self) -> None:
        self._pending.clear()

    def hand_over(self) -> None:
        self._pending.clear()
