"""The user's home folder, which a container that runs as a bare number does not have."""

import functools
import os
import stat
import tempfile
from pathlib import Path

from greenprune_core.errors import ConfigError


def expand(path: str | os.PathLike[str]) -> Path:
    """Return a path with a `~` at its begin read as a home folder.

    Raises:
        ConfigError: there is no such user, or this one has no home.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ConfigError(
            f"a path that begins with ~ lies in the home of a user, but {os.fspath(path)} has none; write it in full, "
            "or ./~ for a folder of that name"
        ) from error


def in_home(name: str) -> Path:
    """Return a file of this user's home; where there is none, a name that no file has."""
    try:
        return Path.home() / name
    except RuntimeError:
        return Path("/nonexistent") / name


def give_home() -> None:
    """Let this process and its children have a home where they have none: Ray will not start without."""
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = str(_temporary())


def cache_folder() -> Path:
    """Return the folder for what can be made or fetched again: `$XDG_CACHE_HOME/greenprune` or `~/.cache/greenprune`.

    Where no home is known it is one among the temporary folders, for this user alone: scripts of pages come from it.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "greenprune"
    except RuntimeError:
        return _temporary()


@functools.cache
def _temporary() -> Path:
    folder = Path(tempfile.gettempdir()) / f"greenprune-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    is_ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022
    return folder if is_ours else Path(tempfile.mkdtemp(prefix="greenprune-"))
