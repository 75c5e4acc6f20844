"""`hpsearch compare`: fronts of several runs in one table and one picture."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from greenprune_core.errors import ConfigError
from greenprune_core.home import expand
from hpsearch.comparison import Comparison, compare
from hpsearch.outside import is_address, put_at
from hpsearch.plain_json import to_json
from hpsearch.search_run import open_run
from hpsearch.units import ACCURACY, ENERGY, QUANTITIES, show

NAMES = ("compare.png", "compare.svg")


@click.command("compare")
@click.argument("runs", nargs=-1, required=True)
@click.option("--output", metavar="DIR", help="Folder or s3://... for compare.png and compare.svg.")
@click.option("--force", is_flag=True, help="Let --output replace pictures.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; numbers in base units.")
def command(runs: tuple[str, ...], output: str | None, force: bool, as_json: bool) -> None:
    """Compare the fronts of RUNS: hypervolume with a common reference, and who dominates where."""
    if force and output is None:
        raise ConfigError("--force belongs to --output, but got no --output; add --output DIR")
    opened = [open_run(run) for run in runs]
    for one in opened:
        for text in one.left_out:
            click.echo(f"{one.name}: {text}", err=True)
    found = compare(opened)
    if as_json:
        click.echo(to_json(_plain(found)))
    else:
        click.echo(describe(found))
    if output is not None:
        for path in _write_pictures(found, output, force):
            click.echo(f"wrote {path}", err=as_json)


def describe(found: Comparison) -> str:
    """Say in lines of text how the runs compare."""
    second = found.objectives[1]
    quantity = QUANTITIES[second.unit]
    width = max(12, *(len(line.name) for line in found.runs)) + 2
    lines = [
        f"{'run':<{width}}{'trials':>7}{'front':>7}{'hypervolume':>13}{'joint front':>13}{'best accuracy':>15}"
        f"{'least ' + second.name:>18}{'spent':>10}"
    ]
    for run in found.runs:
        lines.append(
            f"{run.name:<{width}}{run.n_trials:>7}{run.n_front:>7}{run.hypervolume:>13.4f}{run.n_of_joint_front:>13}"
            f"{show(run.best_accuracy, ACCURACY):>15}{show(run.least_cost, quantity):>18}"
            f"{show(run.energy_spent_j, ENERGY):>10}"
        )
    source = f", {second.name} by {found.source}" if found.source else ""
    corner = ", ".join(f"{value:.4g}" for value in found.reference)
    lines += ["", f"hypervolume up to the common corner ({corner}), as a share of the box{source}", ""]
    head = "".join(f"{run.name:>{width}}" for run in found.runs)
    lines.append(f"{'best accuracy at a cost up to':<31}{head}  leader")
    for band in found.bands:
        cells = "".join(f"{show(value, ACCURACY):>{width}}" for value in band.accuracies)
        leader = found.runs[band.leader].name if band.leader is not None else "-"
        lines.append(f"{show(band.high, quantity):<31}{cells}  {leader}")
    return "\n".join(lines)


def _plain(found: Comparison) -> dict[str, Any]:
    return {
        "objectives": [objective.name for objective in found.objectives],
        "reference": found.reference,
        "energy_source": found.fronts[0].sources.get("energy"),
        "sources": dict(found.fronts[0].sources),
        "runs": [asdict(run) for run in found.runs],
        "bands": [asdict(band) for band in found.bands],
    }


def _write_pictures(found: Comparison, target: str, force: bool) -> Sequence[str | Path]:
    from greenprune_core.artefact import write_aside, writing_into

    if is_address(target):
        return put_at(target, dict(zip(NAMES, _draw(found), strict=True)), option="--output", force=force)
    output = expand(target)
    paths = [output / name for name in NAMES]
    with writing_into(output):
        in_the_way = [path for path in paths if path.exists()]
    if in_the_way and not force:
        raise ConfigError(
            f"--output overwrites nothing, but {in_the_way[0]} exists; choose another folder or add --force"
        )
    pictures = _draw(found)
    with writing_into(output):
        output.mkdir(parents=True, exist_ok=True)
        for path, content in zip(paths, pictures, strict=True):
            write_aside(path, content)
    return paths


def _draw(found: Comparison) -> tuple[bytes, bytes]:
    """Return the picture as PNG and as SVG."""
    import vl_convert

    from hpsearch.report.figures import comparison_spec

    svg: str = vl_convert.vegalite_to_svg(comparison_spec(found))
    return bytes(vl_convert.svg_to_png(svg, scale=2.0)), svg.encode()
