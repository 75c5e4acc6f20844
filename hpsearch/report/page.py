"""The report as one HTML page that opens anywhere: no network, light and dark, keyboard and screen reader."""

import re
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from hpsearch import units
from hpsearch.energy.spent import JOULES_PER_KWH
from hpsearch.plain_json import finite
from hpsearch.report import charts, figures
from hpsearch.report.bundle import javascript_bundle
from hpsearch.report.cards import HEIGHT, WIDTH, make_cards
from hpsearch.report.control_view import control_lines
from hpsearch.report.front_view import Axis, FrontView, front_table, front_view
from hpsearch.report.history import HistoryView, history_view
from hpsearch.report.importance import ImportanceView, importance_view, is_logarithmic
from hpsearch.report.spending import spending_view
from hpsearch.search_run import SearchRun

MAX_SLICES = 12
MAX_CARDS = 100
"""Beyond these the page would be too long to be read; what is left out is said."""


def render_page(run: SearchRun, *, carbon_g_per_kwh: float | None = None, reload_s: int | None = None) -> str:
    """Render a run as HTML.

    Args:
        run: an opened run.
        carbon_g_per_kwh: grams of CO2 equivalent per kWh, for the emissions of the search.
        reload_s: let the page load itself again after so many seconds, while the search runs.
    """
    front, history = front_view(run), history_view(run)
    importance, spending = importance_view(run), spending_view(run, carbon_g_per_kwh)
    cards = make_cards(run)
    template = _environment().get_template("report.html.jinja")
    return template.render(
        run=run,
        reload_s=reload_s,
        made_at=datetime.now(tz=UTC),
        front=front,
        second=run.objectives[1],
        members=front_table(run, front.knee_id),
        controls=control_lines(run),
        history=history,
        hypervolume=history.progress[-1].hypervolume if history.progress else 0.0,
        importance=importance,
        spending=spending,
        cards=cards[:MAX_CARDS],
        n_cards_left_out=max(0, len(cards) - MAX_CARDS),
        slices=importance.parameters[:MAX_SLICES],
        card_size=(WIDTH, HEIGHT),
        data=_data(run, front, history, importance),
        bundle=Markup(javascript_bundle()),
        script=Markup(_source("report.js")),
        style=Markup(_source("report.css")),
    )


def render_summary(run: SearchRun) -> str:
    """Render a run as a short Markdown text, for a pull request."""
    front, history = front_view(run), history_view(run)
    template = _environment(is_html=False).get_template("report.md.jinja")
    return template.render(
        run=run,
        front=front,
        history=history,
        hypervolume=history.progress[-1].hypervolume if history.progress else 0.0,
        members=front_table(run, front.knee_id),
        controls=control_lines(run),
        spending=spending_view(run),
    )


def _environment(*, is_html: bool = True) -> Environment:
    environment = Environment(
        loader=PackageLoader("hpsearch.report"),
        autoescape=is_html,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "markdown": _as_markdown,
        "in_code": lambda value: " ".join(str(value).split()).replace("`", "'"),
        "energy": lambda value: units.show(value, units.ENERGY),
        "macs": lambda value: units.show(value, units.MACS),
        "percent": lambda value: units.show(value, units.ACCURACY),
        "duration": units.show_duration,
        "kwh": _kwh,
        "count": lambda value: "-" if value is None else f"{value:,.0f}",
    }
    return environment


def _as_markdown(text: str) -> str:
    """Write text on one line so that Markdown shows it as it is, with no picture, link, table or element in it."""
    return re.sub(r"([\\`*_~|\[\]<>&])", r"\\\1", " ".join(str(text).split()))


def _kwh(joules: float | None) -> str:
    """Write an energy as on a bill; what a bill does not know, in thousandths of a watt-hour."""
    if joules is None:
        return "-"
    kwh = joules / JOULES_PER_KWH
    return f"{kwh:.3g} kWh" if kwh >= 1e-3 or not kwh else f"{kwh * 1e6:.3g} mWh"


