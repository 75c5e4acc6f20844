"""Typed values from text and from plain dictionaries: what the configuration dataclasses are read with."""

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

from greenprune_core.errors import ConfigError

LARGEST = 3e38
"""Largest size of a number that training reckons with, in float32."""


def need(holds: bool, rule: str, got: str, way_out: str) -> None:
    """Raise a `ConfigError` of three parts (rule, value, way out) unless `holds`."""
    if not holds:
        raise ConfigError(f"{rule}, but got {got}; {way_out}")


def build(kind: Any, values: Mapping[str, Any], where: str = "") -> Any:
    """Build a dataclass, and those inside it, from plain values; absent fields take their defaults.

    Raises:
        ConfigError: a field is unknown, of the wrong type or out of range.
    """
    need(isinstance(values, Mapping), f"{where.rstrip('.') or 'a configuration'} holds fields", repr(values), _FIELDS)
    hints = _hints(kind)
    unknown = sorted(str(name) for name in set(values) - set(hints))  # a dictionary may be keyed by anything
    if unknown:
        raise ConfigError(
            f"a configuration holds only known fields, but got {where}{unknown[0]}; it was made by another version"
        )
    built = {}
    for name, value in values.items():
        hint = hints[name]
        if dataclasses.is_dataclass(hint):
            built[name] = build(hint, value, f"{where}{name}.")
        else:
            built[name] = check_type(value, hint, where + name)
    return kind(**built)


_FIELDS = "give a dictionary, as TrialConfig.to_dict does"


def check_fields(made: Any) -> None:
    """Check that the fields of a dataclass hold values of their types, and keep them in these types.

    A whole number where a float is asked for becomes one: else `1` and `1.0` would be two identities of one trial.

    Args:
        made: may be frozen; called from its `__post_init__`.

    Raises:
        ConfigError: one does not, with its name and value.
    """
    kind: Any = type(made)
    for name, hint in _hints(kind).items():
        object.__setattr__(made, name, check_type(getattr(made, name), hint, name))


_hints = functools.cache(typing.get_type_hints)


def parse_value(text: str, hint: Any, name: str) -> Any:
    """Turn text from the command line into a value of a field's type.

    Raises:
        ConfigError: the text does not read as that type, or is none of the listed choices.
    """
    text = str(text)  # in Python a value itself may come, and reads as it is written
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if type(None) in options and text.lower() in ("none", "null"):
        return None
    for option in options:
        if option is type(None):
            continue
        if typing.get_origin(option) is Literal:
            if text in typing.get_args(option):
                return text
            raise _not_among(option, text, name)
        if option is bool:
            if text.lower() in ("true", "yes", "1", "on"):
                return True
            if text.lower() in ("false", "no", "0", "off"):
                return False
            raise ConfigError(f"{name} is true or false, but got {text!r}; write one of the two")
        try:
            return option(text)
        except ValueError:
            continue
    raise ConfigError(f"{name} needs a value of type {_names(options)}, but got {text!r}; write it as a plain number")


def check_type(value: Any, hint: Any, name: str) -> Any:
    """Return a value that fits a field's type; a whole number becomes a float where one is asked for.

    Raises:
        ConfigError: it does not fit.
    """
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for option in options:
        if typing.get_origin(option) is Literal:
            if value in typing.get_args(option):
                return value
        elif option is float and isinstance(value, int | float) and not isinstance(value, bool):
            need(not abs(value) > LARGEST, f"{name} is a number that float32 can hold", f"{name}={value}", "lower it")
            return float(value)
        elif option is int and isinstance(value, bool):
            continue
        elif isinstance(value, option):
            return value
    if typing.get_origin(hint) is Literal:
        raise _not_among(hint, value, name)
    raise ConfigError(
        f"{name} needs a value of type {_names(options)}, but got {value!r} of type {type(value).__name__}; give one "
        "of Python's own, as greenprune_core.config tells"
    )


def _names(options: tuple[Any, ...]) -> str:
    named = {type(None): "None"}
    return " or ".join(named.get(option, getattr(option, "__name__", str(option))) for option in options)


def _not_among(choice: Any, value: Any, name: str) -> ConfigError:
    return ConfigError(f"{name} is one of {', '.join(typing.get_args(choice))}, but got {value!r}; choose one of them")
