"""Early stopping behind Tune's TrialScheduler; the arithmetic is in `hpsearch.study.rungs`."""

from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from hpsearch.searcher import LedgerSearcher
from hpsearch.stopping import StopRequest
from hpsearch.study.rungs import Rungs


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
        return str(self.STOP if self._request.stops_running else self.CONTINUE)

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """Nothing to do."""

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        """Nothing to do."""

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """Leave the choice to the controller, which starts pending trials in order; none of them at the search's end.

        It would also give the slots of stopped trials to those that wait, up to --max-concurrent of them.
        """
        if self._request.is_set:
            for trial in list(tune_controller.get_live_trials()):
                if trial.status == Trial.PENDING:
                    tune_controller.stop_trial(trial)
        return None

    def debug_string(self) -> str:
        """Name the scheduler."""
        return "every trial runs to its end"


class HalvingScheduler(PlainScheduler):
    """Stops trials at rungs that others of their energy have passed with better accuracy.

    Every report at a rung goes into the journal, so that a resumed search knows it.
    """

    def __init__(self, request: StopRequest, rungs: Rungs, searcher: LedgerSearcher) -> None:
        super().__init__(request)
        self._rungs = rungs
        self._searcher = searcher

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Decide at a rung; between rungs trials go on."""
        decision = super().on_trial_result(tune_controller, trial, result)
        if decision == self.CONTINUE and result["is_at_rung"] and result["phase"] != "warm_up":
            trial_id = self._searcher.running[trial.trial_id]
            rung, accuracy, energy_j = result["epoch"], result["val_accuracy"], result["expected_energy_j"]
            goes_on = self._rungs.goes_on(trial_id, rung, accuracy, energy_j)
            self._searcher.note_rung(trial_id, rung, accuracy, energy_j)
            if not goes_on:
                reason = f"stopped after {rung} epochs: {accuracy:.2%} right at an expected {energy_j:.3g} J is behind"
                self._searcher.stopped[trial_id] = reason
                return str(self.STOP)
        return decision

    def debug_string(self) -> str:
        """Name the scheduler."""
        halving = self._rungs.halving
        return f"halving: one in {halving.eta} goes on after {', '.join(map(str, halving.rungs))} epochs"
