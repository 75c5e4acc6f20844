"""One trial that trains its configuration with several seeds, one after the other: `--repeats n`.

Rungs lie in the first seed's epochs, so early stopping judges that one, and only configurations that pass are repeated.
Each seed has its own sub-network and ends as its own row: rows of one configuration share `config_hash`, the trial id
of the first seed.
"""

import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

from greenprune_core.config import TrialConfig
from greenprune_core.errors import ConfigError
from hpsearch.cluster import gpu_share
from hpsearch.energy.training_energy import COLUMNS, spent_by

OTHERS = "repeats"
"""Key of a first seed's result under which the whole rows of the other seeds travel to the driver."""
MEANS = ("val_accuracy", "test_accuracy", "energy_j", "macs", "params_kept", "model_latency_s", "train_energy_j")
"""Columns whose mean over the seeds is what the sampler is told."""

_ROWS, _STATE, _FOLDERS = "rows.json", "state.pt", "folders/"


class Repeats:
    """Makes trials that repeat; stands where a kind of trial (`hpsearch.trial.TrialRun`) stands."""

    def __init__(self, kind: Any, n_seeds: int) -> None:
        self._kind = kind
        self._n_seeds = n_seeds

    def __call__(self, config: TrialConfig, folder: Path, **options: Any) -> "RepeatedTrial":
        """Begin with the first seed."""
        return RepeatedTrial(lambda *given: self._kind(*given, **options), config, folder, self._n_seeds)

    def restore(self, path: Path, config: TrialConfig, folder: Path, **options: Any) -> "RepeatedTrial":
        """Go on from a checkpoint that `RepeatedTrial.save` has written."""
        with zipfile.ZipFile(path) as checkpoint:
            rows = json.loads(checkpoint.read(_ROWS))
            for name in filter(_is_of_a_seed, checkpoint.namelist()):
                kept = folder.parent / name.removeprefix(_FOLDERS)
                if not kept.exists():
                    kept.parent.mkdir(parents=True, exist_ok=True)
                    kept.write_bytes(checkpoint.read(name))
            state = path.with_name(_STATE)
            state.write_bytes(checkpoint.read(_STATE))

        def again(config: TrialConfig, folder: Path) -> Any:
            if state.exists():
                trial = self._kind.restore(state, config, folder, **options)
                state.unlink()
                return trial
            return self._kind(config, folder, **options)

        # a seed that was begun is trained to its end, also when fewer are wanted now
        return RepeatedTrial(again, config, folder, max(self._n_seeds, len(rows) + 1), rows)


class RepeatedTrial:
    """A configuration under way, seed after seed, with the interface of `hpsearch.trial.TrialRun`.

    Args:
        make: makes the trial of one seed from its configuration and folder.
        config: configuration of the first seed; the others count on from its seed.
        folder: of the first seed's sub-network; the others' lie beside it, each under its configuration's hash.
        n_seeds: how many seeds, >= 1.
        rows: of the seeds that are finished.
    """

    def __init__(
        self,
        make: Callable[[TrialConfig, Path], Any],
        config: TrialConfig,
        folder: Path,
        n_seeds: int,
        rows: Sequence[dict[str, Any]] = (),
    ) -> None:
        self.config = config
        self.folder = folder
        self._make = make
        self._n_seeds = n_seeds
        self._rows = list(rows)
        self._trial = self._begin()
        self._epochs_each = int(self._trial.epochs)

    @property
    def epoch(self) -> int:
        """Epochs done, over all seeds."""
        return len(self._rows) * self._epochs_each + (0 if self._trial is None else int(self._trial.epoch))

    @property
    def epochs(self) -> int:
        """Epochs of all seeds."""
        return self._n_seeds * self._epochs_each

    @property
    def is_finished(self) -> bool:
        """Whether the last seed is trained."""
        return len(self._rows) == self._n_seeds - 1 and bool(self._trial.is_finished)

    def advance(self, until_epoch: int) -> Any:
        """Train until so many epochs are done over all seeds, and report how the present seed stands."""
        while True:
            done = len(self._rows) * self._epochs_each
            report = self._trial.advance(min(until_epoch - done, self._epochs_each))
            report = replace(report, epoch=self.epoch)
            if not self._trial.is_finished or self.is_finished:
                return report
            self._rows.append(self._finished())
            self._trial = None  # its memory is for the next seed
            gpu_share.release()
            self._trial = self._begin()
            if until_epoch <= self.epoch:
                return report

    def spent(self) -> dict[str, Any]:
        """Return what all seeds so far have spent in training, in columns of the archive."""
        parts = [*self._rows, spent_by(self._trial)]
        sums = {name: sum(part.get(name) or 0 for part in parts) for name in COLUMNS if name != "train_energy_source"}
        return {**parts[-1], **sums} if parts[-1] else {}

    def save(self, path: Path) -> None:
        """Write a checkpoint: rows and sub-networks of the finished seeds, and the state of the present one."""
        state = path.with_name(f"{path.name}.{_STATE}")
        self._trial.save(state)
        with zipfile.ZipFile(path, "w") as checkpoint:
            checkpoint.writestr(_ROWS, json.dumps(self._rows))
            checkpoint.write(state, _STATE)
            for row in self._rows:
                for file in sorted(self._folder(row["trial_id"]).rglob("*")):
                    if file.is_file():
                        checkpoint.write(file, f"{_FOLDERS}{file.relative_to(self.folder.parent)}")
        state.unlink()

    def finish(self) -> dict[str, Any]:
        """Return the first seed's row, with the rows of the others in it."""
        first, *others = [*self._rows, self._finished()]
        return {**first, OTHERS: others} if others else first

    def _begin(self) -> Any:
        config = replace(self.config, seed=self.config.seed + len(self._rows))
        return self._make(config, self._folder(config.config_hash))

    def _folder(self, trial_id: str) -> Path:
        return self.folder if trial_id == self.config.config_hash else self.folder.parent / trial_id

    def _finished(self) -> dict[str, Any]:
        config: TrialConfig = self._trial.config
        own = {
            "trial_id": config.config_hash,
            "config_hash": self.config.config_hash,
            "seed": config.seed,
            "config": config.to_dict(),
        }
        plain: dict[str, Any] = json.loads(json.dumps({**self._trial.finish(), **own}, default=_plain))
        return plain


def _is_of_a_seed(name: str) -> bool:
    """Say whether a name in a checkpoint is a file of a seed's sub-network; it never leads out of their folder."""
    parts = PurePosixPath(name.removeprefix(_FOLDERS)).parts
    is_inside = len(parts) > 1 and ".." not in parts and "/" not in parts
    if name.startswith(_FOLDERS) and not is_inside:
        raise ConfigError(
            f"a checkpoint holds the files of its own seeds, but got one with {name!r}; begin the trial anew"
        )
    return name.startswith(_FOLDERS)


def is_first(row: Mapping[str, Any]) -> bool:
    """Say whether a row is that of a configuration's first (mostly its only) seed."""
    return row.get("config_hash") in (None, row["trial_id"])


def mean_row(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the first row with the means over all in the columns `MEANS`; null where one is null."""
    found = dict(rows[0])
    for name in MEANS if len(rows) > 1 else ():
        values = [row.get(name) for row in rows]
        found[name] = None if None in values else sum(values) / len(rows)  # type: ignore[arg-type]
    return found


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else str(value)
