"""What looks on while Tune runs the trials: budgets, progress, trials that hang."""

import time
from typing import Any

from ray.tune import Callback, Stopper

from hpsearch.progress import Progress
from hpsearch.searcher import LedgerSearcher
from hpsearch.stopping import Budgets, StopRequest

HANG_GRACE_S = 30.0
"""A worker ends a trial over its time between two epochs; one that is so much over it, and silent as long, hangs."""


class Watch(Callback):
    """Tune's callback, called at every event of the driver."""

    def __init__(
        self,
        searcher: LedgerSearcher,
        budgets: Budgets,
        request: StopRequest,
        *,
        progress: Progress | None,
        timeout_s: float | None,
    ) -> None:
        self._searcher = searcher
        self._budgets = budgets
        self._request = request
        self._progress = progress
        self._timeout_s = timeout_s
        self._started: dict[Any, float] = {}
        self._heard: dict[Any, float] = {}
        self._spent_j: dict[Any, float] = {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Remember when a trial began."""
        self._started[trial] = self._heard[trial] = time.monotonic()

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any) -> None:
        """Remember when a trial was last heard of."""
        self._heard[trial] = time.monotonic()
        self._spent_j[trial] = result.get("train_energy_j") or 0.0

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Forget a trial that ended."""
        self._forget(trial)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Forget a trial that failed."""
        self._forget(trial)

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Look at budgets and at silent trials, and show where the search stands."""
        if not self._request.is_set:
            self._budgets.check(sum(self._spent_j.values()))
        if self._timeout_s is not None:
            self._end_silent(self._timeout_s)
        if self._progress is not None:
            self._progress.update(len(self._heard))  # not those that wait for a slot, up to --max-concurrent of them

    def _forget(self, trial: Any) -> None:
        self._started.pop(trial, None)
        self._heard.pop(trial, None)
        self._spent_j.pop(trial, None)

    def _end_silent(self, timeout_s: float) -> None:
        """End the worker of every silent trial that is over its time; the trial fails and is not tried again."""
        import ray

        latest = time.monotonic() - HANG_GRACE_S
        silent = [trial for trial, heard in self._heard.items() if heard < latest]
        for trial in [trial for trial in silent if self._started[trial] + timeout_s < latest]:
            del self._heard[trial]
            ours = self._searcher.running.get(trial.trial_id)
            if ours is not None and trial.temporary_state.ray_actor is not None:
                self._searcher.condemned[ours] = (
                    f"a trial may take {timeout_s:g} s, but this one hangs; its worker was ended"
                )
                trial.max_failures = 0
                ray.kill(trial.temporary_state.ray_actor)


class WhenAsked(Stopper):
    """Ends all trials some time after the search was asked to stop; until then each stops at its next report."""

    def __init__(self, request: StopRequest, grace_s: float) -> None:
        self._request = request
        self._grace_s = grace_s
        self._asked_at: float | None = None

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Stop no single trial: the scheduler does that."""
        return False

    def stop_all(self) -> bool:
        """Say whether waiting has been long enough."""
        if not self._request.stops_running:
            return False
        self._asked_at = self._asked_at or time.monotonic()
        return time.monotonic() - self._asked_at > self._grace_s
