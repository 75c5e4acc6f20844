"""Text with a unit to a number in base units, and back: `1.5mJ`, `20M`, `2ms`, `90%`, `2h`.

Upper and lower case matter: `mJ` is a thousandth of a joule, `MJ` a million. A number without a unit is refused where
people could mean two things by it.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Context, Decimal

from greenprune_core.errors import ConfigError


@dataclass(frozen=True)
class Quantity:
    """A kind of number that people write with a unit."""

    name: str
    """What it is, in messages."""
    factors: Mapping[str, float]
    """Accepted units with their size in the base unit; the empty unit, if accepted, is a plain number."""
    shown: tuple[str, ...]
    """Units used for output, largest first."""
    example: str
    """What to write, in messages."""


ENERGY = Quantity(
    "an energy",
    {
        **{"kWh": 3.6e6, "Wh": 3600.0, "mWh": 3.6, "MJ": 1e6, "kJ": 1e3, "J": 1.0, "mJ": 1e-3},
        **{"uJ": 1e-6, "µJ": 1e-6, "μJ": 1e-6, "nJ": 1e-9, "pJ": 1e-12},
    },
    ("MJ", "kJ", "J", "mJ", "µJ", "nJ", "pJ"),
    "1.5mJ",
)
MACS = Quantity(
    "a number of multiply-accumulates",
    {"": 1.0, "K": 1e3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12},
    ("T", "G", "M", "K", ""),
    "20M",
)
TIME = Quantity(
    "a time",
    {"d": 86400.0, "h": 3600.0, "min": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ns": 1e-9},
    ("s", "ms", "µs", "ns"),
    "2ms",
)
ACCURACY = Quantity("an accuracy", {"": 1.0, "%": 0.01}, ("%",), "0.9 or 90%")

QUANTITIES: Mapping[str, Quantity] = {"J": ENERGY, "MAC": MACS, "s": TIME, "1": MACS}
"""How to show a cost, by the unit of its objective."""

_DECIMALS = Context(traps=[])
"""Numbers are read as people count: 57 times a binary 0.01 is above 0.57, and `57%` would refuse exactly that.

What is too large or small for it becomes infinite, NaN or 0, without an exception."""

_PATTERN = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([^\d\s.]*)\s*")


def parse(text: str, quantity: Quantity, what: str) -> float:
    """Read a positive number with a unit.

    Args:
        text: what the user wrote, e.g. `1.5mJ` or `2 h`.
        quantity: the kind of number.
        what: the option or setting it belongs to, for the message.

    Returns:
        The number in the base unit: joules, multiply-accumulates, seconds, or a share.

    Raises:
        ConfigError: no number, no unit where one is needed, an unknown unit, not above zero, or a share over 1.
    """
    found = _PATTERN.fullmatch(text)
    units = ", ".join(unit for unit in quantity.factors if unit and unit.isascii())
    if found is None:
        raise ConfigError(f"{what} needs {quantity.name}, but got {text!r}; write e.g. {quantity.example}")
    number, unit = found[1], found[2]
    if unit not in quantity.factors:
        problem = f"with the unit {unit!r}" if unit else "without a unit"
        raise ConfigError(
            f"{what} needs {quantity.name} in one of {units}, but got {text!r} {problem}; write e.g. {quantity.example}"
        )
    value = float(_DECIMALS.multiply(_DECIMALS.create_decimal(number), Decimal(repr(quantity.factors[unit]))))
    if not 0 < value < math.inf:
        raise ConfigError(f"{what} needs {quantity.name} above 0, but got {text!r}; write e.g. {quantity.example}")
    if quantity is ACCURACY and value > 1:
        raise ConfigError(f"{what} needs an accuracy of at most 1 or 100%, but got {text!r}; write e.g. 0.9 or 90%")
    return value


def show(value: float | None, quantity: Quantity, digits: int = 3) -> str:
    """Write a number in the unit in which it reads best, e.g. `1.53 mJ`, `20.4M`, `91.20 %`; a dash for None."""
    if value is None or not math.isfinite(value):
        return "-"
    if quantity is ACCURACY:
        return f"{value * 100:.2f} %"
    fitting = [unit for unit in quantity.shown if abs(value) >= quantity.factors[unit] * (1 - 0.5 * 10**-digits)]
    base = next(unit for unit in quantity.shown if quantity.factors[unit] == 1.0) if value == 0 else quantity.shown[-1]
    unit = fitting[0] if fitting else base
    number = _significant(value / quantity.factors[unit], digits)
    if quantity is MACS:
        return f"{number}{unit}"
    return f"{number} {unit}"


def show_duration(seconds: float | None) -> str:
    """Write a time as people say it: `850 ms`, `42 s`, `3 min 10 s`, `2 h 05 min`, `3 d 4 h`; a dash for None."""
    if seconds is None or not math.isfinite(seconds):
        return "-"
    if seconds < 10:
        return show(seconds, TIME)
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def _significant(value: float, digits: int) -> str:
    """Write with so many significant digits, without exponent for what `show` gives it."""
    if value == 0:
        return "0"
    rounded = float(f"{value:.{digits}g}")
    return f"{rounded:.{max(0, digits - 1 - math.floor(math.log10(abs(rounded))))}f}"
