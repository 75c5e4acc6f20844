"""`hpsearch status`: where a run stands, also while it runs."""

import dataclasses
import json

import click
from rich.console import Console

from hpsearch.search_run import open_run
from hpsearch.standing import read_standing, show_standing


@click.command("status")
@click.argument("run")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; numbers in J and shares.")
def command(run: str, as_json: bool) -> int:
    """Show where RUN stands: trials by state, front, hypervolume, busy share, energy spent.

    RUN is <storage-path>/<name>. It may still be running; nothing is written.
    """
    opened = open_run(run)
    standing = read_standing(opened)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(standing), indent=2))
    else:
        show_standing(Console(soft_wrap=True, highlight=False), opened, standing)
    return 0
