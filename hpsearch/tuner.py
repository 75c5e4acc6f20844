"""The search on Ray: settings in, a finished run folder out.

Everything that must survive lies in the run folder (settings, journal, rows, checkpoints); Ray only runs the trials.
"""

import dataclasses
import datetime
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from greenprune_core.errors import ConfigError, GreenpruneError
from hpsearch import archive, objectives, provenance
from hpsearch.cluster import Placement, await_worker, connect, count_slots, keep_credentials_out_of_logs
from hpsearch.draws import draw_distributions, first_config
from hpsearch.feasibility import Constraints
from hpsearch.journal import JOURNAL, DriverJournal, DriverLock, study_name
from hpsearch.ledger import Ledger, by_configuration
from hpsearch.needs import with_needs
from hpsearch.nodes import check_nodes
from hpsearch.progress import Progress
from hpsearch.rungs import Halving, Rungs, usual_grace
from hpsearch.search_run import open_run
from hpsearch.settings import RUNNER, SearchSettings
from hpsearch.stopping import Budgets, Interrupts, StopRequest
from hpsearch.storage import RunStorage
from hpsearch.study import SearchStudy, Suggestion
from search_spaces import SearchSpace

if TYPE_CHECKING:
    from hpsearch.halving import PlainScheduler
    from hpsearch.searcher import LedgerSearcher

logger = logging.getLogger(__name__)

SETTINGS = "settings.json"
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


def check_run(storage: RunStorage, settings: SearchSettings) -> None:
    """Refuse a name that is taken without --resume, and a resume that does not fit what is there.

    Raises:
        ConfigError: see above.
    """
    if not storage.exists(SETTINGS):
        if settings.resume:
            raise ConfigError(
                f"--resume goes on with an existing run, but {storage} is none; leave out --resume to begin it"
            )
        return
    if not settings.resume:
        raise ConfigError(
            f"a new run needs a free name, but {storage} exists; add --resume to go on with it, or take another --name"
        )
    before = json.loads(storage.read_bytes(SETTINGS))
    if before["schema_version"] != archive.SCHEMA_VERSION:
        raise ConfigError(
            f"a run goes on with the same columns, version {archive.SCHEMA_VERSION}, but {storage} has version "
            f"{before['schema_version']}; begin a new run with --warm-start or install the version that made it"
        )
    _check_journal(storage, settings.name)
    for field in ("space", "objective", "third_objective"):
        old, new = before["settings"][field], getattr(settings, field)
        if old != new:
            raise ConfigError(
                f"a run keeps its {field.replace('_', '-')}, but {storage} was made with {old} and got {new}; "
                f"give --{field.replace('_', '-')} {old} or take another --name"
            )


def _check_journal(storage: RunStorage, name: str) -> None:
    """Refuse the journal of another study, before anything is started."""
    found = study_name(storage)
    if found is not None and found != name:
        raise ConfigError(
            f"a run's journal holds the study of its own name, {name!r}, but {storage}/{JOURNAL} holds {found!r}; "
            f"put that run's own journal back, or move the folder to {found}"
        )


def open_ledger(
    storage: RunStorage, settings: SearchSettings, space: SearchSpace, known: Sequence[dict[str, Any]] = ()
) -> tuple[Ledger, int]:
    """Make or reopen the books of a run; return them and how many cut-off trials are taken up again.

    `known` are trials of another run, which the sampler of a new one starts from.
    """
    chosen = objectives.choose(settings.objective, settings.third_objective)
    write_settings(storage, settings)
    study = SearchStudy(
        DriverJournal(storage),
        name=settings.name,
        space=space,
        objectives=chosen,
        sampler=settings.sampler,
        seed=settings.seed,
    )
    constraints = Constraints(max_energy_j=settings.max_energy_j, min_accuracy=settings.min_accuracy)
    ledger = Ledger(storage, study, chosen, constraints, provenance.version())
    if study.is_new:
        for rows in by_configuration(list(known)).values():
            ledger.learn(rows)
    return ledger, ledger.reconcile()


def read_warm_start(settings: SearchSettings, space: SearchSpace) -> list[dict[str, Any]]:
    """Return the complete trials of the run named by --warm-start.

    Raises:
        ConfigError: it is no run, has no complete trial, or drew other names than this space.
    """
    if settings.warm_start is None:
        return []
    rows = [row for row in open_run(settings.warm_start).rows if row["state"] == "complete"]
    if not rows:
        raise ConfigError(
            f"a warm start needs a run with complete trials, but {settings.warm_start} has none; leave out --warm-start"
        )
    for row in rows:
        draw_distributions(space, row["params"] or {}, settings.warm_start)
    return rows


def write_settings(storage: RunStorage, settings: SearchSettings) -> None:
    """Write settings.json: resolved settings, provenance, and the sessions that the run has had."""
    before = json.loads(storage.read_bytes(SETTINGS)) if storage.exists(SETTINGS) else {"sessions": []}
    session = {"started_at": datetime.datetime.now(tz=datetime.UTC).isoformat(), **provenance.describe()}
    content = {
        "schema_version": archive.SCHEMA_VERSION,
        "settings": dataclasses.asdict(settings),
        "sessions": [*before["sessions"], session],
    }
    storage.write_bytes(SETTINGS, json.dumps(content, indent=2).encode())


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

    from hpsearch.searcher import LedgerSearcher
    from hpsearch.watch import Watch, WhenAsked
    from hpsearch.worker import TrialWorker

    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    budgets = Budgets(
        request,
        ledger,
        time_s=settings.time_budget_s,
        energy_j=settings.energy_budget_j,
        lets_finish=settings.at_budget == "finish",
        max_failures=settings.max_failures,
        n_trials=settings.trials,
        say=say,
    )
    stages, placement = halving.rungs if halving else (), Placement()
    if placement.is_on_head:
        say("the head is the only node: trials run on it, until a worker joins")

    def to_task(drawn: Suggestion) -> dict[str, Any]:
        own = with_needs(space, drawn.config, settings)
        share = placement.head_share(own.cpus_per_trial)
        return {**task(drawn, own, ledger.storage, runner, stages), "head_share": share}

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
