"""When a search ends before its last trial: the user, a budget, too many failures, a lost storage."""

import math
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Self

from greenprune_core.errors import ConfigError, GreenpruneError
from hpsearch.study.feasibility import FIRST_LOOK
from hpsearch.study.ledger import Ledger


class TooManyFailuresError(GreenpruneError):
    """A search in which more trials failed than the user allows, or none came to a result."""


def commonest(reasons: Counter[str]) -> str:
    """Say why most trials failed; there is at least one reason."""
    reason, count = reasons.most_common(1)[0]
    return f"commonest reason ({count}x): {reason}"


class StopRequest:
    """A wish that the search ends, with its first reason; nothing new starts, running trials stop or finish."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self.error: BaseException | None = None
        self._lets_finish = False

    @property
    def is_set(self) -> bool:
        """Whether the search is to stop."""
        return self.reason is not None

    @property
    def stops_running(self) -> bool:
        """Whether running trials are to keep a checkpoint and stop."""
        return self.is_set and not self._lets_finish

    def ask(self, reason: str, error: BaseException | None = None, *, lets_finish: bool = False) -> None:
        """Ask for the end; with an error, the search has failed by it. The first reason counts, the first stop too."""
        if self.reason is None:
            self.reason, self.error, self._lets_finish = reason, error, lets_finish
        elif not lets_finish:
            self._lets_finish = False


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
        if self._request.stops_running:
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
        lets_finish: bool = False,
        say: Callable[[str], None],
    ) -> None:
        self._request = request
        self._ledger = ledger
        self._ends_at = None if time_s is None else time.monotonic() + time_s
        self._energy_j = energy_j
        self._allowed_failures = math.floor(max_failures * n_trials + 1e-9)
        # of earlier sessions: their cause may be mended, and --resume is the way to say so
        self._n_before, self._reasons_before = ledger.n_finished, ledger.reasons.copy()
        self._lets_finish = lets_finish
        self._say = say
        self._has_said_unmet = False

    def check(self, running_j: float = 0.0) -> None:
        """Ask for the end when a budget is used up; `running_j` is what running trials have spent so far."""
        if self._ends_at is not None and time.monotonic() >= self._ends_at:
            self._request.ask("time budget used up", lets_finish=self._lets_finish)
        if self._energy_j is not None and self._ledger.energy_j + running_j >= self._energy_j:
            self._request.ask("energy budget used up", lets_finish=self._lets_finish)
        self._check_failures()
        self._check_constraints()

    def _check_failures(self) -> None:
        """Ask for the end when more trials of this session failed than may."""
        reasons = self._ledger.reasons - self._reasons_before
        n_failed, n_finished = reasons.total(), self._ledger.n_finished - self._n_before
        if n_failed <= self._allowed_failures:
            return
        self._request.ask(
            f"{n_failed} of {n_finished} trials failed",
            TooManyFailuresError(
                f"a search goes on while at most {self._allowed_failures} trials fail, but {n_failed} of "
                f"{n_finished} did; {commonest(reasons)}; mend that, then --resume, or allow more with --max-failures"
            ),
        )

    def _check_constraints(self) -> None:
        """Say once that nothing is feasible yet; ask for the end where nothing ever will be."""
        seen = self._ledger.feasibility
        if seen.n_seen < FIRST_LOOK or not seen.is_unmet:
            return
        if seen.is_hopeless:
            self._request.ask(
                "nothing can meet the constraints",
                ConfigError(f"{seen.describe()}; loosen them, or search a space with smaller networks"),
            )
        elif not self._has_said_unmet:
            self._say(f"{seen.describe()}; the search goes on towards them")
            self._has_said_unmet = True
