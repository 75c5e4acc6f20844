"""The picture of a front as a Vega-Lite specification: a view in, a plain dictionary out.

Written as dictionaries because altair's objects for the same take longer to build than the page may take; altair reads
them (`draw_front`) and a test checks each against its schema. Colours of text and axes come from the page's theme.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hpsearch.comparison import Comparison
from hpsearch.report.front_view import Axis, FrontView, Point
from hpsearch.units import ACCURACY, QUANTITIES, show

if TYPE_CHECKING:
    import altair

Spec = dict[str, Any]

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.4.1.json"
"""An identifier: nothing is fetched from there."""

ACCENT = "#0f8b8d"
FAINT = "#8a94a6"
WARM = "#d1495b"
CONTROL = "#b8860b"
SERIES_COLOURS = (ACCENT, "#ec9a29", "#7768ae", "#3f88c5", "#a23b72", "#6a994e")

CROWD = 200
"""Points from which on single ones give way to their mass."""

_RIM = {"stroke": "white", "strokeWidth": 1}

UNIT_LABELS = {"J": "J", "MAC": "", "s": "s", "1": ""}


def front_spec(view: FrontView, *, is_live: bool = True) -> Spec:
    """Accuracy against the second objective: all trials faint, the front strong, controls, budget lines.

    Args:
        view: what to draw.
        is_live: with the page's parameters (budget lines, hidden trials, zoom); without them for PNG and SVG.
    """
    x, y = cost_encoding(view.axis), _accuracy_encoding(view, is_live)
    hover, is_crowded = tooltip(view.axis, view.third_axis), len(view.points) > CROWD
    layers = [
        points_layer("trial", x, y, {"opacity": 0.35 if is_crowded else 0.6, "size": 26, "color": FAINT}, hover),
        _ends_layer("stopped", x, y, is_live, {"shape": "triangle-down", "color": FAINT}, hover),
        _ends_layer("failed", x, y, is_live, {"shape": "cross", "color": WARM}, hover),
        _line_layer(x, y),
        _interval_layer(x, y),
        points_layer("front", x, y, {"opacity": 1, "size": 80, "color": ACCENT, **_RIM}, hover),
        _control_layer(x, y, hover),
    ]
    if view.axis.dense is not None:
        layers += _dense_layers(view.axis, x)
    spec: Spec = {
        "$schema": SCHEMA,
        "description": "Validation accuracy against " + view.axis.title,
        "width": "container" if is_live else 720,
        "height": 420,
        "data": {"name": "trials"},
        "layer": [*layers, *(_budget_layers(x, y) if is_live else [])],
    }
    if is_live:
        spec["params"] = [
            {"name": "budget", "value": None},
            {"name": "floor", "value": None},
            {"name": "show_stopped", "value": False},
            {"name": "show_failed", "value": False},
            {"name": "zoomed", "value": True},
        ]
    else:
        spec["datasets"] = {"trials": point_values(view)}
        if any(point.kind == "control" for point in view.points):
            note = "diamonds: dense network and uniformly narrower ones, with their share of the channels"
            spec["title"] = {"text": note, "fontSize": 11, "fontWeight": "normal", "color": CONTROL, "anchor": "end"}
        spec["config"] = {"background": "white", "view": {"stroke": None}, "axis": {"gridOpacity": 0.4}}
    return spec


def draw_front(view: FrontView) -> "altair.TopLevelMixin":
    """Return the picture of a front as an altair chart."""
    import altair

    chart: altair.TopLevelMixin = altair.LayerChart.from_dict(front_spec(view, is_live=False))
    return chart


def point_values(view: FrontView) -> list[dict[str, Any]]:
    """Return points as the rows that the pictures read; texts carry their units."""
    return [_point_value(point, view) for point in view.points]


def _point_value(point: Point, view: FrontView) -> dict[str, Any]:
    value: dict[str, Any] = {
        "id": point.trial_id,
        "kind": point.kind,
        "label": point.label,
        "accuracy": point.accuracy,
        "cost": point.cost,
        "shown_accuracy": show(point.accuracy, ACCURACY),
        "shown_cost": show(point.cost, QUANTITIES[view.axis.unit]),
    }
    if point.is_on_line:
        value["on_line"] = True
    if point.third is not None and view.third_axis is not None:
        value |= {"third": point.third, "shown_third": show(point.third, QUANTITIES[view.third_axis.unit])}
    if point.low is not None and point.high is not None:
        value |= {"low": point.low, "high": point.high}
        value["shown_accuracy"] += f", 95 % {point.low:.1%} to {point.high:.1%} over {point.n_repeats} seeds"
    if point.tag is not None:
        value["tag"] = point.tag
    if point.kind in ("front", "control"):
        value["spoken"] = f"{point.label}: {value['shown_accuracy']}, {view.axis.name} {value['shown_cost']}"
    return value


def tooltip(axis: Axis, third: Axis | None) -> list[Spec]:
    """Say on hovering over a point which trial it is, and its objectives with their units."""
    fields = [("label", "trial"), ("kind", "kind"), ("shown_accuracy", "accuracy"), ("shown_cost", axis.name)]
    if third is not None:
        fields.append(("shown_third", third.name))
    return [{"field": field, "title": title, "type": "nominal"} for field, title in fields]


def comparison_spec(found: Comparison) -> Spec:
    """Fronts of several runs on the same axes."""
    second = found.objectives[1]
    source = f" ({found.source})" if found.source else ""
    names = [line.name for line in found.runs]
    values = [
        {"run": line.name, "cost": row[second.column], "accuracy": row["val_accuracy"], "id": row["trial_id"]}
        for line, front in zip(found.runs, found.fronts, strict=True)
        for row in front.members
    ]
    colours = (
        {"domain": names, "range": list(SERIES_COLOURS[: len(names)])} if len(names) <= len(SERIES_COLOURS) else {}
    )
    encoding = {
        "x": cost_encoding(Axis(second.name, second.unit, second.name + source, None)),
        "y": plain_accuracy_encoding(),
        "color": {"field": "run", "type": "nominal", "scale": colours, "title": None, "legend": {"orient": "top"}},
    }
    return {
        "$schema": SCHEMA,
        "width": 720,
        "height": 420,
        "background": "white",
        "data": {"values": values},
        "layer": [
            {"mark": {"type": "line", "interpolate": "step-after"}, "encoding": encoding},
            {"mark": {"type": "point", "filled": True, "size": 60}, "encoding": encoding},
        ],
    }


def points_layer(kind: str, x: Spec, y: Spec, style: Mapping[str, Any], hover: Sequence[Spec]) -> Spec:
    """Points of one kind, with a tooltip and a name for screen readers."""
    return {
        "name": f"{kind}_points",
        "transform": [{"filter": f"datum.kind == '{kind}'"}],
        "mark": {"type": "point", "filled": True, "clip": True, "cursor": "pointer", "aria": kind == "front", **style},
        "encoding": {"x": x, "y": y, "tooltip": hover, "description": {"field": "spoken"}},
    }


def _ends_layer(kind: str, x: Spec, y: Spec, is_live: bool, style: Mapping[str, Any], hover: Sequence[Spec]) -> Spec:
    layer = points_layer(kind, x, y, {"size": 40, "filled": False, **style}, hover)
    shown = f"show_{kind}" if is_live else "false"
    layer["transform"] = [{"filter": f"datum.kind == '{kind}' && {shown}"}]
    return layer


def _control_layer(x: Spec, y: Spec, hover: Sequence[Spec]) -> Spec:
    layer = points_layer(
        "control", x, y, {"shape": "diamond", "size": 110, "color": CONTROL, "opacity": 1, "aria": True}, hover
    )
    mark = {"type": "text", "dy": 15, "color": CONTROL, "aria": False}
    has_tag = [{"filter": "isValid(datum.tag)"}]
    label = {"transform": has_tag, "mark": mark, "encoding": {"x": x, "y": y, "text": {"field": "tag"}}}
    return {"transform": layer.pop("transform"), "layer": [layer, label]}


def _line_layer(x: Spec, y: Spec) -> Spec:
    return {
        "transform": [{"filter": "datum.on_line"}],
        "mark": {
            "type": "line",
            "interpolate": "step-after",
            "color": ACCENT,
            "strokeWidth": 1.5,
            "clip": True,
            "aria": False,
        },
        "encoding": {"x": x, "y": y},
    }


def _interval_layer(x: Spec, y: Spec) -> Spec:
    return {
        "transform": [{"filter": "isValid(datum.low)"}],
        "mark": {"type": "rule", "color": ACCENT, "strokeWidth": 1.5, "clip": True, "aria": False},
        "encoding": {
            "x": x,
            "y": {**y, "field": "low"},
            "y2": {"field": "high"},
            "opacity": {"condition": {"test": "datum.kind != 'trial'", "value": 1}, "value": 0.3},
        },
    }


def _dense_layers(axis: Axis, x: Spec) -> list[Spec]:
    data = {"values": [{"cost": axis.dense, "label": "dense"}]}
    encoding = {"x": x}
    rule = {"type": "rule", "color": CONTROL, "strokeDash": [2, 3], "aria": False}
    text = {"type": "text", "color": CONTROL, "align": "right", "dx": -5, "dy": 10, "y": 0, "aria": False}
    return [
        {"data": data, "mark": rule, "encoding": encoding},
        {"data": data, "mark": text, "encoding": {**encoding, "text": {"field": "label"}}},
    ]


def _budget_layers(x: Spec, y: Spec) -> list[Spec]:
    """One vertical and one horizontal line at the page's parameters, with a wide clear handle that a finger finds."""
    layers = []
    for name, channel, encoding, cursor in (("budget", "x", x, "ew-resize"), ("floor", "y", y, "ns-resize")):
        field = encoding["field"]
        shared: Spec = {
            "data": {"values": [{}]},
            "transform": [{"filter": f"isValid({name})"}, {"calculate": name, "as": field}],
            "encoding": {channel: encoding},
        }
        line = {"type": "rule", "color": WARM, "strokeWidth": 2, "strokeDash": [6, 4], "aria": False}
        handle = {"type": "rule", "color": WARM, "strokeWidth": 16, "opacity": 0.01, "cursor": cursor, "aria": False}
        layers += [{**shared, "mark": line}, {**shared, "name": f"{name}_handle", "mark": handle}]
    return layers


