"""`hpsearch report`: write a run's page, pictures and tables, once or again and again while the search runs."""

import platform
import time

import click

from hpsearch.archive import finished_ids
from hpsearch.lock import is_left
from hpsearch.repeated import is_first
from hpsearch.search_run import EnergyKind, SearchRun, open_run


@click.command("report")
@click.argument("run")
@click.option("--output", metavar="DIR", help="Folder or s3://... for the files; the run's own by default.")
@click.option(
    "--energy",
    type=click.Choice(["recorded", "measured"]),
    default="recorded",
    show_default=True,
    help="Joules as the trials wrote them, or as `hpsearch measure` found them.",
)
@click.option("--carbon-intensity", type=float, help="Grams of CO2e per kWh of your electricity, for the emissions.")
@click.option(
    "--watch", is_flag=True, help="Write it again whenever trials finish, until the search is done or Ctrl-C."
)
@click.option(
    "--every", type=click.IntRange(1), default=10, show_default=True, help="Seconds between looks of --watch."
)
def command(
    run: str, output: str | None, energy: EnergyKind, carbon_intensity: float | None, watch: bool, every: int
) -> None:
    """Write report.html, report.md, pareto.png, pareto.svg, front.csv, front.parquet and front.json for RUN."""
    from hpsearch.report import write_report

    opened = open_run(run, energy)
    for text in opened.left_out:
        click.echo(text, err=True)
    if not watch:
        for path in write_report(opened, output, carbon_g_per_kwh=carbon_intensity):
            click.echo(f"wrote {path}")
        return
    _watch(run, output, energy, carbon_intensity, every)


def _watch(run: str, output: str | None, energy: EnergyKind, carbon_intensity: float | None, every: int) -> None:
    """Write the report whenever the number of finished trials has changed."""
    from hpsearch.report import write_report

    seen = 0
    try:
        while True:
            opened = open_run(run, energy)
            is_over = _is_over(opened)  # asked before the rows are looked at: then all of them are there
            n_rows = len(finished_ids(opened.storage))
            if n_rows and (n_rows != seen or is_over):
                # seeds of one configuration are one trial
                n_finished = sum(is_first(row) for row in opened.rows)
                is_over = is_over or n_finished >= int(opened.settings.get("trials") or 0)
                page, *_ = write_report(
                    opened, output, carbon_g_per_kwh=carbon_intensity, reload_s=None if is_over else every
                )
                click.echo(f"{n_finished} trials: wrote {page}")
                seen = n_rows
            if is_over:
                if not n_rows:
                    click.echo("the search has ended without a finished trial", err=True)
                return
            time.sleep(every)
    except KeyboardInterrupt:
        opened = open_run(run, energy)
        if opened.trials.num_rows:
            write_report(opened, output, carbon_g_per_kwh=carbon_intensity)
        click.echo("stopped watching; the last report is in place")


def _is_over(opened: SearchRun) -> bool:
    """Say whether the search is known to have ended, however: its lock tells, on its own machine."""
    sessions = opened.facts.get("sessions") or [{}]
    return sessions[-1].get("host") == platform.node() and is_left(opened.storage)
