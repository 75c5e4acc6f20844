"""When a search ends before its last trial: the user, a budget, too many failures, a lost storage."""

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Self

from greenprune_core.errors import GreenpruneError
from hpsearch.ledger import Ledger


class TooManyFailuresError(GreenpruneError):
    """A search in which more trials failed than the user allows."""


class StopRequest:
    """A wish that the search ends, with its first reason; running trials are checkpointed, nothing new starts."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self.error: BaseException | None = None

    @property
    def is_set(self) -> bool:
        """Whether the search is to stop."""
        return self.reason is not None

    def ask(self, reason: str, error: BaseException | None = None) -> None:
        """Ask for the end; with an error, the search has failed by it. The first request counts."""
        if self.reason is None:
            self.reason, self.error = reason, error


class Interrupts:
    """Ctrl-C once asks for the end, twice raises KeyboardInterrupt at once; SIGTERM counts as Ctrl-C."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, request: StopRequest, say: Callable[[str], None]) -> None:
        self._request = request
        self._say = say
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._on_signal) for number in self.SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._request.is_set:
            raise KeyboardInterrupt
        self._request.ask("interrupted")
        self._say("stopping: running trials keep a checkpoint, then the report is written; once more stops now")


class Budgets:
    """Watches what the whole search may spend."""

    def __init__(
        self,
        request: StopRequest,
        ledger: Ledger,
        *,
        time_s: float | None,
        energy_j: float | None,
        max_failures: float,
        n_trials: int,
    ) -> None:
        self._request = request
        self._ledger = ledger
        self._ends_at = None if time_s is None else time.monotonic() + time_s
        self._energy_j = energy_j
        self._allowed_failures = max(1.0, max_failures * n_trials)

    def check(self) -> None:
        """Ask for the end when a budget is used up."""
        if self._ends_at is not None and time.monotonic() >= self._ends_at:
            self._request.ask("time budget used up")
        if self._energy_j is not None and self._ledger.energy_j >= self._energy_j:
            self._request.ask("energy budget used up")
        n_failed = self._ledger.counts["failed"]
        if n_failed > self._allowed_failures:
            reason, count = self._ledger.reasons.most_common(1)[0]
            self._request.ask(
                f"{n_failed} of {self._ledger.n_finished} trials failed",
                TooManyFailuresError(
                    f"a search goes on while at most {self._allowed_failures:.0f} trials fail, but {n_failed} of "
                    f"{self._ledger.n_finished} did; commonest reason ({count}x): {reason}; "
                    "mend that, then --resume, or allow more with --max-failures"
                ),
            )
