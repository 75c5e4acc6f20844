"""Find the user's own things by a reference that works in every process: `module:attribute` or `file.py:attribute`.

A registration made in one process is unknown to the worker processes of a search; a reference is not.
"""

import hashlib
import importlib
import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from greenprune_core.errors import ConfigError
from greenprune_core.home import expand


def is_reference(name: str) -> bool:
    """Say whether a name is `module:attribute` or `file.py:attribute` rather than a registered one."""
    return ":" in name


def load_reference(reference: str) -> Any:
    """Import the module or file left of the last colon and return its attribute right of it.

    A file is run once per process, under a module name made from its absolute path.

    Raises:
        ConfigError: no such file or module, it does not import, or it lacks the attribute.
    """
    where, _, attribute = reference.rpartition(":")
    if not where or not attribute:
        raise ConfigError(
            f"a reference is module:attribute or file.py:attribute, but got {reference!r}; name both sides of the colon"
        )
    module = _load_file(Path(where)) if where.endswith(".py") else _load_module(where)
    if not hasattr(module, attribute):
        names = ", ".join(sorted(name for name in vars(module) if not name.startswith("_"))) or "nothing public"
        raise ConfigError(
            f"{where} must define {attribute!r}, but it defines {names}; correct the name after the colon"
        )
    return getattr(module, attribute)


def check_takes(function: Any, name: str, rule: str, *arguments: Any, **named: Any) -> None:
    """Find out before a call of the user's own function whether it can be called so: an error inside it is its own.

    Args:
        function: what a name or a reference stands for.
        name: that name.
        rule: what such a function takes, in words.
        *arguments: as they will be given.
        **named: the same by name.

    Raises:
        ConfigError: it is no function, or takes other arguments.
    """
    try:
        signature = inspect.signature(function)
    except ValueError:  # some of those that are written in C do not tell
        return
    except TypeError as error:
        raise ConfigError(f"{rule}, but {name} is a {type(function).__name__}; name a function") from error
    try:
        signature.bind(*arguments, **named)
    except TypeError as error:
        raise ConfigError(f"{rule}, but {name} takes {signature} ({error}); change its parameters") from error


def _load_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise ConfigError(
            f"{name!r} must be a module that imports, but got {type(error).__name__}: {error}; "
            "install it, or give file.py:attribute"
        ) from error


def _load_file(path: Path) -> ModuleType:
    path = expand(path).absolute()
    if not path.is_file():
        raise ConfigError(f"a reference to a file needs the file, but got {str(path)!r}; correct the path")
    name = f"greenprune_user_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # a path that ends in .py always has a loader
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ConfigError(
            f"{path} must run without an error, but got {type(error).__name__}: {error}; run it alone to see where"
        ) from error
    return module
