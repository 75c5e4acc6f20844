"""Names of the fields of a configuration made of sections: dotted paths, or the last name where that is unique."""

import dataclasses
import difflib
import typing
from typing import Any

from greenprune_core.errors import ConfigError


def leaf_types(kind: type) -> dict[str, Any]:
    """Dotted path of every field of a dataclass and of the dataclasses in it, with its type."""
    leaves: dict[str, Any] = {}
    for name, hint in typing.get_type_hints(kind).items():
        if dataclasses.is_dataclass(hint):
            leaves |= {f"{name}.{leaf}": inner for leaf, inner in typing.get_type_hints(hint).items()}
        else:
            leaves[name] = hint
    return leaves


def resolve_path(kind: type, path: str) -> str:
    """Find the dotted path of a field given as such or by its last name where that is unique.

    Raises:
        ConfigError: no field or several fields have that name.
    """
    leaves = leaf_types(kind)
    if path in leaves:
        return path
    matches = [leaf for leaf in leaves if leaf.rsplit(".", 1)[-1] == path]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise ConfigError(
            f"a setting is named without doubt, but {path!r} could be {' or '.join(matches)}; write one of them"
        )
    names = sorted({*leaves, *(leaf.rsplit(".", 1)[-1] for leaf in leaves)})
    near = ", ".join(difflib.get_close_matches(path, names, n=3, cutoff=0.5)) or "epochs, seed, target"
    raise ConfigError(f"a setting must be a field of the trial's configuration, but got {path!r}; near names: {near}")
