"""The shapes of the archive's columns of JSON: what another program wrote in another shape is as good as absent."""

from collections.abc import Callable, Mapping
from typing import Any


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_facts(value: Any) -> bool:
    return isinstance(value, dict)


def _is_counts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_number, value))


def _are_lines(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(line, dict) for line in value)


def _are_parts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(part, dict) for part in value.values())


def _are_widths(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_counts(pair) and len(pair) == 2 for pair in value.values())


SHAPES: Mapping[str, Callable[[Any], bool]] = {
    "params": _is_facts,
    "config": _is_facts,
    "details": _is_facts,
    "gate_histogram": _is_counts,
    "history": _are_lines,
    "repeats": _are_lines,
    "phase_cost": _are_parts,
    "kept_channels": _are_widths,
}
"""Column -> whether a value has its shape."""
