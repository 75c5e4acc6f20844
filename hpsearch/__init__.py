"""Many networks: run a search, keep what it finds, show it, pick from it.

`open_run` reads a finished or running search and needs neither ray nor optuna nor torch. Names load at first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpsearch.picker import NothingFitsError, Pick
    from hpsearch.search_run import SearchRun, open_run

__all__ = ["NothingFitsError", "Pick", "SearchRun", "open_run"]

_HOME = {"picker": ("NothingFitsError", "Pick"), "search_run": ("SearchRun", "open_run")}


def __getattr__(name: str) -> Any:
    for module, names in _HOME.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