def _data(run: SearchRun, front: FrontView, history: HistoryView, importance: ImportanceView) -> dict[str, Any]:
    """Gather what the page's script reads: data once, pictures that refer to it by name."""
    rows = [*run.rows, *run.controls]
    params = {row["trial_id"]: row.get("params") or {} for row in rows}
    details = {row["trial_id"]: _details(row) for row in rows}
    points = figures.point_values(front)
    for point in points:
        point |= {"params": params[point["id"]], **details[point["id"]]}
    specs: dict[str, Any] = {"front": figures.front_spec(front)}
    datasets: dict[str, Any] = {"trials": points}
    if front.third_axis is not None:
        hover = figures.tooltip(front.axis, front.third_axis)
        specs["pair_accuracy"] = charts.pair_spec(front.third_axis, None, ("third", "accuracy"), hover)
        specs["pair_costs"] = charts.pair_spec(front.axis, front.third_axis, ("cost", "third"), hover)
        specs["parallel"] = charts.parallel_spec([objective.name for objective in run.objectives])
        datasets["parallel"] = _parallel(run)
    if len(history.progress) > 1:
        titles = {"trials": "trials", "epochs": "training epochs"}
        if history.progress[-1].energy_j > 0:
            titles["energy"] = "training energy"
        specs |= {f"history_{name}": charts.history_spec(name, title) for name, title in titles.items()}
        datasets["progress"] = [
            {"trials": step.n_trials, "epochs": step.n_epochs, "energy": step.energy_j, "hypervolume": step.hypervolume}
            for step in history.progress
        ]
    if history.busy:
        specs["busy"] = charts.busy_spec(history)
        datasets["busy"] = [{"seconds": step.seconds, "running": step.n_running} for step in history.busy]
    specs |= _importance_specs(run, front.axis, importance)
    datasets["importance"] = [asdict(item) for item in importance.importances]
    data: dict[str, Any] = finite(
        {
            "specs": specs,
            "datasets": datasets,
            "run": run.storage.location,
            "axis": {"name": front.axis.name, "unit": front.axis.unit, "isLog": front.axis.is_logarithmic},
        }
    )
    return data


def _importance_specs(run: SearchRun, axis: Axis, importance: ImportanceView) -> dict[str, Any]:
    if not importance.importances:
        return {}
    names = [objective.name for objective in run.objectives]
    specs = {"importance": charts.importance_spec(importance, names)}
    units_by_name = {objective.name: figures.UNIT_LABELS[objective.unit] for objective in run.objectives}
    for place, pair in enumerate(importance.interactions):
        specs[f"interaction_{place}"] = charts.interaction_spec(pair, units_by_name[pair.objective])
    for place, name in enumerate(importance.parameters[:MAX_SLICES]):
        values = [(row.get("params") or {}).get(name) for row in run.compared.candidates]
        known = [value for value in values if value is not None]
        is_numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in known)
        is_log = is_numeric and is_logarithmic(known)
        specs[f"slice_{place}"] = charts.slice_spec(name, is_numeric=is_numeric, is_logarithmic=is_log, axis=axis)
    return specs


def _details(row: dict[str, Any]) -> dict[str, Any]:
    """What the page shows of a trial without a card of its own."""
    details = {
        "test": units.show(row.get("test_accuracy"), units.ACCURACY),
        "macs": units.show(row.get("macs"), units.MACS),
        "epochs": row.get("epochs"),
        "error": row.get("error"),
    }
    return {name: value for name, value in details.items() if value not in (None, "-")}


def _parallel(run: SearchRun) -> list[dict[str, Any]]:
    members, values = run.compared.members, []
    for objective in run.objectives:
        costs = [objective.cost(row) for row in members]
        low, span = min(costs, default=0.0), (max(costs, default=0.0) - min(costs, default=0.0)) or 1.0
        for rank, (row, cost) in enumerate(zip(members, costs, strict=True)):
            quantity = units.ACCURACY if objective.is_maximised else units.QUANTITIES[objective.unit]
            shown = units.show(row[objective.column], quantity)
            place = {"id": row["trial_id"], "axis": objective.name, "place": 1 - (cost - low) / span}
            values.append({**place, "rank": rank, "shown": shown})
    return values


def _source(name: str) -> str:
    from importlib.resources import files

    return (files("hpsearch.report") / "templates" / name).read_text(encoding="utf-8")
