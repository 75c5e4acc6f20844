"""One card per member of the front: figures with interval and source, and the geometry of its small pictures."""

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from greenprune_core.config import BudgetConfig, TrialConfig
from greenprune_core.errors import ConfigError
from greenprune_core.field_paths import resolve_path
from hpsearch.front import Row, accuracy_interval, interval_basis
from hpsearch.search_run import SearchRun
from hpsearch.units import ACCURACY, ENERGY, MACS, TIME, Quantity, show, show_duration

WIDTH, HEIGHT = 320.0, 120.0
"""Size of the small pictures, in the units of their own drawing."""


@dataclass(frozen=True)
class Bar:
    """A bar of a small picture, from the floor up: outline and filled part, as heights in the picture."""

    x: float
    width: float
    outline: float
    filled: float
    title: str


@dataclass(frozen=True)
class Curve:
    """A learning curve: the points of a line, and where phases begin."""

    points: str
    """As SVG wants them: `x,y x,y ...`."""
    phases: tuple[tuple[str, float, float], ...]
    """Name, left end and width."""
    low: str
    high: str
    n_epochs: int


@dataclass(frozen=True)
class Card:
    """One sub-network of the front."""

    trial_id: str
    figures: tuple[tuple[str, str], ...]
    network: tuple[Bar, ...]
    network_summary: str
    histogram: tuple[Bar, ...]
    agreement: str
    """Disagreement and flips at the freeze, in words; empty if not recorded."""
    curve: Curve | None
    phases: tuple[tuple[str, str, str], ...]
    """Phase, MACs and time spent in it."""
    params: tuple[tuple[str, str], ...]
    config: str
    """The configuration as JSON; empty if not recorded."""
    reproduce: str
    export: str
    repeats: tuple[str, ...]


def make_cards(run: SearchRun) -> tuple[Card, ...]:
    """Make the cards of a run's front, from the cheapest to the dearest."""
    return tuple(_make_card(run, row) for row in run.compared.members)


def _make_card(run: SearchRun, row: Row) -> Card:
    measured = [found for found in run.measurements if found["trial_id"] == row["trial_id"]]
    network = _network(row.get("kept_channels"))
    return Card(
        trial_id=row["trial_id"],
        figures=(*_figures(row), *_equals(run, row), *map(_measured, measured)),
        network=network,
        network_summary=_network_summary(row.get("kept_channels")),
        histogram=_histogram(row.get("gate_histogram")),
        agreement=_agreement(row),
        curve=_curve(row.get("history")),
        phases=_phases(row.get("phase_cost")),
        params=tuple((name, _short(value)) for name, value in (row.get("params") or {}).items()),
        config=json.dumps(row["config"], indent=2) if row.get("config") else "",
        reproduce=reproduce_command(run, row),
        export=f"hpsearch pick {shlex.quote(run.storage.location)} --trial {row['trial_id']} --export picked",
        repeats=tuple(
            f"seed {repeat.get('seed')}: {show(repeat.get('val_accuracy'), ACCURACY)}"
            for repeat in row.get("repeats") or []
        ),
    )


def reproduce_command(run: SearchRun, row: Row) -> str:
    """Return the command that runs the same configuration again: the space with every draw pinned, all its seeds.

    The settings are those of the run's last session; what decides the trial comes from its own configuration.
    """
    settings, config = run.settings, row.get("config") or {}
    pairs = (pin.partition("=") for pin in settings.get("pins") or ())
    pins = {key.strip(): _own_value(config, key.strip(), value.strip()) for key, _, value in pairs}
    pins |= {name: _value(value) for name, value in (row.get("params") or {}).items()}
    seed = settings.get("seed") or 0
    if "seed" in config:
        # --seed is added to whatever seed the space gives, --set replaces it
        pins["seed"], seed = _value(config["seed"]), 0
    profile = (config.get("budget") or {}).get("profile", settings.get("profile"))
    named = {
        "profile": profile if settings.get("profile") or profile != BudgetConfig.profile else None,
        "objective": settings.get("objective") if settings.get("objective") != "energy" else None,
        "third-objective": settings.get("third_objective"),
        "data-dir": settings.get("data_dir"),
        # the device and the number of threads decide the last digits
        "cpus-per-trial": _unless(settings.get("cpus_per_trial"), 1),
        "gpus-per-trial": _unless(settings.get("gpus_per_trial"), 0),
        "repeats": len(row["repeats"]) if len(row.get("repeats") or []) > 1 else None,
    }
    options = [("set", f"{key}={value}") for key, value in pins.items()]
    options += [(name, str(value)) for name, value in named.items() if value]
    space = shlex.quote(str(settings.get("space", "digits")))
    return f"hpsearch search --space {space} --trials 1 --seed {seed} --name again-{row['trial_id']}" + "".join(
        f" --{name} {shlex.quote(text)}" for name, text in options
    )


