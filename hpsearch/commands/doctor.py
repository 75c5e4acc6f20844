"""hpsearch doctor: what works here and what does not."""

from itertools import groupby
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hpsearch.doctor import Finding, examine, reachable_ports

MARKS = {"works": "[green]ok[/green]", "limited": "[yellow]limited[/yellow]", "missing": "[red]no[/red]"}


@click.command("doctor")
@click.option("--data-dir", type=click.Path(file_okay=False), help="Folder in which data sets are looked for.")
@click.option("--storage-path", default="./runs", show_default=True, help="Where runs would be kept.")
@click.option("--cluster", type=click.Path(path_type=Path), help="A Ray cluster file to check instead of this machine.")
@click.option("--head", metavar="HOST", help="A running head: try from outside whether its Ray ports can be reached.")
def command(data_dir: str | None, storage_path: str, cluster: Path | None, head: str | None) -> int:
    """Say what works here and what does not: versions, devices, meters, data sets.

    With --cluster, look at a cluster file: places left to edit, Ray's schema, known traps, cost of its nodes; the exit
    code is 1 while something stands in the way of `ray up`. With --head, try the ports of a running cluster's head from
    this machine; the exit code is 1 if one answers.
    """
    if cluster is None and head is None:
        show(examine(data_dir, storage_path))
        return 0
    findings = list(reachable_ports(head)) if head is not None else []
    if cluster is not None:
        from hpsearch.cluster.clusterfile import examine_cluster

        findings += examine_cluster(cluster)
    show(findings)
    return int(any(finding.state == "missing" for finding in findings))


def show(findings: list[Finding]) -> None:
    """Print findings as one table, grouped by topic."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for topic, group in groupby(findings, key=lambda finding: finding.topic):
        for index, finding in enumerate(group):
            table.add_row("" if index else topic, finding.name, MARKS[finding.state], escape(finding.detail))
    Console().print(table)