def cost_encoding(axis: Axis, field: str = "cost") -> Spec:
    """A cost on a logarithmic axis; on a linear one where something costs nothing."""
    scale = {"type": "log", "nice": False, "padding": 14} if axis.is_logarithmic else {"type": "linear", "padding": 14}
    return {
        "field": field,
        "type": "quantitative",
        "title": axis.title,
        "scale": scale,
        "axis": si_axis(UNIT_LABELS[axis.unit]),
    }


def _accuracy_encoding(view: FrontView, is_live: bool) -> Spec:
    encoding = plain_accuracy_encoding(title="validation accuracy")
    shown = [point for point in view.points if point.kind in ("front", "control")]
    front = [end for point in shown for end in (point.accuracy, point.low, point.high) if end is not None]
    rest = [*front, *(point.accuracy for point in view.points)]
    if not front:
        return encoding
    # near the front, where the choice is made; trials far below it are one click away
    margin = 0.15 * (max(front) - min(front)) or 0.01
    low, lowest = (max(0.0, min(values) - margin) for values in (front, rest))
    domain_min: Any = {"expr": f"zoomed ? {low} : {lowest}"} if is_live else low
    encoding["scale"] = {
        "zero": False,
        "nice": False,
        "domainMin": domain_min,
        "domainMax": min(1.0, max(rest) + margin),
    }
    return encoding


def plain_accuracy_encoding(title: str = "validation accuracy") -> Spec:
    """Accuracy as a percentage, over the range of the data."""
    axis = {"format": ".3~p" if title != "accuracy" else "~p", "tickCount": 6}
    return {"field": "accuracy", "type": "quantitative", "title": title, "scale": {"zero": False}, "axis": axis}


def si_axis(unit: str) -> Spec:
    """An axis with labels like `1.5mJ`."""
    return {"labelExpr": f"format(datum.value, '.3~s') + '{unit}'", "tickCount": 6, "labelOverlap": True}
