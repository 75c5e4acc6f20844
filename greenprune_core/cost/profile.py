"""A device as a few numbers: joules per operation and byte, seconds per operation, each with its source.

Profiles are JSON files, shipped in `profiles/` beside this file or written by `hpsearch calibrate`. Nothing here loads
torch.
"""

import dataclasses
import difflib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from greenprune_core.errors import ConfigError
from greenprune_core.home import expand

FORMAT = "greenprune-device-profile"
VERSION = 1
REFERENCE = "horowitz-45nm"
LEVELS = ("on_chip", "off_chip")
SECONDS = (
    "seconds_per_mac",
    "seconds_per_element_op",
    "seconds_per_activation_byte",
    "seconds_per_weight_byte",
    "seconds_per_operator",
)

KINDS = (
    *("conv", "grouped_conv", "matmul", "attention", "norm", "pool", "elementwise", "reduce", "copy", "unknown"),
    "other",
)
"""Kinds of operators as in `cost.operators`, and `other` for those that a timing does not name."""

_JOULES = ("joules_per_mac", "joules_per_element_op", "joules_per_byte")

_SHIPPED = Path(__file__).parent / "profiles"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quantity:
    """A number of a profile, >= 0, and where it comes from."""

    value: float
    source: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timing:
    """Seconds of the parts of a forward pass at one batch size, added up without overlap."""

    batch_size: int
    lanes: int
    """Channels of convolutions and products are rounded up to this many: the width of the vector unit."""
    seconds_per_mac: dict[str, Quantity]
    """By kind of operator (conv, grouped_conv, matmul, attention)."""
    seconds_per_element_op: dict[str, Quantity]
    """By kind of operator, as the following; `other` for kinds that are not named."""
    seconds_per_activation_byte: dict[str, Quantity]
    seconds_per_weight_byte: dict[str, Quantity]
    seconds_per_operator: dict[str, Quantity]
    """Launch of one operator."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeviceProfile:
    """What a device spends on arithmetic, on moving bytes, and while it waits."""

    name: str
    description: str
    joules_per_mac: dict[str, Quantity] | None
    """By dtype; None, as the two that follow, for a device whose joules are not known."""
    joules_per_element_op: dict[str, Quantity] | None
    """By dtype."""
    joules_per_byte: dict[str, Quantity] | None
    """By level: on_chip, off_chip."""
    weight_level: str
    """Level from which weights are read, once per batch."""
    activation_level: str
    """Level that activations are written to and read from."""
    static_power_w: Quantity | None
    """Power that flows during the whole inference; needs timings to become joules."""
    timings: tuple[Timing, ...]
    fit: Mapping[str, Any] | None
    """How well a calibrated profile predicts networks that it has not seen."""

    @property
    def has_joules(self) -> bool:
        """Whether it prices arithmetic and bytes in joules; a profile that was calibrated without a meter does not."""
        return self.joules_per_mac is not None

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """Batch sizes whose latency it knows."""
        return tuple(timing.batch_size for timing in self.timings)

    def timing(self, batch_size: int) -> Timing:
        """Return the timing at this batch size.

        Raises:
            ConfigError: the profile holds none for it.
        """
        for timing in self.timings:
            if timing.batch_size == batch_size:
                return timing
        known = ", ".join(map(str, self.batch_sizes)) or "none"
        raise ConfigError(
            f"latency needs a profile with timings at the asked batch size, but {self.name!r} has batch sizes: "
            f"{known}, not {batch_size}; make one with hpsearch calibrate"
        )

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values, fit for JSON and for `profile_from_dict`."""
        values = dataclasses.asdict(self)
        return {"format": FORMAT, "version": VERSION, **values}


def pricing_profile(profile: DeviceProfile) -> DeviceProfile:
    """Return the profile that joules are reckoned with: the given one, or the reference where it knows time only."""
    return profile if profile.has_joules else load_profile(REFERENCE)


def shipped_profiles() -> tuple[str, ...]:
    """Names of the profiles that come with the package."""
    return tuple(sorted(path.stem for path in _SHIPPED.glob("*.json")))


def load_profile(name_or_path: str | Path) -> DeviceProfile:
    """Load a shipped profile by name, or a JSON file by its path.

    Raises:
        ConfigError: no such profile (nearest names), no JSON, or a number missing, negative or without a source.
    """
    text = str(name_or_path)
    is_file = text.endswith(".json") or "/" in text
    path = expand(text) if is_file else _SHIPPED / f"{text}.json"
    if not is_file and text not in shipped_profiles():
        near = ", ".join(difflib.get_close_matches(text, shipped_profiles(), n=3, cutoff=0.3) or shipped_profiles())
        raise ConfigError(f"a profile is a shipped name or a JSON file, but got {text!r}; near names: {near}")
    try:
        values = json.loads(path.read_text(), object_pairs_hook=_without_repeats)
    except OSError as error:
        raise ConfigError(
            f"a profile is a readable file, but got {text!r} ({error.strerror}); check the path"
        ) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"a profile is a JSON file, but {text!r} is not ({error}); see docs/energy.md") from error
    profile = profile_from_dict(values, str(path))
    if is_file and profile.name in shipped_profiles() and profile != load_profile(profile.name):
        raise ConfigError(
            f"a name stands for one profile, but {text!r} calls itself {profile.name!r}, which is shipped with other "
            "numbers; give it a name of its own"
        )
    return profile


def check_name(name: str) -> None:
    """Refuse a name that could not stand beside a figure as its source.

    Raises:
        ConfigError: empty, with blanks, or that of a shipped profile.
    """
    if not name or name.split() != [name]:
        raise ConfigError(
            f"a profile's name is one word, which figures carry as model:<name>, but got {name!r}; give another --name"
        )
    if name in shipped_profiles():
        raise ConfigError(
            f"a new profile has a name of its own, but got {name!r}, which is shipped; give another --name"
        )


