"""One trial on a Ray worker: advance to the next rung, report, keep a checkpoint in the run folder.

The checkpoint lies in the run's own folder and not in Tune's, so that a trial goes on after its worker, its driver or
both died, with nothing of Ray's left. Whatever a trial raises becomes its result: the worker lives on for the next.
A worker that gets notice keeps its trial's state and ends; Tune starts the trial again on another node.
"""

import importlib
import json
import logging
import os
import sys
import tempfile
import time
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ray import tune

from greenprune_core.config import TrialConfig
from greenprune_core.errors import ConfigError
from greenprune_core.measure.meter import NoMeter
from hpsearch.checkpoints import checkpoint_path
from hpsearch.cluster import gpu_share
from hpsearch.cluster.notice import Notice, is_draining_here
from hpsearch.cluster.session import HEAD
from hpsearch.energy.training_energy import TrainingMeter, open_training_meter, spent_by
from hpsearch.repeated import OTHERS, Repeats
from hpsearch.search_run import SETTINGS
from hpsearch.storage import RunStorage

logger = logging.getLogger(__name__)

HEARTBEAT_S = 5.0
"""A report at least this often where epochs are shorter: the driver sees life and can stop the trial."""
CHECKPOINT_S = 120.0
"""A checkpoint at least this often where epochs are shorter ..."""
CHECKPOINT_SHARE = 0.01
"""... and more often while writing takes no more than this share of the time: a lost node then costs seconds."""
SUBNETWORKS = "subnetworks"
OURS = {"greenprune_core", "search_spaces", "hpsearch"}
LIBRARIES = {"site-packages", "dist-packages", "lib"}


class TrialWorker(tune.Trainable):
    """Tune's view of a worker process that serves trial after trial; Tune's own checkpoints stay unused."""

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        """Ask for what this trial needs; others of the search may need more or less."""
        share = config.get("head_share")
        processors = {"CPU": config["cpus"]} if share is None else {HEAD: share}
        return tune.PlacementGroupFactory([{**processors, "GPU": config["gpus"]}])

    def setup(self, config: dict[str, Any]) -> None:
        """Take the first trial."""
        self._notice = Notice(is_draining_here)
        self._notice.listen()
        self._host = TrialHost(config, self._notice)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial, in the same process."""
        self._host.close()
        gpu_share.release()  # a trained network is a cycle of references: its memory would wait for the collector
        self._host = TrialHost(new_config, self._notice)
        return True

    def step(self) -> dict[str, Any]:
        """Train on and return the report; with notice given, end this process instead."""
        report = self._host.step()
        if report is None:
            logger.info("this worker has notice to go: its trial goes on elsewhere")
            sys.exit(0)
        return report

    def cleanup(self) -> None:
        """Keep the state of a trial that the search's end cuts off."""
        self._host.keep()
        self._host.close()