def _unless(value: Any, usual: float) -> str | None:
    """Write a number, unless it is the usual one or none."""
    return f"{value:g}" if _is_number(value) and value != usual else None


def _own_value(config: Mapping[str, Any], key: str, pinned: str) -> str:
    """Return the value that a trial has where `--set` fixes a field; another session may have fixed it elsewhere."""
    try:
        *sections, leaf = resolve_path(TrialConfig, key).split(".")
    except ConfigError:
        return pinned  # a parameter of the space under a name of its own
    for section in sections:
        config = config.get(section) or {}
    return _value(config[leaf]) if leaf in config else pinned


def _figures(row: Row) -> list[tuple[str, str]]:
    figures = [
        ("validation accuracy", _accuracy(row, "val")),
        ("test accuracy", _accuracy(row, "test")),
        (
            "energy of one inference",
            f"{show(row.get('energy_j'), ENERGY)}, {row.get('energy_source') or 'source unknown'}",
        ),
        ("MACs", _of_dense(row.get("macs"), row.get("dense_macs"))),
        ("parameters", _of_dense(row.get("params_kept"), row.get("dense_params"))),
        ("latency", show(row.get("latency_s"), TIME) if row.get("latency_s") is not None else "not measured"),
        ("training", _training(row)),
        ("seed", str(row.get("seed"))),
        ("ran on", f"{row.get('node') or '-'}, {row.get('device') or '-'}, version {row.get('version') or '-'}"),
    ]
    return figures


def _equals(run: SearchRun, row: Row) -> list[tuple[str, str]]:
    twins = run.compared.twins.get(row["trial_id"], ())
    return [("exactly equal trials", ", ".join(twins[:20]) + (", ..." if len(twins) > 20 else ""))] if twins else []


def _measured(found: Mapping[str, Any]) -> tuple[str, str]:
    latency = f"{show(found['latency_s'], TIME)} ({_span(found, 'latency', 's', TIME)})"
    energy = "no joules counted"
    if found["energy_j"] is not None:
        energy = f"{show(found['energy_j'], ENERGY)} per inference ({_span(found, 'energy', 'j', ENERGY)})"
        energy += f" by {found['energy_source']}"
    text = f"{latency}, {energy}; 95 %, {found['n_windows']} windows, {found['device']}"
    return f"measured, batch {found['batch_size']}", text


def _span(found: Mapping[str, Any], name: str, unit: str, quantity: Quantity) -> str:
    return f"{show(found[f'{name}_low_{unit}'], quantity)} to {show(found[f'{name}_high_{unit}'], quantity)}"


def _accuracy(row: Row, split: str) -> str:
    interval = accuracy_interval(row, split)
    if interval is None:
        return show(row.get(f"{split}_accuracy"), ACCURACY)
    low, high = (f"{edge:.2%}" for edge in interval)
    return f"{show(row[f'{split}_accuracy'], ACCURACY)} ({low} to {high}, 95 %, {interval_basis(row, split)})"


def _of_dense(value: int | None, dense: int | None) -> str:
    return show(value, MACS) + (f", {value / dense:.1%} of the dense network" if value is not None and dense else "")


def _training(row: Row) -> str:
    parts = [f"{row.get('epochs') or '-'} epochs", show_duration(row.get("train_seconds"))]
    if row.get("train_energy_j") is not None:
        parts.append(f"{show(row['train_energy_j'], ENERGY)} ({row.get('train_energy_source') or 'source unknown'})")
    return ", ".join(parts)


