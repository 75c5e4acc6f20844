"""The study's journal: Optuna's log of one writer, safe against a kill at any byte and cheap per trial.

Optuna's own file backend locks and flushes once per operation (some 25 of them a trial) and refuses a file whose last
line was cut off. Here one process writes (it holds `DriverLock`), so operations are gathered and go to the disk
together at each `flush`; a torn last line is dropped when the file is opened again. What can be told again from a row
needs no flush of its own: `hand_over` gives it to the system, and the next flush synchronises both.
"""

import json
import os
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from optuna.storages.journal import BaseJournalBackend

from greenprune_core.errors import ConfigError
from hpsearch.storage import RunStorage

JOURNAL = "study.journal"


class DriverJournal(BaseJournalBackend):
    """Journal backend of the one process that writes; `flush` is the moment from which a trial survives a kill.

    In a folder the lines are appended and synchronised. An object store knows no append: there each flush puts the
    whole journal as one object, so what a reader finds is always one complete state.
    """

    def __init__(self, storage: RunStorage) -> None:
        self._storage = storage
        content = _read(storage) if storage.exists(JOURNAL) else b""
        whole = content[: content.rfind(b"\n") + 1]
        if storage.local is not None and len(whole) < len(content):
            os.truncate(storage.local / JOURNAL, len(whole))
        self._unread = deque(_parse(whole, str(storage)))
        self._first_unread = 0
        self._pending: list[str] = []
        self._is_synchronised = True
        self._content = bytearray(whole) if storage.local is None else None

    def __str__(self) -> str:
        return f"{self._storage}/{JOURNAL}"

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        """Return the operations from a number on; those before it are forgotten, as a storage reads each once."""
        while self._first_unread < log_number_from and self._unread:
            self._unread.popleft()
            self._first_unread += 1
        return list(self._unread)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Take operations in; they reach the disk at the next `flush`."""
        for log in logs:
            line = json.dumps(log, separators=(",", ":"))
            self._pending.append(line)
            # what is applied now is what a later reader will find: the parsed text, not the caller's objects
            self._unread.append(json.loads(line))

    def flush(self) -> None:
        """Write what is pending and synchronise it.

        Raises:
            ConfigError: the place cannot be written to, or is full; what is pending is kept for another try.
        """
        self._write(synchronise=True)

    def hand_over(self) -> None:
        """Let what is pending survive a kill of this process, but not yet a loss of power.

        In an object store it waits for the next flush, which puts the whole journal anyway.

        Raises:
            ConfigError: as with `flush`.
        """
        if self._content is None:
            self._write(synchronise=False)

    def _write(self, *, synchronise: bool) -> None:
        if not self._pending and (self._is_synchronised or not synchronise):
            return
        text = "".join(f"{line}\n" for line in self._pending).encode()
        if self._content is not None:
            self._storage.write_bytes(JOURNAL, bytes(self._content) + text)
            self._content += text
        else:
            assert self._storage.local is not None
            _append(self._storage.local / JOURNAL, text, synchronise=synchronise)
            self._is_synchronised = synchronise
        self._pending.clear()


class JournalReader(BaseJournalBackend):
    """Journal backend that only reads, also while the search runs: the whole lines present when it was made."""

    def __init__(self, storage: RunStorage) -> None:
        self._storage = storage
        content = _read(storage)
        self._logs = _parse(content[: content.rfind(b"\n") + 1], str(storage))

    def __str__(self) -> str:
        return f"{self._storage}/{JOURNAL}"

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        """Return the operations from a number on."""
        return self._logs[log_number_from:]

    def append_logs(self, logs: Iterable[dict[str, Any]]) -> None:
        """Refuse: only the driver writes."""
        raise RuntimeError(
            f"a journal opened for reading is not written, but got {list(logs)}; open it with DriverJournal"
        )


def study_name(storage: RunStorage) -> str | None:
    """Return the name of the study that a run's journal holds; None where there is no journal or it is empty."""
    if not storage.exists(JOURNAL):
        return None
    first, end, _ = _read(storage).partition(b"\n")
    if not end:
        return None  # killed in its very first write
    return next((str(log["study_name"]) for log in _parse(first, str(storage)) if "study_name" in log), None)


def _read(storage: RunStorage) -> bytes:
    try:
        return storage.read_bytes(JOURNAL)
    except OSError as error:
        raise ConfigError(
            f"a run's journal must be readable, but {storage}/{JOURNAL} failed: {error}; check the rights"
        ) from error


def _append(path: Path, text: bytes, *, synchronise: bool) -> None:
    """Append and, if asked to, synchronise; a write that fails half-way is taken back: a retry cannot tear a line."""
    try:
        # no buffer: what is left in one after a failure would be written when the file is closed, behind the cut
        stream = path.open("ab", buffering=0)
    except OSError as error:
        raise _not_written(path, error) from error
    with stream:
        end, left = stream.seek(0, os.SEEK_END), memoryview(text)
        try:
            while left:
                left = left[stream.write(left) :]
            if synchronise:
                os.fsync(stream.fileno())
        except OSError as error:
            os.truncate(path, end)
            raise _not_written(path, error) from error


def _not_written(path: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"the storage path must be writable, but {path} failed: {error.strerror or error}; "
        "check the rights and the free space, then go on with --resume"
    )


def _parse(content: bytes, where: str) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in content.splitlines()]
    except ValueError as error:
        raise ConfigError(
            f"a journal holds one JSON object a line, but {where}/{JOURNAL} is damaged: {error}; "
            "restore the file from a copy, or start a new run with --warm-start"
        ) from error
