"""The further pictures of a report as Vega-Lite specifications: three objectives, history, importance."""

from collections.abc import Sequence

from hpsearch.report.figures import (
    ACCENT,
    FAINT,
    SCHEMA,
    SERIES_COLOURS,
    Spec,
    cost_encoding,
    plain_accuracy_encoding,
    points_layer,
    si_axis,
)
from hpsearch.report.front_view import Axis
from hpsearch.report.history import HistoryView
from hpsearch.report.importance import ImportanceView, Interaction

PALE, BEST = "#eef6f5", "#5cb8b2"
"""Ends of a colour scale on which dark text reads well, from poor to good."""


def pair_spec(first: Axis, second: Axis | None, fields: tuple[str, str], hover: Sequence[Spec]) -> Spec:
    """Two objectives of three against each other; `hover` is what a point says."""
    y = cost_encoding(second, fields[1]) if second else plain_accuracy_encoding()
    x = cost_encoding(first, fields[0])
    styles = {"trial": {"opacity": 0.35, "size": 26, "color": FAINT}, "front": {"size": 70, "color": ACCENT}}
    return {
        "$schema": SCHEMA,
        "width": "container",
        "height": 280,
        "data": {"name": "trials"},
        "layer": [points_layer(kind, x, y, style, hover) for kind, style in styles.items()],
    }


def parallel_spec(axes: Sequence[str]) -> Spec:
    """All objectives side by side, each scaled to its own range, best at the top; one line per member of the front."""
    return {
        "$schema": SCHEMA,
        "description": "Parallel coordinates of the front's objectives",
        "width": "container",
        "height": 280,
        "data": {"name": "parallel"},
        "mark": {"type": "line", "strokeWidth": 1.5, "opacity": 0.7, "tooltip": True, "point": True},
        "encoding": {
            "x": {"field": "axis", "type": "nominal", "sort": list(axes), "title": None, "axis": {"labelAngle": 0}},
            "y": {
                "field": "place",
                "type": "quantitative",
                "title": "worst to best of the front",
                "axis": {"format": "%"},
            },
            "detail": {"field": "id"},
            "color": {"field": "rank", "type": "quantitative", "scale": {"scheme": "viridis"}, "legend": None},
            "tooltip": [{"field": "id", "title": "trial"}, {"field": "axis"}, {"field": "shown", "title": "value"}],
        },
    }


def history_spec(field: str, title: str) -> Spec:
    """Hypervolume against trials, epochs or joules."""
    unit = "J" if field == "energy" else ""
    return {
        "$schema": SCHEMA,
        "description": f"Hypervolume against {title}",
        "width": "container",
        "height": 200,
        "data": {"name": "progress"},
        "mark": {"type": "line", "interpolate": "step-after", "color": ACCENT, "strokeWidth": 2, "tooltip": True},
        "encoding": {
            "x": {"field": field, "type": "quantitative", "title": title, "axis": si_axis(unit)},
            "y": {"field": "hypervolume", "type": "quantitative", "title": "hypervolume", "scale": {"zero": False}},
        },
    }


def busy_spec(view: HistoryView) -> Spec:
    """How many trials ran at each moment."""
    return {
        "$schema": SCHEMA,
        "description": "Trials running over time",
        "width": "container",
        "height": 200,
        "data": {"name": "busy"},
        "mark": {
            "type": "area",
            "interpolate": "step-after",
            "color": ACCENT,
            "opacity": 0.4,
            "line": {"color": ACCENT},
        },
        "encoding": {
            "x": {"field": "seconds", "type": "quantitative", "title": "seconds since the first trial"},
            "y": {
                "field": "running",
                "type": "quantitative",
                "title": "trials running",
                "scale": {"domain": [0, max(1, view.n_slots)]},
                "axis": {"tickCount": min(6, max(1, view.n_slots)), "format": "d"},
            },
        },
    }


