"""The books of a run: every trial's end is written as a row first, then told to the study. Ray-free.

The row is the truth about a trial's result, the journal about what was asked. A kill between the two leaves a row that
was not told; `Ledger.reconcile` tells it when the run is opened again.
"""

import datetime
import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import stdev
from typing import Any

from hpsearch import archive, checkpoints, objectives
from hpsearch.objectives import Objective, ObjectiveError
from hpsearch.pareto import FrontTracker
from hpsearch.repeated import OTHERS, is_first, mean_row
from hpsearch.storage import ASIDE_SUFFIX, RunStorage
from hpsearch.study.feasibility import Constraints, Feasibility
from hpsearch.study.search_study import SearchStudy, Suggestion
from hpsearch.study.sources import Sources

logger = logging.getLogger(__name__)

SPREADS = ("val_accuracy", "test_accuracy", "energy_j")
"""Columns whose standard deviation over the seeds goes into the trial's attributes, as <column>_std."""
ATTRIBUTES = ("macs", "energy_source", "node", "train_seconds", "version", "test_accuracy")


@dataclass
class Ledger:
    """Counts, front and books of a run; the one place where a trial ends."""

    storage: RunStorage
    study: SearchStudy
    objectives: Sequence[Objective]
    constraints: Constraints = field(default_factory=Constraints)
    version: str = ""
    counts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    energy_j: float = 0.0
    """Energy spent in training by all finished trials."""
    tracker: FrontTracker | None = None

    def __post_init__(self) -> None:
        self._suggestions: dict[str, Suggestion] = {}
        self._points: list[tuple[float, ...]] = []
        self._finished: set[str] = set()
        self.feasibility = Feasibility(self.constraints)
        self._sources = Sources(self.objectives)

    @property
    def n_finished(self) -> int:
        """Trials with a row; one that was repeated with other seeds counts once."""
        return self.counts.total()

    def suggest(self) -> Suggestion | None:
        """Draw the next configuration; None when the space has no new one."""
        suggestion = self.study.ask()
        if suggestion is not None:
            self._suggestions[suggestion.trial_id] = suggestion
        return suggestion

    def finish(self, trial_id: str, row: Mapping[str, Any]) -> str:
        """Book a trial that came to its end; return its state: complete, or failed where no result is finite.

        A row with the rows of other seeds in it becomes as many rows. The first seed's is written last: where it is,
        all are.
        """
        first, others = dict(row), row.get(OTHERS) or []
        first.pop(OTHERS, None)
        identity = self._identity(trial_id)
        full = {**identity, **first, "trial_id": trial_id, "state": "complete"}
        shared = {**identity, "node": first.get("node")}  # the seeds of a trial end in one worker
        rows = [full, *({**shared, **other, "state": "complete"} for other in others)]
        try:
            for each in rows:
                self._values([each])
        except ObjectiveError as error:
            return self.fail(trial_id, str(error), first)
        for each in reversed(rows):
            archive.write_trial(self.storage, each)
        self._tell_complete(trial_id, rows)
        self._count("complete", rows)
        self._forget(trial_id)
        return "complete"

    def stop(self, trial_id: str, reason: str, row: Mapping[str, Any]) -> None:
        """Book a trial that was stopped early; `row` holds what is known of it."""
        full = {**self._identity(trial_id), **row, "trial_id": trial_id, "state": "stopped", "error": reason}
        archive.write_trial(self.storage, full)
        self.study.tell_stopped(trial_id, attributes={**_attributes([full]), "reason": reason})
        self._count("stopped", [full])
        self._forget(trial_id)

    def fail(self, trial_id: str, reason: str, row: Mapping[str, Any] | None = None) -> str:
        """Book a failed trial with its reason; results that it has are dropped, what it spent is kept."""
        spent = {name: value for name, value in (row or {}).items() if name in _KEPT_OF_FAILED}
        full = {**self._identity(trial_id), **spent, "trial_id": trial_id, "state": "failed", "error": reason}
        full.setdefault("finished_at", _now())
        archive.write_trial(self.storage, full)
        self.study.tell_failed(trial_id, reason, attributes=_attributes([full]))
        self._count("failed", [full])
        self._forget(trial_id)
        return "failed"

    def interrupt(self, trial_id: str) -> None:
        """Book a trial that the end of the search cut off: no row, no result; its checkpoint stays."""
        self.study.tell_interrupted(trial_id)
        self._suggestions.pop(trial_id, None)

    def interrupt_all(self) -> None:
        """Book all trials that are still open as cut off."""
        for trial_id in self.study.open_ids:
            self.interrupt(trial_id)

    def reconcile(self) -> int:
        """Bring rows and study to one state after a kill, and return how many trials are taken up again."""
        rows = by_configuration(archive.rows(archive.read_trials(self.storage)))
        self._sources.learn(row for group in rows.values() for row in group if row["state"] == "complete")
        for trial_id in self.study.adopt_running():
            if trial_id not in rows:
                self.interrupt(trial_id)
            else:
                self._tell_again(trial_id, rows[trial_id])
        for trial_id, group in rows.items():
            if not self.study.is_known(trial_id):
                self._enter(trial_id, group)
            self._count(group[0]["state"], group)
        self._finished = set(rows)
        complete = {trial_id: group for trial_id, group in rows.items() if group[0]["state"] == "complete"}
        self.study.judge({trial_id: self.constraints.of(mean_row(group)) for trial_id, group in complete.items()})
        self.sweep()
        return self.study.requeue_interrupted()

    def sweep(self) -> None:
        """Remove checkpoints of finished trials, and what a kill left half-written; no trial may be running."""
        for trial_id, path in checkpoints.trial_ids(self.storage.list(checkpoints.FOLDER)).items():
            if trial_id in self._finished:
                self.storage.delete(path)
        if self.storage.local is not None:
            for folder in ("", archive.TRIALS_FOLDER, checkpoints.FOLDER, "subnetworks/*"):
                for half in self.storage.local.glob(f"{folder}/.*{ASIDE_SUFFIX}".lstrip("/")):
                    half.unlink(missing_ok=True)

    def _tell_again(self, trial_id: str, rows: Sequence[dict[str, Any]]) -> None:
        row = rows[0]
        if row["state"] == "complete":
            self._tell_complete(trial_id, rows)
        elif row["state"] == "stopped":
            self.study.tell_stopped(trial_id, attributes={**_attributes(rows), "reason": row["error"]})
        else:
            self.study.tell_failed(trial_id, row["error"] or "unknown", attributes=_attributes(rows))

    def learn(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Let the sampler know a complete trial of another run, all its seeds; it is no trial of this one."""
        self._add(rows, None)

    def _enter(self, trial_id: str, rows: Sequence[dict[str, Any]]) -> None:
        """Enter a trial that the study never heard of: its journal is older than the row."""
        if rows[0]["state"] == "complete" and not self._sources.foreign(rows):
            self._add(rows, trial_id)
        else:
            self.study.settle(trial_id)

    def _add(self, rows: Sequence[Mapping[str, Any]], config_hash: str | None) -> None:
        self.study.add_row(
            rows[0]["params"] or {},
            self._values(rows),
            config_hash=config_hash,
            attributes=_attributes(rows),
            constraints=self.constraints.of(mean_row(rows)),
        )

    def _tell_complete(self, trial_id: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Tell a complete trial; one that does not compare has a row, and teaches the sampler nothing."""
        foreign = self._sources.foreign(rows)
        if foreign is not None:
            self.study.tell_failed(trial_id, foreign, attributes=_attributes(rows))
            return
        constraints = self.constraints.of(mean_row(rows))
        self.study.tell_complete(trial_id, self._values(rows), attributes=_attributes(rows), constraints=constraints)

    def _values(self, rows: Sequence[Mapping[str, Any]]) -> list[float]:
        """Return what the sampler is told: the means over the seeds."""
        mean = mean_row(rows)
        return [objective.value(mean) for objective in self.objectives]

    def _identity(self, trial_id: str) -> dict[str, Any]:
        suggestion = self._suggestions[trial_id]
        return {
            "config_hash": trial_id,
            "seed": suggestion.config.seed,
            "params": suggestion.params,
            "config": json.dumps(suggestion.config.to_dict()),
            "version": self.version,
        }

    def _count(self, state: str, rows: Sequence[Mapping[str, Any]]) -> None:
        self.counts[state] += 1
        self.energy_j += sum(row.get("train_energy_j") or 0.0 for row in rows)
        if state == "failed":
            self.reasons[str(rows[0].get("error") or "unknown").splitlines()[0]] += 1
        if state == "complete":
            mean = mean_row(rows)
            self.feasibility.take(mean)
            if not self._sources.foreign(rows):
                self._track(mean)

    def _track(self, row: Mapping[str, Any]) -> None:
        point = objectives.costs(row, self.objectives)
        corner = objectives.reference(row, self.objectives)
        if self.tracker is None or any(a > b for a, b in zip(corner, self.tracker.reference, strict=True)):
            # a larger dense network widens the corner; the volume can only grow by that
            old = self.tracker.reference if self.tracker else corner
            self.tracker = FrontTracker([max(a, b) for a, b in zip(corner, old, strict=True)])
            for known in self._points:
                self.tracker.add(known)
        self._points.append(point)
        self.tracker.add(point)

    def _forget(self, trial_id: str) -> None:
        self._suggestions.pop(trial_id, None)
        self._finished.add(trial_id)
        self.storage.delete(checkpoints.checkpoint_path(trial_id))


_KEPT_OF_FAILED = (
    "node",
    "device",
    "started_at",
    "finished_at",
    "train_seconds",
    "train_energy_j",
    "train_energy_source",
    "train_macs",
    "epochs",
    "history",
)


def by_configuration(rows: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Group rows by the trial that wrote them: its own row first, then those of its other seeds, by seed.

    Rows of other seeds whose first is not there are left out: the trial was killed before its books were closed, and
    writes them again.
    """
    found = {row["trial_id"]: [row] for row in rows if is_first(row)}
    for row in sorted((row for row in rows if not is_first(row)), key=lambda row: row["seed"] or 0):
        if row["config_hash"] in found:
            found[row["config_hash"]].append(row)
    return found


def _attributes(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    mean = mean_row(rows)
    found = {name: mean[name] for name in ATTRIBUTES if mean.get(name) is not None}
    if len(rows) > 1:
        found["n_seeds"] = len(rows)
        for name in SPREADS:
            values = [row.get(name) for row in rows]
            if None not in values:
                found[f"{name}_std"] = stdev(values)  # type: ignore[type-var]
    return found


def _now() -> datetime.datetime:
    return datetime.datetime.now(tz=datetime.UTC)
