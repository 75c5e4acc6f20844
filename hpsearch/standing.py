"""Where a run stands, finished or still going, read from journal and rows: no Ray, and nothing is written."""

from collections import Counter
from dataclasses import dataclass

from rich.console import Console
from rich.table import Column, Table

from hpsearch.energy.spent import energy_spent
from hpsearch.repeated import is_first
from hpsearch.report.front_view import front_table
from hpsearch.report.history import history_view, hypervolume_share
from hpsearch.search_run import SearchRun
from hpsearch.study.journal import JOURNAL, JournalReader
from hpsearch.units import ENERGY, show

STATES = ("complete", "stopped", "failed")


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Where a run stands."""

    n_asked: int
    """Finished trials that the run is to have."""
    states: dict[str, int]
    """State (complete, stopped, failed, running, waiting) -> trials.

    Running ones may have died with their driver; those that were cut off wait for --resume.
    """
    n_front: int
    hypervolume: float
    """Share of the box between no image right at the dense network's cost and a perfect free network."""
    busy_share: float | None
    """Share of the slots' time in which they ran a trial."""
    energy_j: float | None
    """Energy of all training; None while no trial reports any."""
    damaged: tuple[tuple[str, str], ...]
    """Parts of the archive that could not be read, with the reason."""


def read_standing(run: SearchRun) -> Standing:
    """Read where a run stands."""
    # seeds of one configuration are one trial
    rows = Counter(row["state"] for row in run.rows if is_first(row))
    told = {row["trial_id"] for row in run.rows}
    states = {state: rows[state] for state in STATES} | _unfinished(run, told)
    return Standing(
        n_asked=int(run.settings.get("trials") or len(run.rows)),
        states=states,
        n_front=len(run.compared.members),
        hypervolume=hypervolume_share(run),
        busy_share=history_view(run).busy_share,
        energy_j=energy_spent(run.rows).total_j,
        damaged=run.archive.damaged,
    )


def show_standing(console: Console, run: SearchRun, standing: Standing) -> None:
    """Print where a run stands, and its front."""
    n_finished = sum(standing.states[state] for state in STATES)
    states = ", ".join(f"{count} {state}" for state, count in standing.states.items() if count)
    busy = "-" if standing.busy_share is None else f"{standing.busy_share:.1%}"
    console.print(f"run {run.name}: {n_finished} of {standing.n_asked} trials finished ({states or 'none yet'})")
    console.print(
        f"front {standing.n_front}, hypervolume {standing.hypervolume:.4f}, slots busy {busy}, "
        f"energy of training {show(standing.energy_j, ENERGY)}"
    )
    for path, reason in standing.damaged:
        console.print(f"left out the damaged part {path}: {reason}")
    show_front(console, run)


def show_front(console: Console, run: SearchRun) -> None:
    """Print the front as a table, from the cheapest sub-network to the dearest."""
    if not run.compared.members:
        console.print("no trial is on the front yet")
        return
    lines = front_table(run, None)
    second = run.objectives[1].name
    # the id is what `hpsearch pick --trial` asks for: never shortened, however narrow the terminal is
    headings = (Column("trial", no_wrap=True, min_width=16), "accuracy", "95 %", "test", second, "MACs", "parameters")
    table = Table(*headings, box=None, padding=(0, 2), header_style="bold")
    for line in lines:
        table.add_row(
            line.trial_id, line.accuracy, line.interval, line.test_accuracy, line.cost, line.macs, line.params
        )
    # a pipe has 80 columns for rich, and a cell broken over three lines cannot be read
    wide = Console(file=console.file, width=max(console.width, 110), force_terminal=console.is_terminal)
    wide.print(table, soft_wrap=True)


def _unfinished(run: SearchRun, told: set[str]) -> dict[str, int]:
    """Count the trials of the journal that have no row yet."""
    if not run.storage.exists(JOURNAL):
        return {}
    import optuna
    from optuna.trial import TrialState

    from hpsearch.study.optuna_study import replay
    from hpsearch.study.search_study import HASH, INTERRUPTED

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = replay(JournalReader(run.storage))
    trials = {}
    for study in storage.get_all_studies():  # none where the search was killed in its first write
        for trial in storage.get_all_trials(study._study_id, deepcopy=False):
            # one that was cut off and queued again is there twice: the later says where it stands
            trials[trial.user_attrs.get(HASH, trial.number)] = trial
    left = [trial for key, trial in trials.items() if key not in told]
    is_waiting = [trial.state == TrialState.WAITING or INTERRUPTED in trial.user_attrs for trial in left]
    return {"running": sum(trial.state == TrialState.RUNNING for trial in left), "waiting": sum(is_waiting)}
