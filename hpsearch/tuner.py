"""The search on Ray: settings in, a finished run folder out.

Everything that must survive lies in the run folder (settings, journal, rows, checkpoints); Ray only runs the trials.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from greenprune_core.errors import ConfigError, GreenpruneError
from hpsearch.cluster.needs import with_needs
from hpsearch.cluster.nodes import check_nodes
from hpsearch.cluster.session import Placement, await_worker, connect, count_slots, keep_credentials_out_of_logs
from hpsearch.lock import DriverLock
from hpsearch.progress import Progress
from hpsearch.settings import RUNNER, SearchSettings
from hpsearch.stopping import Budgets, Interrupts, StopRequest
from hpsearch.storage import RunStorage
from hpsearch.study.draws import first_config
from hpsearch.study.ledger import Ledger
from hpsearch.study.opening import check_run, open_ledger, read_warm_start
from hpsearch.study.rungs import Halving, Rungs, usual_grace
from hpsearch.study.search_study import Suggestion
from search_spaces import SearchSpace

if TYPE_CHECKING:
    from hpsearch.halving import PlainScheduler
    from hpsearch.searcher import LedgerSearcher

logger = logging.getLogger(__name__)

WORKER_LOSSES = 3
"""How often a trial's worker may die (node gone, memory) before the trial counts as failed."""
GRACE_S = 60.0
"""How long the end of a search waits for running trials to keep a checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a search ended."""

    ledger: Ledger
    reason: str | None
    """Why it ended before its last trial; None when it is done."""
    error: BaseException | None
    """What broke it, if anything did."""
    seconds: float


def search(
    settings: SearchSettings,
    space: SearchSpace,
    *,
    say: Callable[[str], None],
    progress: Progress | None = None,
    runner: str = RUNNER,
) -> Outcome:
    """Run a search to its end and return how it went; the run folder is complete whatever happens.

    Raises:
        ConfigError: the user's settings do not fit the run, the space or the cluster; nothing was started.
    """
    began = time.monotonic()
    storage = RunStorage.open(settings.run)
    check_run(storage, settings)
    halving = plan_halving(settings, space)
    known = read_warm_start(settings, space)
    connect(settings.address)
    await_worker(say)
    slots = count_slots(settings.cpus_per_trial, settings.gpus_per_trial)
    lock = DriverLock(storage)
    request = StopRequest()
    try:
        if runner == RUNNER:
            check_nodes(storage, first_config(space).data, settings.data_dir)
        ledger, again = open_ledger(storage, settings, space, known)
        if settings.resume:
            say(f"resumed: {ledger.n_finished} trials are finished, {again} are taken up again")
        if progress is not None:
            progress.begin(ledger)
        try:
            with Interrupts(request, say):
                _run(settings, space, ledger, request, slots, runner, progress, halving, say)
        finally:
            _close(ledger, request)
    finally:
        lock.release()
    return Outcome(ledger=ledger, reason=request.reason, error=request.error, seconds=time.monotonic() - began)


def _close(ledger: Ledger, request: StopRequest) -> None:
    """Leave no trial RUNNING, whatever ended the search; books that could not be written may refuse that too."""
    try:
        ledger.interrupt_all()
        ledger.study.flush()
        ledger.sweep()
    except (GreenpruneError, OSError):
        if request.error is None:
            raise


def plan_halving(settings: SearchSettings, space: SearchSpace) -> Halving | None:
    """Return when trials are compared; None if each runs to its end.

    Raises:
        ConfigError: eta or grace do not fit the training, or the space has more first points than the run has trials.
    """
    if len(space.first_points) > settings.trials:
        raise ConfigError(
            f"a run has at least as many trials as its space has first points, {len(space.first_points)}, but got "
            f"trials={settings.trials}; ask for more, or try the parts with --smoke-test"
        )
    if not settings.halving:
        return None
    epochs = first_config(space).epochs
    return Halving(eta=settings.eta, grace=settings.grace or usual_grace(epochs), epochs=epochs)


