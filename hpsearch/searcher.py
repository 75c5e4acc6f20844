"""The run's ledger behind Tune's Searcher: Tune asks for configurations and says how trials ended.

Tune saves and restores nothing here: the journal and the rows are the truth.
"""

import json
import logging
from collections.abc import Callable
from typing import Any

from ray.tune.search import Searcher

from greenprune_core.errors import GreenpruneError
from hpsearch.ledger import Ledger
from hpsearch.stopping import StopRequest
from hpsearch.study import Suggestion

logger = logging.getLogger(__name__)

LOST = "the worker process died again and again; it may need more memory than the node has"


class LedgerSearcher(Searcher):
    """Hands out suggestions as Tune configurations and books every end of a trial."""

    def __init__(self, ledger: Ledger, request: StopRequest, to_task: Callable[[Suggestion], dict[str, Any]]) -> None:
        super().__init__()
        self._ledger = ledger
        self._request = request
        self._to_task = to_task
        self.is_exhausted = False
        """Whether every configuration of the space has been tried."""
        self.running: dict[str, str] = {}
        """Tune's id of each running trial -> our id."""
        self.stopped: dict[str, str] = {}
        """Our id of trials that the scheduler stops -> the reason; filled by the scheduler."""
        self.condemned: dict[str, str] = {}
        """Our id of trials whose worker was ended on purpose -> the reason."""

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        """Return the next trial's task, or FINISHED when nothing is to be started any more."""
        if self._request.is_set:
            return str(self.FINISHED)
        try:
            suggestion = self._ledger.suggest()
        except GreenpruneError as error:
            self._request.ask("no further suggestion", error)
            return str(self.FINISHED)
        if suggestion is None:
            self.is_exhausted = True
            return str(self.FINISHED)
        self.running[trial_id] = suggestion.trial_id
        return self._to_task(suggestion)

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
        row = json.loads(result["row"]) if "row" in result else {}
        if error:
            self._ledger.fail(ours, self.condemned.pop(ours, LOST), _spent(result))
        elif state == "complete":
            self._ledger.finish(ours, row)
        elif state == "failed":
            self._ledger.fail(ours, str(result["error"]), row)
        elif ours in self.stopped:
            self._ledger.stop(ours, self.stopped.pop(ours), _spent(result))
        else:
            self._ledger.interrupt(ours)


def _spent(result: dict[str, Any]) -> dict[str, Any]:
    """Return what the last report of an unfinished trial tells about it, in columns of the archive."""
    return {name: result[name] for name in ("node", "started_at", "finished_at", "epochs") if name in result}
