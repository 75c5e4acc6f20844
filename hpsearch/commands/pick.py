"""`hpsearch pick`: from a budget to one sub-network, its margin and its neighbours, and the files to use it."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from greenprune_core.errors import ConfigError
from greenprune_core.export import export_subnetwork
from greenprune_core.home import expand
from hpsearch.front import accuracy_interval, interval_basis
from hpsearch.outside import is_address, put_at
from hpsearch.picker import NothingFitsError, Pick, Step, as_plain
from hpsearch.plain_json import to_json
from hpsearch.search_run import EnergyKind, SearchRun, open_run
from hpsearch.units import ACCURACY, ENERGY, MACS, TIME, show

EXIT_NOTHING_FITS = 3


@click.command("pick")
@click.argument("run")
@click.option("--max-energy", metavar="ENERGY", help="Ceiling of the energy of one inference, e.g. 1.5mJ, 300uJ.")
@click.option("--max-macs", metavar="COUNT", help="Ceiling of its multiply-accumulates, e.g. 20M.")
@click.option("--max-latency", metavar="TIME", help="Ceiling of its time, e.g. 2ms: measured, else modelled.")
@click.option("--min-accuracy", metavar="SHARE", help="Floor of the validation accuracy, e.g. 0.9 or 90%.")
@click.option("--knee", is_flag=True, help="Take the knee of the front.")
@click.option("--trial", metavar="ID", help="Take this trial.")
@click.option(
    "--energy",
    type=click.Choice(["recorded", "measured"]),
    default="recorded",
    show_default=True,
    help="Joules as the trials wrote them, or as `hpsearch measure` found them.",
)
@click.option("--export", "target", metavar="DIR", help="Write its files into this folder, or to s3://...")
@click.option(
    "--format",
    "formats",
    multiple=True,
    help="pt2, safetensors, onnx or card, repeatable; default pt2 and safetensors.",
)
@click.option("--force", is_flag=True, help="Let --export replace files.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; numbers in J, s and shares.")
def command(
    run: str,
    energy: EnergyKind,
    target: str | None,
    formats: tuple[str, ...],
    force: bool,
    as_json: bool,
    **criteria: Any,
) -> int:
    """Pick a sub-network of RUN for a budget; limits can be combined.

    With a ceiling the most accurate that keeps all limits, with --min-accuracy alone the cheapest. Exit code 3 if
    nothing fits.
    """
    if target is None and (formats or force):
        raise ConfigError("--format and --force belong to --export, but got no --export; add --export DIR")
    opened = open_run(run, energy)
    for text in opened.left_out:
        click.echo(text, err=True)
    try:
        picked = opened.pick(**criteria)
    except NothingFitsError as error:
        _say_nothing_fits(error, as_json)
        return EXIT_NOTHING_FITS
    written = _export(opened, picked, target, formats, force) if target is not None else []
    if as_json:
        click.echo(to_json({**as_plain(picked), "exported": [str(path) for path in written]}))
        return 0
    click.echo(describe_pick(picked))
    for path in written:
        click.echo(f"wrote {path}")
    return 0


def describe_pick(picked: Pick) -> str:
    """Say in lines of text which sub-network was picked, with its margin and its neighbours."""
    row = picked.row
    reason = {"budget": "the most accurate within", "accuracy": "the cheapest with", "knee": "the knee of the front"}
    why = reason.get(picked.way, "as asked")
    if picked.limits:
        why += " " + " and ".join(str(limit) for limit in picked.limits)
    lines = [f"picked {picked.trial_id}: {why}", ""]
    lines += [f"  {name:<22}{value}" for name, value in _figures(picked)]
    if not picked.is_on_front:
        lines.append(
            f"  not on the front: another trial is as good in accuracy and {picked.axis.name} and better in one"
        )
    neighbours = [("one step down", picked.cheaper), ("one step up", picked.dearer)]
    if any(step for _, step in neighbours):
        lines += ["", *_table(picked, row, neighbours)]
    return "\n".join(lines)


def _figures(picked: Pick) -> list[tuple[str, str]]:
    row = picked.row
    energy = f"{show(row['energy_j'], ENERGY)} per inference ({row['energy_source'] or 'source unknown'})"
    figures = [
        ("validation accuracy", _accuracy(row, "val")),
        ("test accuracy", _accuracy(row, "test")),
        ("energy", energy),
        ("MACs", _of_dense(row.get("macs"), row.get("dense_macs"))),
        ("parameters", _of_dense(row.get("params_kept"), row.get("dense_params"))),
    ]
    if row.get("latency_s") is not None:
        figures.append(("latency", f"{show(row['latency_s'], TIME)} (measured)"))
    if row.get("model_latency_s") is not None:
        source = row["model_latency_source"] or "source unknown"
        figures.append(("modelled latency", f"{show(row['model_latency_s'], TIME)} ({source})"))
    for limit in picked.limits:
        margin = limit.margin(row)
        word = "above the floor" if limit.is_floor else "under the budget"
        amount = f"{margin * 100:.2f} points" if limit.is_floor else show(margin, limit.axis.quantity)
        figures.append(("margin", f"{amount} ({margin / limit.value:.1%}) {word}"))
    return figures


def _accuracy(row: Any, split: str) -> str:
    interval = accuracy_interval(row, split)
    if interval is None:
        return show(row.get(f"{split}_accuracy"), ACCURACY)
    low, high = (f"{edge:.2%}" for edge in interval)
    return f"{show(row[f'{split}_accuracy'], ACCURACY)} (95 % interval {low} to {high}, {interval_basis(row, split)})"


def _of_dense(value: int | None, dense: int | None) -> str:
    share = f" ({value / dense:.1%} of the dense network)" if value is not None and dense else ""
    return show(value, MACS) + share


def _table(picked: Pick, row: Any, neighbours: Sequence[tuple[str, Step | None]]) -> list[str]:
    axis = picked.axis
    width = max(12, len(axis.name) + 2)
    lines = [f"  {'':<15}{'trial':<18}{'accuracy':>10}{axis.name:>{width}}  against the picked one"]
    for label, step in neighbours:
        if step is None:
            lines.append(f"  {label:<15}{'(the end of the front)'}")
            continue
        own = row[axis.column]
        share = f", {step.cost_change / own:+.1%} {axis.name}" if own else ""
        change = f"{step.accuracy_change * 100:+.2f} points{share}"
        noise = {True: "; within noise: the intervals overlap", False: "; beyond noise", None: ""}[step.is_within_noise]
        accuracy, cost = show(step.row["val_accuracy"], ACCURACY), show(step.row[axis.column], axis.quantity)
        lines.append(f"  {label:<15}{step.row['trial_id']:<18}{accuracy:>10}{cost:>{width}}  {change}{noise}")
    return lines


def _say_nothing_fits(error: NothingFitsError, as_json: bool) -> None:
    if not as_json:
        click.echo(f"hpsearch: {error}", err=True)
        return
    missed = {
        limit.axis.column: -limit.margin(error.nearest) for limit in error.limits if limit.margin(error.nearest) < 0
    }
    nearest = {name: error.nearest[name] for name in ("trial_id", "val_accuracy", "energy_j", "macs", "latency_s")}
    click.echo(to_json({"trial_id": None, "nearest": nearest, "missed_by": missed}))


def _export(
    opened: SearchRun, picked: Pick, target: str, formats: tuple[str, ...], force: bool
) -> Sequence[str | Path]:
    folder = f"subnetworks/{picked.trial_id}"
    if not opened.storage.exists(f"{folder}/card.json"):
        raise ConfigError(
            f"an export needs the saved sub-network, but {opened.storage}/{folder} holds none; "
            "pick another trial or run this one again"
        )
    chosen = formats or ("pt2", "safetensors")
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "run" if opened.storage.local is None else opened.storage.local / folder
        if opened.storage.local is None:
            opened.storage.get_folder(folder, source)
        if not is_address(target):
            return export_subnetwork(source, expand(target), chosen, force=force)
        files = export_subnetwork(source, Path(scratch) / "export", chosen)
        contents = {file.name: file.read_bytes() for file in files}
        return put_at(target, contents, option="--export", force=force)
