"""The run's ledger behind Tune's Searcher: Tune asks for configurations and says how trials ended.

Tune saves and restores nothing here: the journal and the rows are the truth.
"""

import json
import logging
from collections import deque
from collections.abc import Callable
from typing import Any

from ray.tune.search import Searcher

from greenprune_core.errors import GreenpruneError
from hpsearch.energy.training_energy import COLUMNS
from hpsearch.stopping import StopRequest
from hpsearch.study.ledger import Ledger
from hpsearch.study.search_study import Suggestion

logger = logging.getLogger(__name__)

LOST = "the worker process died again and again; it may need more memory than the node has"


class LedgerSearcher(Searcher):
    """Hands out suggestions as Tune configurations and books every end of a trial.

    Trials that lacked memory on a GPU which they shared are handed out again after all others, each with a whole GPU.

    Args:
        ledger: the run's books.
        request: set when nothing is to be started any more.
        to_task: makes of a suggestion what a worker needs.
        n_trials: number of suggestions to hand out.
    """

    def __init__(
        self, ledger: Ledger, request: StopRequest, to_task: Callable[[Suggestion], dict[str, Any]], n_trials: int
    ) -> None:
        super().__init__()
        self._ledger = ledger
        self._request = request
        self._to_task = to_task
        self._n_left = n_trials
        self._shared: dict[str, dict[str, Any]] = {}
        self._crowded: deque[dict[str, Any]] = deque()
        self.is_exhausted = False
        """Whether every configuration of the space has been tried."""
        self.running: dict[str, str] = {}
        """Tune's id of each running trial -> our id."""
        self.stopped: dict[str, str] = {}
        """Our id of trials that the scheduler stops -> the reason; filled by the scheduler."""
        self.condemned: dict[str, str] = {}
        """Our id of trials whose worker was ended on purpose -> the reason."""

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        """Return the next trial's task, None to be asked again, or FINISHED when nothing is to be started any more."""
        if self._request.is_set:
            return str(self.FINISHED)
        task = self._draw() if self._n_left > 0 else None
        if task is None and self._crowded:
            task = self._crowded.popleft()
        if task is not None:
            self.running[trial_id] = task["trial_id"]
            return task
        # one that shares a GPU may still have to be run again
        return None if self._shared and not self._request.is_set else str(self.FINISHED)

    def _draw(self) -> dict[str, Any] | None:
        """Return the task of a new suggestion; None where there is none."""
        try:
            suggestion = self._ledger.suggest()
            task = None if suggestion is None else self._to_task(suggestion)
        except GreenpruneError as error:
            self._request.ask("no further suggestion", error)
            return None
        if suggestion is None or task is None:
            self.is_exhausted = True
            self._n_left = 0
            return None
        self._n_left -= 1
        if 0 < task["gpus"] < 1:
            self._shared[suggestion.trial_id] = task
        return task

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Book how a trial ended; if that cannot be written, the search stops with that error."""
        ours = self.running.pop(trial_id, None)
        if ours is None:
            return
        try:
            self._book(ours, result or {}, error)
        except (GreenpruneError, OSError) as trouble:
            # the trial stays RUNNING in the journal and is taken up again by --resume
            self._request.ask("the run's books cannot be written", trouble)

    def note_rung(self, ours: str, rung: int, accuracy: float, energy_j: float) -> None:
        """Enter a report at a rung into the journal; if that cannot be written, the search stops with that error."""
        try:
            self._ledger.study.note_rung(ours, rung, accuracy, energy_j)
        except (GreenpruneError, OSError) as trouble:
            self._request.ask("the run's books cannot be written", trouble)

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the journal has it."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing: the journal has it."""

    def _book(self, ours: str, result: dict[str, Any], error: bool) -> None:
        state = result.get("state")
        shared = self._shared.pop(ours, None)
        if state == "crowded" and shared is not None:
            if self._request.is_set:
                self._ledger.interrupt(ours)
            else:
                self._crowded.append({**shared, "gpus": 1.0})
            return
        row = json.loads(result["row"]) if "row" in result else {}
        if error:
            self._ledger.fail(ours, self.condemned.pop(ours, LOST), _spent(result))
        elif state == "complete":
            self._ledger.finish(ours, row)
        elif state in ("failed", "crowded"):
            self._ledger.fail(ours, str(result["error"]), row)
        elif ours in self.stopped:
            self._ledger.stop(ours, self.stopped.pop(ours), _spent(result))
        else:
            self._ledger.interrupt(ours)


def _spent(result: dict[str, Any]) -> dict[str, Any]:
    """Return what the last report of an unfinished trial tells about it, in columns of the archive."""
    names = ("node", "started_at", "finished_at", "epochs", *COLUMNS)
    return {name: result[name] for name in names if name in result}
