"""`hpsearch status`: where a run stands, also while it runs."""

import dataclasses

import click
from rich.console import Console

from hpsearch.energy.spending_lines import show_spending
from hpsearch.plain_json import to_json
from hpsearch.report.spending import spending_view
from hpsearch.search_run import open_run
from hpsearch.standing import read_standing, show_standing


@click.command("status")
@click.argument("run")
@click.option("--carbon-intensity", type=float, help="Grams of CO2e per kWh of your electricity, for the emissions.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; numbers in J and shares.")
def command(run: str, carbon_intensity: float | None, as_json: bool) -> int:
    """Show where RUN stands: trials by state, front, hypervolume, busy share, energy spent and paid back.

    RUN is <storage-path>/<name>. It may still be running; nothing is written.
    """
    opened = open_run(run)
    spending = spending_view(opened, carbon_intensity)
    standing = read_standing(opened)
    if as_json:
        found = {**dataclasses.asdict(standing), "spending": dataclasses.asdict(spending)}
        click.echo(to_json(found))
    else:
        console = Console(soft_wrap=True, highlight=False, markup=False)
        show_standing(console, opened, standing)
        show_spending(console, spending)
    return 0