def profile_from_dict(values: Any, where: str) -> DeviceProfile:
    """Check and build a profile from JSON values; `where` names the file in errors.

    Raises:
        ConfigError: a field is unknown, missing, negative or without a source.
    """
    reader = _Reader(where)
    reader.need(isinstance(values, dict), "a profile is a JSON object", type(values).__name__)
    reader.need(values.get("format") == FORMAT, f"format is {FORMAT!r}", values.get("format"))
    reader.need(values.get("version") == VERSION, f"version is {VERSION}", values.get("version"))
    reader.fields(values, {"format", "version"} | {field.name for field in dataclasses.fields(DeviceProfile)}, "")
    joules = {name: None if values[name] is None else reader.quantities(values, name) for name in _JOULES}
    are_known = {known is not None for known in joules.values()}
    reader.need(len(are_known) == 1, f"{', '.join(_JOULES)} are all known or all null", joules)
    levels = joules["joules_per_byte"]
    for name in ("weight_level", "activation_level"):
        reader.need(values[name] in LEVELS, f"{name} is on_chip or off_chip", values[name])
        is_known = levels is None or values[name] in levels
        reader.need(is_known, f"joules_per_byte needs the level that {name} names", values[name])
    static = None if values["static_power_w"] is None else reader.quantity(values["static_power_w"], "static_power_w")
    reader.need(isinstance(values["timings"], list), "timings is a JSON array", values["timings"])
    timings = tuple(_timing(reader, timing, f"timings[{i}]") for i, timing in enumerate(values["timings"]))
    sizes = [timing.batch_size for timing in timings]
    reader.need(len(set(sizes)) == len(sizes), "timings has one entry per batch size", sizes)
    reader.need(static is None or bool(timings), "static_power_w needs timings to become joules", "no timings")
    prices = [*(price for group in joules.values() for price in (group or {}).values()), *([static] if static else [])]
    reader.need(not prices or any(price.value for price in prices), "an inference costs more than 0 J", "0 everywhere")
    for name in ("name", "description"):
        reader.need(isinstance(values[name], str), f"{name} is a text", values[name])
    is_word = values["name"].split() == [values["name"]]
    reader.need(is_word, "name is one word: it stands beside figures as model:<name>", values["name"])
    reader.need(values["fit"] is None or isinstance(values["fit"], dict), "fit is a JSON object or null", values["fit"])
    return DeviceProfile(
        name=values["name"],
        description=values["description"],
        joules_per_mac=joules["joules_per_mac"],
        joules_per_element_op=joules["joules_per_element_op"],
        joules_per_byte=levels,
        weight_level=values["weight_level"],
        activation_level=values["activation_level"],
        static_power_w=static,
        timings=timings,
        fit=values["fit"],
    )


def _timing(reader: "_Reader", values: Any, name: str) -> Timing:
    reader.need(isinstance(values, dict), f"{name} is a JSON object", values)
    reader.fields(values, {field.name for field in dataclasses.fields(Timing)}, f"{name}.")
    for count in ("batch_size", "lanes"):
        is_count = type(values[count]) is int and values[count] >= 1
        reader.need(is_count, f"{name}.{count} is a whole number >= 1", values[count])
    seconds = {field: reader.quantities(values, field, name) for field in SECONDS}
    for field, rates in seconds.items():
        strange = sorted(set(rates) - set(KINDS))
        reader.need(not strange, f"{name}.{field} names known kinds ({', '.join(KINDS)})", strange)
        has_other = field == SECONDS[0] or "other" in rates
        reader.need(has_other, f"{name}.{field} names the kind 'other'", sorted(rates))
    is_some = any(rate.value for rates in seconds.values() for rate in rates.values())
    reader.need(is_some, f"{name} makes an inference take more than 0 s", "0 everywhere")
    return Timing(batch_size=values["batch_size"], lanes=values["lanes"], **seconds)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object and refuse one that names a field twice: the first would be ignored."""
    values = dict(pairs)
    if len(values) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"{twice!r} stands twice in one object")
    return values


class _Reader:
    """Checks of JSON values that name the file and the field."""

    def __init__(self, where: str) -> None:
        self._where = where

    def need(self, holds: bool, rule: str, got: Any) -> None:
        if not holds:
            raise ConfigError(f"{rule}, but got {got!r} in profile {self._where}; correct the file (docs/energy.md)")

    def fields(self, values: Mapping[str, Any], known: set[str], prefix: str) -> None:
        missing, unknown = sorted(known - set(values)), sorted(set(values) - known)
        self.need(not missing, f"a profile has the field {prefix}{missing[0] if missing else ''}", "nothing")
        self.need(not unknown, "a profile has known fields only", unknown)

    def quantity(self, value: Any, name: str) -> Quantity:
        self.need(
            isinstance(value, dict) and set(value) == {"value", "source"}, f"{name} has a value and a source", value
        )
        number, source = value["value"], value["source"]
        is_number = isinstance(number, int | float) and not isinstance(number, bool)
        # compared, not converted: a whole number of 400 digits is no float
        self.need(is_number and 0 <= number <= sys.float_info.max, f"{name} is a number >= 0", number)
        self.need(isinstance(source, str) and bool(source.strip()), f"{name} names its source", source)
        return Quantity(value=float(number), source=source)

    def quantities(self, values: Mapping[str, Any], field: str, prefix: str = "") -> dict[str, Quantity]:
        name = f"{prefix}.{field}" if prefix else field
        group = values[field]
        self.need(isinstance(group, dict) and bool(group), f"{name} is a JSON object with at least one entry", group)
        return {key: self.quantity(value, f"{name}.{key}") for key, value in group.items()}