def _run(
    settings: SearchSettings,
    space: SearchSpace,
    ledger: Ledger,
    request: StopRequest,
    slots: int,
    runner: str,
    progress: Progress | None,
    halving: Halving | None,
    say: Callable[[str], None],
) -> None:
    missing = settings.trials - ledger.n_finished
    if missing <= 0:
        return
    from ray import tune

    from hpsearch.cluster.watch import Watch, WhenAsked
    from hpsearch.cluster.worker import TrialWorker
    from hpsearch.searcher import LedgerSearcher

    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    budgets = _budgets(settings, ledger, request, say)
    budgets.check()
    if request.is_set:
        return  # resumed, and all was spent before: Tune would start a trial before it looks
    to_task = _task_maker(settings, space, ledger.storage, runner, halving, say)
    searcher = LedgerSearcher(ledger, request, to_task, missing)
    watch = Watch(searcher, budgets, request, progress=progress, timeout_s=settings.trial_timeout_s)
    keep_credentials_out_of_logs()
    tune.run(
        TrialWorker,
        name="ray",
        storage_path=_tune_path(ledger.storage),
        search_alg=searcher,
        scheduler=_scheduler(ledger, request, halving, searcher),
        num_samples=-1,  # the searcher counts: a trial that is run again counts once
        # a number that was asked for may exceed today's slots: workers that join later find trials waiting
        max_concurrent_trials=settings.max_concurrent or slots,
        reuse_actors=True,
        max_failures=WORKER_LOSSES,
        raise_on_failed_trial=False,
        stop=WhenAsked(request, GRACE_S),
        callbacks=[watch],
        trial_name_creator=lambda trial: trial.trial_id,
        trial_dirname_creator=lambda trial: trial.trial_id,
        verbose=0,
    )
    if searcher.is_exhausted:
        request.ask("every configuration of the space has been tried")


def _task_maker(
    settings: SearchSettings,
    space: SearchSpace,
    storage: RunStorage,
    runner: str,
    halving: Halving | None,
    say: Callable[[str], None],
) -> Callable[[Suggestion], dict[str, Any]]:
    """Return what turns a suggestion into the task of a worker: the trial's own needs, and where it may run."""
    stages, placement = halving.rungs if halving else (), Placement()
    if placement.is_on_head:
        say("the head is the only node: trials run on it, until a worker joins")

    def to_task(drawn: Suggestion) -> dict[str, Any]:
        own = with_needs(space, drawn.config, settings)
        share = placement.head_share(own.cpus_per_trial)
        return {**task(drawn, own, storage, runner, stages), "head_share": share}

    return to_task


def _budgets(settings: SearchSettings, ledger: Ledger, request: StopRequest, say: Callable[[str], None]) -> Budgets:
    """Return what watches over the spending of the whole search."""
    return Budgets(
        request,
        ledger,
        time_s=settings.time_budget_s,
        energy_j=settings.energy_budget_j,
        lets_finish=settings.at_budget == "finish",
        max_failures=settings.max_failures,
        n_trials=settings.trials,
        say=say,
    )


def _scheduler(
    ledger: Ledger, request: StopRequest, halving: Halving | None, searcher: "LedgerSearcher"
) -> "PlainScheduler":
    """Return what stops trials early: with halving it knows what earlier sessions saw at their rungs."""
    from hpsearch.halving import HalvingScheduler, PlainScheduler

    if halving is None:
        return PlainScheduler(request)
    rungs = Rungs(halving)
    for report in ledger.study.noted_rungs():
        rungs.record(*report)
    return HalvingScheduler(request, rungs, searcher)


def task(
    suggestion: Suggestion, settings: SearchSettings, storage: RunStorage, runner: str, rungs: Sequence[int] = ()
) -> dict[str, Any]:
    """Return what a worker needs to run one trial, as plain values."""
    return {
        "trial_id": suggestion.trial_id,
        "config": suggestion.config.to_dict(),
        "run": str(storage.local or storage),
        "rungs": list(rungs),
        "runner": runner,
        "repeats": settings.repeats,
        "cpus": settings.cpus_per_trial,
        "gpus": settings.gpus_per_trial,
        "device": "cuda" if settings.gpus_per_trial else "cpu",
        "data_dir": settings.data_dir,
        "timeout_s": settings.trial_timeout_s,
        "meter": settings.meter,
        "is_alone": settings.max_concurrent == 1,
    }


def _tune_path(storage: RunStorage) -> str:
    """Return where Tune puts its folder `ray/`: the run's own folder."""
    return str(storage.local or storage)
