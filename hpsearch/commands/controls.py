"""`hpsearch controls`: train what the front has to beat, the dense network and uniformly narrower ones."""

from collections.abc import Sequence

import click
from rich.console import Console
from rich.table import Table

from greenprune_core.errors import ConfigError
from hpsearch.report.control_view import ControlLine, control_lines
from hpsearch.search_run import open_run


@click.command("controls")
@click.argument("run")
@click.option(
    "--uniform",
    type=click.IntRange(0),
    metavar="N",
    help="Narrower networks, at N members spread evenly over the front; default at all of them.",
)
@click.option(
    "--seeds", type=click.IntRange(1), default=1, show_default=True, metavar="N", help="How often each is trained."
)
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N.")
@click.option("--threads", type=click.IntRange(1), help="Threads of the arithmetic; default those of the search.")
@click.option("--data-dir", help="Folder with data sets; default that of the search.")
def command(run: str, uniform: int | None, seeds: int, device: str, threads: int | None, data_dir: str | None) -> None:
    """Train the dense network of RUN and uniformly narrower ones at the costs of its front.

    With the recipes of the front's members and as many epochs, here and one after the other. The rows go into
    controls/ of RUN: the report shows them, and no search, front or pick ever sees them. What has a row is not trained
    again.
    """
    opened = open_run(run)
    # torch is loaded only once the run is known to have a front
    if not opened.compared.members:
        raise ConfigError(f"controls are trained at the costs of a front, but {run} has none; let a trial finish first")
    import torch

    from hpsearch.commands.measure import check_device
    from hpsearch.controls import Place, plan_controls, train_controls

    check_device(device)
    torch.set_num_threads(threads or max(1, int(opened.settings.get("cpus_per_trial") or 1)))
    console = Console(soft_wrap=True, markup=False)
    place = Place(device, data_dir or opened.settings.get("data_dir"))
    controls = plan_controls(opened, place, n_uniform=uniform, n_seeds=seeds)
    for _ in train_controls(opened, controls, place, lambda text: console.print(text, highlight=False)):
        pass
    # a pipe has 80 columns for rich, and a cell broken over three lines cannot be read
    wide = Console(file=console.file, width=max(console.width, 150), force_terminal=console.is_terminal, markup=False)
    wide.print(_table(control_lines(open_run(run)), opened.objectives[1].name), soft_wrap=True)
    console.print(f"wrote {opened.storage}/controls; `hpsearch report {run}` shows them", highlight=False)


def _table(lines: Sequence[ControlLine], cost: str) -> Table:
    heads = ("control", "accuracy", "95 %", "test", cost, "the front for no more", "validation", "test")
    table = Table(*heads, box=None, padding=(0, 2), header_style="bold")
    for line in lines:
        against = (line.rival or "-", line.difference, line.test_difference)
        table.add_row(line.label, line.accuracy, line.interval, line.test_accuracy, line.cost, *against)
    return table