class TrialHost:
    """Runs one trial in steps; knows the run folder but not Ray.

    Args:
        task: what `hpsearch.tuner.task` makes of a suggestion.
        notice: tells that the worker is about to go.
    """

    def __init__(self, task: dict[str, Any], notice: Notice | None = None) -> None:
        self._task = task
        self._notice = notice or Notice()
        self._id = str(task["trial_id"])
        self._storage = RunStorage.open(task["run"])
        self._started = datetime.now(tz=UTC)
        self._began = self._saved_at = time.monotonic()
        self._save_s = HEARTBEAT_S * CHECKPOINT_SHARE  # not known yet: the first checkpoint comes with the first report
        self._is_over = False
        self._continued_at: int | None = None
        self._trial: Any = None
        self._meter = TrainingMeter(NoMeter())
        self._scratch: tempfile.TemporaryDirectory[str] | None = None

    def step(self) -> dict[str, Any] | None:
        """Train until the next rung, the end, or the next sign of life; what goes wrong is a result too.

        With notice given the state is kept at the end of the epoch, and there is no report: it goes on elsewhere.
        """
        try:
            return self._step()
        except Exception as error:  # noqa: BLE001  whatever a trial raises is its result, and the worker goes on
            report = self._failed(error)
        gpu_share.release()  # here, where the error's frames hold the trial's tensors no more
        return report

    def keep(self) -> None:
        """Write a checkpoint if the trial has begun and is not over."""
        if self._trial is None or self._is_over:
            return
        try:
            self._save()
        except (OSError, RuntimeError, ValueError):
            logger.exception("could not keep the state of trial %s", self._id)

    def close(self) -> None:
        """Let go of the meter, the trial and what it wrote on this machine alone."""
        self._meter.close()
        self._trial = None
        if self._scratch is not None:
            self._scratch.cleanup()

    def _step(self) -> dict[str, Any] | None:
        if self._notice.is_given():
            return None
        if self._trial is None:
            self._trial = self._open()
            self._meter = open_training_meter(self._task, is_continued=self._continued_at is not None)
        trial, began = self._trial, time.monotonic()
        until = next((rung for rung in self._task["rungs"] if rung > trial.epoch), trial.epochs)
        while not trial.is_finished:
            with self._meter:
                report = trial.advance(trial.epoch + 1)
            self._check_time()
            if self._notice.is_given() and not trial.is_finished:
                self.keep()
                return None
            if trial.epoch >= until or time.monotonic() - began > HEARTBEAT_S:
                break
        if trial.is_finished:
            return self._finished()
        is_at_rung = trial.epoch >= until
        if is_at_rung or time.monotonic() - self._saved_at > min(CHECKPOINT_S, self._save_s / CHECKPOINT_SHARE):
            self._save()
        return {**self._so_far(), **_plain(report), "state": "running", "is_at_rung": is_at_rung}

    def _open(self) -> Any:
        if not self._storage.exists(SETTINGS):
            raise ConfigError(
                f"the storage path must be one that all nodes see, but {self._storage} is not the same folder on "
                f"{os.uname().nodename}; use s3://, gs:// or a folder shared by all under one path"
            )
        kind = load(self._task["runner"])
        if self._task.get("repeats", 1) > 1:
            kind = Repeats(kind, self._task["repeats"])
        set_threads(self._task["cpus"])
        gpu_share.limit(self._task["gpus"])
        config = TrialConfig.from_dict(self._task["config"])
        options = {"data_dir": self._task["data_dir"], "device": self._task["device"]}
        if self._storage.exists(checkpoint_path(self._id)):
            trial = self._restore(kind, config, options)
            if trial is not None:
                self._continued_at = trial.epoch
                return trial
            gpu_share.release()  # what it had loaded by then
        return kind(config, self._folder(), **options)

    def _restore(self, kind: Any, config: TrialConfig, options: dict[str, Any]) -> Any:
        """Return the trial that the checkpoint holds; None where that is damaged, or of another kind of trial."""
        with tempfile.TemporaryDirectory(prefix="greenprune-") as aside:
            local = Path(aside) / "state.pt"
            local.write_bytes(self._storage.read_bytes(checkpoint_path(self._id)))
            try:
                return kind.restore(local, config, self._folder(), **options)
            except Exception as error:
                if gpu_share.is_crowded(error, self._task["gpus"]):
                    raise
                # lost epochs are cheaper than a configuration that is lost for good
                logger.warning("trial %s begins anew: its checkpoint cannot be restored: %s", self._id, error)
                return None

    def _folder(self) -> Path:
        """Return where the sub-network is written: its place in the run, or a local one to be copied there."""
        if self._storage.local is not None:
            return self._storage.local / SUBNETWORKS / self._id
        if self._scratch is None:
            # of this process alone: a folder of one name for all would belong to whichever user came first
            self._scratch = tempfile.TemporaryDirectory(prefix="greenprune-")
        return Path(self._scratch.name) / self._id

    def _save(self) -> None:
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="greenprune-") as aside:
            local = Path(aside) / "state.pt"
            self._trial.save(local)
            self._storage.write_bytes(checkpoint_path(self._id), local.read_bytes())
        self._saved_at = time.monotonic()
        self._save_s = self._saved_at - began

    def _finished(self) -> dict[str, Any]:
        row = {**self._so_far(), **self._trial.finish(), **self._meter.columns()}
        if self._continued_at is not None:
            row["details"] = {**row.get("details", {}), "continued_at_epoch": self._continued_at}
        if self._storage.local is None:
            for trial_id in (self._id, *(other["trial_id"] for other in row.get(OTHERS) or ())):
                self._storage.put_folder(self._folder().parent / trial_id, f"{SUBNETWORKS}/{trial_id}")
        self._is_over = True
        return {"state": "complete", "epoch": self._trial.epoch, "row": _dump(row), "done": True}

    def _failed(self, error: Exception) -> dict[str, Any]:
        self._is_over = True
        logger.info("trial %s failed", self._id, exc_info=error)
        reason = f"{type(error).__name__}: {error} ({_place(error)})"
        state = "crowded" if gpu_share.is_crowded(error, self._task["gpus"]) else "failed"
        row = _dump(self._so_far())
        self._trial = None
        return {"state": state, "error": reason, "row": row, "done": True}

    def _so_far(self) -> dict[str, Any]:
        return {
            "node": os.uname().nodename,
            "started_at": self._started.isoformat(),
            "finished_at": datetime.now(tz=UTC).isoformat(),
            "epochs": 0 if self._trial is None else self._trial.epoch,
            **({} if self._trial is None else spent_by(self._trial)),
            **self._meter.columns(),
        }

    def _check_time(self) -> None:
        limit, spent = self._task["timeout_s"], time.monotonic() - self._began
        if limit is not None and spent > limit:
            raise TimeoutError(f"a trial may take {limit:g} s, but this one took {spent:.0f} s; raise --trial-timeout")


def load(path: str) -> Any:
    """Return what `module:attribute` names."""
    module, _, attribute = path.partition(":")
    return getattr(importlib.import_module(module), attribute)


def set_threads(cpus: float) -> None:
    """Give torch as many threads as the trial has processors, so that trials side by side do not crowd each other."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(max(1, int(cpus)))


def _place(error: Exception) -> str:
    """Return file and line where it happened: the innermost that belongs to no library."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if OURS & set(parts := Path(frame.filename).parts) or not LIBRARIES & set(parts)]
    frame = (ours or frames)[-1]
    return f"{Path(frame.filename).name}:{frame.lineno}"


def _plain(report: Any) -> dict[str, Any]:
    return {
        "epoch": report.epoch,
        "phase": str(report.phase),
        "val_accuracy": report.val_accuracy,
        "expected_energy_j": report.expected_energy_j,
        "expected_macs": report.expected_macs,
    }


def _dump(row: dict[str, Any]) -> str:
    return json.dumps(row, default=_jsonable)


def _jsonable(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else str(value)
