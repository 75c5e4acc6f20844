"""The study's journal: Optuna's log of one writer, safe against a kill at any byte and cheap per trial.

Optuna's own file backend locks and flushes once per operation (some 25 of them a trial) and refuses a file whose last
line was cut off. Here one process writes (it holds `DriverLock`), so operations are gathered and go to the disk
together at each `flush`; a torn last line is dropped when the file is opened again.
"""

import fcntl
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
LOCK = ".driver.lock"


class DriverJournal(BaseJournalBackend):
    """Journal backend of the one process that writes; `flush` is the moment from which a trial survives a kill.

    In a folder the lines are appended and synchronised. An object store knows no append: there each flush puts the
    whole journal as one object, so what a reader finds is always one complete state.
    """

    def __init__(self, storage: RunStorage) -> None:
        self._storage = storage
        content = storage.read_bytes(JOURNAL) if storage.exists(JOURNAL) else b""
        whole = content[: content.rfind(b"\n") + 1]
        if storage.local is not None and len(whole) < len(content):
            os.truncate(storage.local / JOURNAL, len(whole))
        self._unread = deque(_parse(whole, str(storage)))
        self._first_unread = 0
        self._pending: list[str] = []
        self._content = bytearray(whole) if storage.local is None else None

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
        if not self._pending:
            return
        text = ("\n".join(self._pending) + "\n").encode()
        if self._content is not None:
            self._storage.write_bytes(JOURNAL, bytes(self._content) + text)
            self._content += text
        else:
            assert self._storage.local is not None
            _append(self._storage.local / JOURNAL, text)
        self._pending.clear()


class JournalReader(BaseJournalBackend):
    """Journal backend that only reads, also while the search runs: the whole lines present when it was made."""

    def __init__(self, storage: RunStorage) -> None:
        content = storage.read_bytes(JOURNAL)
        self._logs = _parse(content[: content.rfind(b"\n") + 1], str(storage))

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        """Return the operations from a number on."""
        return self._logs[log_number_from:]

    def append_logs(self, logs: Iterable[dict[str, Any]]) -> None:
        """Refuse: only the driver writes."""
        raise RuntimeError(
            f"a journal opened for reading is not written, but got {list(logs)}; open it with DriverJournal"
        )


class DriverLock:
    """Keeps a second driver off a run in a folder; the system frees it when the process ends, however it ends."""

    def __init__(self, storage: RunStorage) -> None:
        """Take the lock.

        Raises:
            ConfigError: another process searches this run.
        """
        self._stream = None
        if storage.local is None:
            return
        try:
            storage.local.mkdir(parents=True, exist_ok=True)
            stream = (storage.local / LOCK).open("a")
        except OSError as error:
            raise ConfigError(
                f"the storage path must be writable, but {storage} failed: {error.strerror or error}; "
                "check the rights, or choose another --storage-path"
            ) from error
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            stream.close()
            raise ConfigError(
                f"one process searches a run at a time, but {storage} is being searched; "
                "wait for it, stop it, or take another --name"
            ) from error
        self._stream = stream

    def release(self) -> None:
        """Give the run free."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def study_name(storage: RunStorage) -> str | None:
    """Return the name of the study that a run's journal holds; None where there is no journal or it is empty."""
    if not storage.exists(JOURNAL):
        return None
    first, end, _ = storage.read_bytes(JOURNAL).partition(b"\n")
    if not end:
        return None  # killed in its very first write
    return next((str(log["study_name"]) for log in _parse(first, str(storage)) if "study_name" in log), None)


def _append(path: Path, text: bytes) -> None:
    """Append and synchronise; a write that fails half-way is taken back, so that a retry cannot tear a line."""
    with path.open("ab") as stream:
        end = stream.seek(0, os.SEEK_END)
        try:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        except OSError as error:
            os.truncate(path, end)
            raise ConfigError(
                f"the storage path must be writable, but {path} failed: {error.strerror or error}; "
                "check the rights and the free space, then go on with --resume"
            ) from error


def _parse(content: bytes, where: str) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in content.splitlines()]
    except ValueError as error:
        raise ConfigError(
            f"a journal holds one JSON object a line, but {where}/{JOURNAL} is damaged: {error}; "
            "restore the file from a copy, or start a new run with --warm-start"
        ) from error
