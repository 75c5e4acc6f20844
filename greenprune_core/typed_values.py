"""Typed values from text and from plain dictionaries: what the configuration dataclasses are read with."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

from greenprune_core.errors import ConfigError


def need(holds: bool, rule: str, got: str, way_out: str) -> None:
    """Raise a `ConfigError` of three parts (rule, value, way out) unless `holds`."""
    if not holds:
        raise ConfigError(f"{rule}, but got {got}; {way_out}")


def build(kind: Any, values: Mapping[str, Any], where: str = "") -> Any:
    """Build a dataclass, and those inside it, from plain values; absent fields take their defaults.

    Raises:
        ConfigError: a field is unknown, of the wrong type or out of range.
    """
    hints = typing.get_type_hints(kind)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise ConfigError(
            f"a configuration holds only known fields, but got {where}{unknown[0]!s}; it was made by another version"
        )
    built = {}
    for name, value in values.items():
        hint = hints[name]
        if dataclasses.is_dataclass(hint):
            built[name] = build(hint, value, f"{where}{name}.")
        else:
            built[name] = _check_type(value, hint, where + name)
    return kind(**built)


def parse_value(text: str, hint: Any, name: str) -> Any:
    """Turn text from the command line into a value of a field's type.

    Raises:
        ConfigError: the text does not read as that type, or is none of the listed choices.
    """
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if type(None) in options and text.lower() in ("none", "null"):
        return None
    for option in options:
        if option is type(None):
            continue
        if typing.get_origin(option) is Literal:
            if text in typing.get_args(option):
                return text
            choices = ", ".join(typing.get_args(option))
            raise ConfigError(f"{name} is one of {choices}, but got {text!r}; choose one of them")
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
    wanted = " or ".join(getattr(option, "__name__", str(option)) for option in options if option is not type(None))
    raise ConfigError(f"{name} needs a value of type {wanted}, but got {text!r}; write it as a plain number")


def _check_type(value: Any, hint: Any, name: str) -> Any:
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for option in options:
        if typing.get_origin(option) is Literal:
            if value in typing.get_args(option):
                return value
        elif option is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        elif option is int and isinstance(value, bool):
            continue
        elif isinstance(value, option):
            return value
    raise ConfigError(f"{name} needs a value of type {hint}, but got {value!r}; see greenprune_core.config")