def importance_spec(view: ImportanceView, objectives: Sequence[str]) -> Spec:
    """Bars of importance, one group per parameter, one colour per objective."""
    colours = {"domain": list(objectives), "range": list(SERIES_COLOURS[: len(objectives)])}
    return {
        "$schema": SCHEMA,
        "description": "Importance of each searched parameter for each objective (PED-ANOVA)",
        "width": "container",
        "height": 13 * len(view.parameters) * len(objectives),
        "data": {"name": "importance"},
        "mark": {"type": "bar", "tooltip": True, "cornerRadiusEnd": 2},
        "encoding": {
            "y": {"field": "parameter", "type": "nominal", "sort": list(view.parameters), "title": None},
            "yOffset": {"field": "objective", "sort": list(objectives)},
            "x": {"field": "share", "type": "quantitative", "title": "share of importance", "axis": {"format": "%"}},
            "color": {
                "field": "objective",
                "type": "nominal",
                "scale": colours,
                "legend": {"orient": "top", "title": None},
            },
        },
    }


def slice_spec(parameter: str, *, is_numeric: bool, is_logarithmic: bool, axis: Axis) -> Spec:
    """Validation accuracy over the draws of one parameter, coloured by the second objective: teal is cheap."""
    field = f"params['{parameter}']" if _is_plain(parameter) else f"params[{parameter!r}]"
    x: Spec = {"field": field, "type": "quantitative" if is_numeric else "nominal", "title": parameter}
    if is_numeric:
        x["scale"] = {"type": "log"} if is_logarithmic else {"zero": False}
        x["axis"] = {"tickCount": 4, "labelExpr": "format(datum.value, '.3~g')", "grid": not is_logarithmic}
    else:
        x["axis"] = {"labelAngle": 0, "labelLimit": 80}
    colour = {
        "field": "cost",
        "type": "quantitative",
        "title": axis.name,
        "scale": {
            "type": "log" if axis.is_logarithmic else "linear",
            "range": [ACCENT, SERIES_COLOURS[1]],
            "interpolate": "lab",
        },
        "legend": None,
    }
    return {
        "$schema": SCHEMA,
        "description": f"Validation accuracy over {parameter}",
        "width": "container",
        "height": 150,
        "data": {"name": "trials"},
        "transform": [{"filter": f"(datum.kind == 'trial' || datum.kind == 'front') && isValid(datum.{field})"}],
        "mark": {"type": "point", "filled": True, "size": 28, "opacity": 0.75},
        "encoding": {"x": x, "y": plain_accuracy_encoding(title="accuracy"), "color": colour},
    }


def interaction_spec(interaction: Interaction, unit: str) -> Spec:
    """A table of means as a heat map: what two parameters do together."""
    firsts, seconds = (
        list(dict.fromkeys(getattr(cell, name) for cell in interaction.cells)) for name in ("first", "second")
    )
    label = (
        "format(datum.mean, '.1%')" if interaction.objective == "accuracy" else f"format(datum.mean, '.2~s') + '{unit}'"
    )
    axis = {"labelAngle": 0, "labelFontSize": 10, "labelOverlap": False, "labelLimit": 90}
    x = {"field": "first", "type": "ordinal", "sort": firsts, "title": interaction.first, "axis": axis}
    y = {"field": "second", "type": "ordinal", "sort": seconds, "title": interaction.second}
    best_first = interaction.objective != "accuracy"
    scheme = {"range": [BEST, PALE] if best_first else [PALE, BEST]}
    values = [vars(cell) for cell in interaction.cells]
    colour = {"field": "mean", "type": "quantitative", "scale": scheme, "legend": None}
    return {
        "$schema": SCHEMA,
        "description": f"Mean {interaction.objective} by {interaction.first} and {interaction.second}",
        "width": "container",
        "height": 150,
        "data": {"values": values},
        "transform": [{"calculate": label, "as": "text"}],
        "encoding": {"x": x, "y": y},
        "layer": [
            {"mark": {"type": "rect", "tooltip": True}, "encoding": {"color": colour}},
            {"mark": {"type": "text", "color": "#10233a"}, "encoding": {"text": {"field": "text"}}},
        ],
    }


def _is_plain(name: str) -> bool:
    return "'" not in name and "\\" not in name
