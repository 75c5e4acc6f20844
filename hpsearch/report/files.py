"""The files of a report: the page, pictures, the front as a table, and a summary in Markdown."""

import csv
import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from greenprune_core.errors import ConfigError
from hpsearch.plain_json import to_json
from hpsearch.report.figures import front_spec
from hpsearch.report.front_view import front_view
from hpsearch.report.page import render_page, render_summary
from hpsearch.search_run import SearchRun
from hpsearch.storage import RunStorage

PNG_SCALE = 2.0
STRUCTURED = ("config", "history", "gate_histogram", "kept_channels", "phase_cost", "repeats", "details")
"""Columns that are no figures of one cell: in front.json and front.parquet, not in front.csv."""


def write_report(
    run: SearchRun,
    output: str | Path | None = None,
    *,
    carbon_g_per_kwh: float | None = None,
    reload_s: int | None = None,
) -> list[str]:
    """Write all files of the report, each aside and then renamed.

    Args:
        run: an opened run.
        output: folder for the files; the run's own folder if not given.
        carbon_g_per_kwh: grams of CO2 equivalent per kWh, for the emissions of the search.
        reload_s: let the page load itself again after so many seconds, while the search runs.

    Returns:
        The places of the written files, the page first.

    Raises:
        ConfigError: the run has no finished trial, or the place cannot be written to.
    """
    if run.trials.num_rows == 0:
        raise ConfigError(
            f"a report needs at least one finished trial, but {run.storage} has none; "
            "wait for one, or see `hpsearch status`"
        )
    target = run.storage if output is None else RunStorage.open(output)
    png, svg = draw_pictures(run)
    contents = {
        "report.html": render_page(run, carbon_g_per_kwh=carbon_g_per_kwh, reload_s=reload_s).encode(),
        "report.md": render_summary(run).encode(),
        "pareto.png": png,
        "pareto.svg": svg,
        "front.csv": front_csv(run.front),
        "front.parquet": _parquet(run.front),
        "front.json": to_json(run.compared.members).encode(),
    }
    for name, content in contents.items():
        target.write_bytes(name, content)
    return [f"{target.location}/{name}" for name in contents]


def draw_pictures(run: SearchRun) -> tuple[bytes, bytes]:
    """Return the front as PNG and as SVG."""
    import vl_convert

    spec = front_spec(front_view(run), is_live=False)
    svg: str = vl_convert.vegalite_to_svg(spec)
    return bytes(vl_convert.svg_to_png(svg, scale=PNG_SCALE)), svg.encode()


def front_csv(front: pa.Table) -> bytes:
    """Return the front as CSV, with the unit in the head of each column that has one: `energy_j [J]`."""
    columns = [name for name in front.column_names if name not in STRUCTURED]
    heads = []
    for name in columns:
        unit = (front.schema.field(name).metadata or {}).get(b"unit", b"").decode()
        heads.append(f"{name} [{unit}]" if unit not in ("", "1", "json", "UTC") else name)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(heads)
    for row in front.select(columns).to_pylist():
        writer.writerow([_cell(value) for value in row.values()])
    return text.getvalue().encode()


def _cell(value: Any) -> Any:
    """Write a value for a spreadsheet; a text that it would take for a formula stays a text."""
    if isinstance(value, str):
        return f"'{value}" if value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
    return value.isoformat() if hasattr(value, "isoformat") else value


def _parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()