def _network(kept: Mapping[str, Sequence[float]] | None) -> tuple[Bar, ...]:
    """Draw layers from left to right; a bar's outline is the dense width, its fill what was kept."""
    layers = _layers(kept)
    if not layers:
        return ()
    tallest = max(dense for _, _, dense in layers)
    step = WIDTH / len(layers)
    bars = []
    for place, (name, n_kept, n_dense) in enumerate(layers):
        # the square root keeps narrow early layers visible beside wide late ones
        outline = HEIGHT * math.sqrt(n_dense / tallest)
        title = f"{name}: {n_kept:g} of {n_dense:g}"
        bars.append(Bar(place * step, step * 0.82, outline, outline * n_kept / n_dense, title))
    return tuple(bars)


def _network_summary(kept: Mapping[str, Sequence[float]] | None) -> str:
    layers = _layers(kept)
    if not layers:
        return ""
    n_kept, n_dense = sum(layer[1] for layer in layers), sum(layer[2] for layer in layers)
    name, fewest, of = min(layers, key=lambda layer: layer[1] / layer[2])
    return f"{n_kept:g} of {n_dense:g} channels kept in {len(layers)} groups; fewest in {name}: {fewest:g} of {of:g}"


def _layers(kept: Mapping[str, Sequence[float]] | None) -> list[tuple[str, float, float]]:
    return [(name, pair[0], pair[1]) for name, pair in (kept or {}).items() if len(pair) == 2 and pair[1] > 0]


def _histogram(counts: Sequence[float] | None) -> tuple[Bar, ...]:
    if not counts or not sum(counts):
        return ()
    step, most = WIDTH / len(counts), max(counts)
    edges = [place / len(counts) for place in range(len(counts) + 1)]
    return tuple(
        # a root again: the few undecided gates between the two heaps are what one looks for
        Bar(
            place * step,
            step * 0.9,
            0.0,
            HEIGHT * math.sqrt(count / most),
            f"{count:g} gates open on {low:.0%} to {high:.0%}",
        )
        for place, (count, low, high) in enumerate(zip(counts, edges, edges[1:], strict=False))
    )


def _agreement(row: Row) -> str:
    parts = []
    if row.get("disagreement") is not None:
        parts.append(f"a gate differed from the consensus on {row['disagreement']:.2%} of the images")
    if row.get("flips") is not None:
        parts.append(f"the repair moved {row['flips']} gates")
    return "; ".join(parts)


def _curve(history: Sequence[Mapping[str, Any]] | None) -> Curve | None:
    lines = [line for line in history or [] if _is_number(line.get("val_accuracy")) and _is_number(line.get("epoch"))]
    if not lines:
        return None
    epochs, values = [float(line["epoch"]) for line in lines], [float(line["val_accuracy"]) for line in lines]
    last, low, high = max(epochs) or 1.0, min(values), max(values)
    span = (high - low) or 1.0
    points = " ".join(
        f"{epoch / last * WIDTH:.1f},{HEIGHT - (value - low) / span * (HEIGHT - 8) - 4:.1f}"
        for epoch, value in zip(epochs, values, strict=True)
    )
    phases: list[tuple[str, float, float]] = []
    left = 0.0
    for line, epoch in zip(lines, epochs, strict=True):
        right = epoch / last * WIDTH
        if phases and phases[-1][0] == str(line.get("phase")):
            name, start, _ = phases[-1]
            phases[-1] = (name, start, right - start)
        else:
            phases.append((str(line.get("phase")), left, right - left))
        left = right
    return Curve(points, tuple(phases), show(low, ACCURACY), show(high, ACCURACY), round(last))


def _phases(costs: Mapping[str, Mapping[str, Any]] | None) -> tuple[tuple[str, str, str], ...]:
    return tuple(
        (name, show(cost.get("macs"), MACS), show_duration(cost.get("seconds"))) for name, cost in (costs or {}).items()
    )


def _value(value: Any) -> str:
    return repr(value) if isinstance(value, float) else str(value)


def _short(value: Any) -> str:
    """Write a draw for the eye; the command and the configuration have all digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
