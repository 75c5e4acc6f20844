"""A lock on a run's folder, for what one process does at a time; the system frees it however the process ends."""

import fcntl
import hashlib
import os
import tempfile
from pathlib import Path

from greenprune_core.errors import ConfigError
from hpsearch.storage import RunStorage

DRIVER_LOCK = ".driver.lock"


class RunLock:
    """Keeps a second process off a run.

    An object store knows no locks: there the lock lies on this machine, and keeps off what is most likely to come, a
    `--resume` on the head where the first search still runs because only its terminal was lost.

    Args:
        storage: the run.
        name: of the file that is locked.
        rule: what one process does at a time, for the message.
        doing: what another one does to the run now, for the message.
        way_out: what to do about it.

    Raises:
        ConfigError: another process holds the lock, or the folder cannot be written.
    """

    def __init__(self, storage: RunStorage, name: str, *, rule: str, doing: str, way_out: str) -> None:
        self._stream = None
        path = _folder_here(storage) / name if storage.local is None else storage.local / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            stream = path.open("a")
        except OSError as error:
            raise ConfigError(
                f"the storage path must be writable, but {path.parent} failed: {error.strerror or error}; "
                "check the rights, or choose another --storage-path"
            ) from error
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            stream.close()
            raise ConfigError(f"{rule}, but {storage} is being {doing}; {way_out}") from error
        self._stream = stream

    def release(self) -> None:
        """Give the run free."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None


class DriverLock(RunLock):
    """Keeps a second search off a run."""

    def __init__(self, storage: RunStorage) -> None:
        super().__init__(
            storage,
            DRIVER_LOCK,
            rule="one process searches a run at a time",
            doing="searched",
            way_out="wait for it, stop it, or take another --name",
        )


def is_left(storage: RunStorage) -> bool:
    """Say whether the search that held a run's lock has ended; False also where no lock tells: in an object store.

    Ask on the machine of the search only: a folder shared between machines may keep its locks from the others.
    """
    if storage.local is None:
        return False
    try:
        with (storage.local / DRIVER_LOCK).open("rb") as stream:  # read only: nothing is made in another's run
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


class MeasureLock(RunLock):
    """Keeps a second measurement off a run: each would spoil the other's times and overwrite its lines."""

    def __init__(self, storage: RunStorage) -> None:
        super().__init__(
            storage,
            ".measure.lock",
            rule="one process measures a run at a time",
            doing="measured",
            way_out="wait for it, then measure again",
        )


def _folder_here(storage: RunStorage) -> Path:
    """Return the folder on this machine, of this user, for the locks of a run in an object store."""
    name = hashlib.sha256(str(storage).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"greenprune-locks-{os.getuid()}" / name
