"""From settings to a finished search, as a person runs it: space, search, front, report, exit code."""

from rich.console import Console
from rich.table import Table

from hpsearch.progress import Progress, format_duration
from hpsearch.settings import SearchSettings
from search_spaces import SearchSpace, draws, load_space, pin


def resolve_space(settings: SearchSettings) -> SearchSpace:
    """Load the space and fix in it what `--set` and `--profile` say.

    Raises:
        ConfigError: no such space, key or value.
    """
    space = load_space(settings.space)
    return pin(space, settings.pinned) if settings.pinned else space


def dry(settings: SearchSettings, console: Console) -> int:
    """Show the space and the estimated cost; start and write nothing."""
    show_space(console, resolve_space(settings))
    return 0


def run(settings: SearchSettings, console: Console, runner: str) -> int:
    """Search, then show the front and where the report is; return the exit code."""
    from hpsearch.tuner import search

    space = resolve_space(settings)
    with Progress(settings.trials, console) as progress:
        outcome = search(settings, space, say=console.print, progress=progress, runner=runner)
    ledger = outcome.ledger
    ending = f" ({outcome.reason})" if outcome.reason else ""
    console.print(f"{ledger.n_finished} trials in {format_duration(outcome.seconds)}{ending}", highlight=False)
    if outcome.error is not None:
        raise outcome.error
    return 0


def show_space(console: Console, space: SearchSpace) -> None:
    """Print a space: what is drawn and why, what is fixed."""
    console.print(f"space {space.name}: {space.description}", highlight=False)
    table = Table("parameter", "drawn from", "role", box=None, padding=(0, 2), header_style="bold")
    for name, draw in draws(space).items():
        role = "scientific" if name in space.scientific else "nuisance" if name in space.nuisance else ""
        table.add_row(name, str(draw), role)
    for name, value in space.fixed.items():
        table.add_row(name, value, "fixed")
    console.print(table)
