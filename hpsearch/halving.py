"""Early stopping behind Tune's TrialScheduler."""

from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from hpsearch.stopping import StopRequest


class PlainScheduler(TrialScheduler):
    """Runs every trial to its end, first come first served, unless the whole search is to stop.

    Tune's own FIFO scheduler walks over all trials at every event; the controller starts pending trials by itself.
    """

    _supports_buffered_results = False

    def __init__(self, request: StopRequest) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._request = request

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """Take nothing over: the objectives are the run's own."""
        return True

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """Nothing to do."""

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """Nothing to do."""

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Go on, unless the search is to stop."""
        return str(self.STOP if self._request.is_set else self.CONTINUE)

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """Nothing to do."""

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        """Nothing to do."""

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """Leave the choice to the controller, which starts pending trials in order."""
        return None

    def debug_string(self) -> str:
        """Name the scheduler."""
        return "every trial runs to its end"
