"""A lock on a run's folder while it is measured; the system frees it however the process ends."""

import fcntl

from greenprune_core.errors import ConfigError
from hpsearch.storage import RunStorage

LOCK = ".measure.lock"


class MeasureLock:
    """Keeps a second measurement off a run: each would spoil the other's times and overwrite its lines.

    Args:
        storage: the run; an object store knows no such locks.

    Raises:
        ConfigError: another process measures it, or the folder cannot be written.
    """

    def __init__(self, storage: RunStorage) -> None:
        self._stream = None
        if storage.local is None:
            return
        try:
            stream = (storage.local / LOCK).open("a")
        except OSError as error:
            raise ConfigError(
                f"measurements go into the run's folder, but {storage} failed: {error.strerror or error}; "
                "check the rights"
            ) from error
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            stream.close()
            raise ConfigError(
                f"one process measures a run at a time, but {storage} is being measured; wait for it, then try again"
            ) from error
        self._stream = stream

    def release(self) -> None:
        """Give the run free."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None
