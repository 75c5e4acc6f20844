"""From settings to a finished search, as a person runs it: space, search, front, report, exit code."""

import logging
import os
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from greenprune_core.cost.profile import DeviceProfile, load_profile
from greenprune_core.errors import ConfigError, GreenpruneError
from hpsearch.energy.training_energy import try_meter
from hpsearch.progress import Progress
from hpsearch.settings import RUNNER, SearchSettings
from hpsearch.study.draws import first_profile
from hpsearch.units import ENERGY, MACS, TIME, show, show_duration
from search_spaces import SearchSpace, check_first_points, draws, load_space, pin

if TYPE_CHECKING:
    from hpsearch.study.ledger import Ledger

logger = logging.getLogger(__name__)


def resolve_space(settings: SearchSettings, *, is_smoke_test: bool = False) -> SearchSpace:
    """Load the space and fix in it what `--set` and `--profile` say; a smoke test tries its first first points only.

    Raises:
        ConfigError: no such space, key, value or profile, or a first point outside the space.
    """
    space = load_space(settings.space)
    draws(space)  # what is wrong in it is named here, before anything is started
    profile = settings.pinned.get("budget.profile", settings.pinned.get("profile"))
    if profile is not None:
        load_profile(profile)  # a wrong one is refused here, not in every trial
    pinned = pin(space, settings.pinned) if settings.pinned else space
    check_first_points(pinned)
    check_profile(first_profile(pinned), settings)
    return replace(pinned, first_points=pinned.first_points[: settings.trials]) if is_smoke_test else pinned


def check_profile(profile: DeviceProfile, settings: SearchSettings) -> None:
    """Refuse a profile that does not know what the search is to make better.

    Raises:
        ConfigError: no timings for --objective latency, no joules where energies of inference are compared or limited.
    """
    if settings.objective == "latency" and 1 not in profile.batch_sizes:
        raise ConfigError(
            f"--objective latency needs a profile with timings at batch size 1, but {profile.name!r} has none; "
            "make one with hpsearch calibrate and give it as --profile, or take a shipped one (hpsearch doctor)"
        )
    if (settings.objective == "energy" or settings.max_energy) and not profile.has_joules:
        raise ConfigError(
            f"a search that compares energies needs a profile with joules, but {profile.name!r} knows time only; "
            "calibrate with a meter or --power-w, or choose --objective latency, macs or params"
        )


def run(settings: SearchSettings, console: Console, runner: str, *, is_smoke_test: bool = False) -> int:
    """Search, then show the front and where the report is; return the exit code."""
    from hpsearch.storage import FIRST_PATIENCE_S, RunStorage
    from hpsearch.study.opening import check_run
    from hpsearch.tuner import search

    space = resolve_space(settings, is_smoke_test=is_smoke_test)
    check_run(RunStorage.open(settings.run, FIRST_PATIENCE_S), settings)
    if settings.address in (None, "local") and "RAY_ADDRESS" not in os.environ:
        try_meter(settings.meter, gpus=settings.gpus_per_trial)
    if runner == RUNNER:
        from hpsearch.estimate import check_data, check_latency

        check_data(space, settings)
        if settings.objective == "latency":
            check_latency(space, settings)
    with Progress(settings.trials, console) as progress:
        outcome = search(settings, space, say=console.print, progress=progress, runner=runner)
    ending = f" ({outcome.reason})" if outcome.reason else ""
    n_finished = outcome.ledger.n_finished
    console.print(f"{n_finished} trials in {show_duration(outcome.seconds)}{ending}", highlight=False)
    if outcome.ledger.counts["complete"]:
        show_result(settings, console)
    if outcome.error is not None:
        raise outcome.error
    tell_failures(outcome.ledger, console)
    if outcome.ledger.feasibility.is_unmet:
        raise ConfigError(
            f"{outcome.ledger.feasibility.describe()}; loosen them, or go on with --resume and more --trials"
        )
    return 0


def tell_failures(ledger: "Ledger", console: Console) -> None:
    """Say how many trials failed and why most did.

    Raises:
        TooManyFailuresError: no trial came to a result.
    """
    from hpsearch.stopping import TooManyFailuresError, commonest

    n_failed = ledger.counts["failed"]
    if not n_failed:
        return
    told = f"{n_failed} of {ledger.n_finished} trials failed; {commonest(ledger.reasons)}"
    if not ledger.counts["complete"]:
        raise TooManyFailuresError(
            f"a search needs a trial that completes, but {told}; mend that, then --resume with more --trials"
        )
    console.print(told, highlight=False, soft_wrap=True)


def show_result(settings: SearchSettings, console: Console) -> None:
    """Print the front, write the report and say where it is."""
    from hpsearch.report import write_report
    from hpsearch.search_run import open_run
    from hpsearch.standing import show_front

    opened = open_run(settings.run)
    show_front(console, opened)
    write_report(opened)
    console.print(f"report: {settings.run}/report.html", highlight=False, soft_wrap=True)


def dry(settings: SearchSettings, console: Console, *, is_smoke_test: bool = False) -> int:
    """Show the space and the estimated cost; start and write nothing.

    Raises:
        ConfigError: the search itself would refuse these settings.
    """
    from hpsearch.estimate import check_latency, estimate_trial
    from hpsearch.storage import RunStorage
    from hpsearch.study.opening import check_run, read_warm_start
    from hpsearch.tuner import plan_halving

    space = resolve_space(settings, is_smoke_test=is_smoke_test)
    if "://" not in settings.storage_path:  # an object store may take its time, or not be reached from here
        check_run(RunStorage.open(settings.run), settings)
    plan_halving(settings, space)
    read_warm_start(settings, space)
    show_space(console, space)
    latency_s = check_latency(space, settings) if settings.objective == "latency" else None
    try:
        cost = estimate_trial(space, settings)
    except (GreenpruneError, RuntimeError, MemoryError) as error:  # torch's own where a network is too large to build
        console.print(f"cost: not known: {error}", highlight=False, soft_wrap=True)
        return 0
    n_trainings = settings.trials * settings.repeats
    time = "" if latency_s is None else f", {show(latency_s, TIME)}"
    seeds = f" with {settings.repeats} seeds" if settings.repeats > 1 else ""
    console.print(
        f"cost: at most {settings.trials} trials{seeds} of {cost.epochs} epochs on {cost.n_train} images, each up to "
        f"{show(cost.train_macs, MACS)} MACs and {show(cost.train_energy_j, ENERGY)} of training "
        f"({cost.energy_source}), together {show(n_trainings * cost.train_energy_j, ENERGY)}; the dense network "
        f"takes {show(cost.dense_macs, MACS)} MACs{time} and {show(cost.dense_energy_j, ENERGY)} an inference",
        highlight=False,
        soft_wrap=True,
    )
    return 0


def show_space(console: Console, space: SearchSpace) -> None:
    """Print a space: what is drawn and why, what is fixed."""
    console.print(f"space {space.name}: {space.description}", highlight=False, soft_wrap=True)
    table = Table("parameter", "drawn from", "role", box=None, padding=(0, 2), header_style="bold")
    for name, draw in draws(space).items():
        role = "scientific" if name in space.scientific else "nuisance" if name in space.nuisance else ""
        table.add_row(name, str(draw), role)
    for name, value in space.fixed.items():
        table.add_row(name, value, "fixed")
    console.print(table)
    console.print(f"{len(space.first_points)} points are tried first", highlight=False)
