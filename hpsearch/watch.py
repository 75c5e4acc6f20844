"""What looks on while Tune runs the trials: budgets, progress, trials that hang."""

import time
from typing import Any

from ray.tune import Callback, Stopper

from hpsearch.progress import Progress
from hpsearch.searcher import LedgerSearcher
from hpsearch.stopping import Budgets, StopRequest


class Watch(Callback):
    """Tune's callback, called at every event of the driver."""

    def __init__(
        self, searcher: LedgerSearcher, budgets: Budgets, request: StopRequest, progress: Progress | None
    ) -> None:
        self._searcher = searcher
        self._budgets = budgets
        self._request = request
        self._progress = progress

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Look at budgets and show where the search stands."""
        if not self._request.is_set:
            self._budgets.check()
        if self._progress is not None:
            self._progress.update(len(self._searcher.running))


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
        if not self._request.is_set:
            return False
        self._asked_at = self._asked_at or time.monotonic()
        return time.monotonic() - self._asked_at > self._grace_s
