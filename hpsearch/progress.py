"""What a person sees while a search runs: a live panel on a terminal, plain lines elsewhere."""

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from hpsearch.pareto import share_of_box
from hpsearch.study.ledger import Ledger
from hpsearch.units import show_duration

LINE_EVERY_S = 5.0
FRAME_EVERY_S = 0.5


class Progress:
    """Shows trials done, running and failed, front, hypervolume and time left; cheap enough for every event."""

    def __init__(self, n_trials: int, console: Console | None = None) -> None:
        self._console = console or Console(file=sys.stdout)
        self._n_trials = n_trials
        self._ledger: Ledger | None = None
        self._began = time.monotonic()
        self._n_before = 0
        self._shown_at = float("-inf")
        self._line = ""
        self._live: Live | None = None

    def begin(self, ledger: Ledger) -> None:
        """Start the clock; trials that are finished already do not count for the time left."""
        self._ledger = ledger
        self._began = time.monotonic()
        self._n_before = ledger.n_finished

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False, transient=False)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.update(0, at_once=True)
        if self._live is not None:
            self._live.stop()

    def update(self, n_running: int, *, at_once: bool = False) -> None:
        """Show where the search stands, if it is time to."""
        every = FRAME_EVERY_S if self._live is not None else LINE_EVERY_S
        now = time.monotonic()
        if self._ledger is None or (now - self._shown_at < every and not at_once):
            return
        self._shown_at = now
        figures = self._figures(n_running)
        if self._live is not None:
            table = Table(*figures, box=None, padding=(0, 2), header_style="bold")
            table.add_row(*figures.values())
            self._live.update(table, refresh=True)
            return
        line = "  ".join(f"{name} {value}" for name, value in figures.items())
        if line != self._line:
            self._line = line
            self._console.print(line, highlight=False, soft_wrap=True)

    def _figures(self, n_running: int) -> dict[str, str]:
        assert self._ledger is not None
        counts, tracker = self._ledger.counts, self._ledger.tracker
        done = self._ledger.n_finished
        return {
            "done": f"{done}/{self._n_trials}",
            "running": str(n_running),
            "stopped": str(counts["stopped"]),
            "failed": str(counts["failed"]),
            "front": str(len(tracker.front) if tracker else 0),
            "hypervolume": f"{share_of_volume(self._ledger):.4f}",
            "left": self._time_left(done),
        }

    def _time_left(self, done: int) -> str:
        new = done - self._n_before
        if done >= self._n_trials:
            return show_duration(0)
        if new < 1:
            return "?"
        return show_duration((time.monotonic() - self._began) / new * (self._n_trials - done))


def share_of_volume(ledger: Ledger) -> float:
    """Return the hypervolume as a share of the whole box, in [0, 1]."""
    if ledger.tracker is None:
        return 0.0
    return share_of_box(ledger.tracker.hypervolume, ledger.tracker.reference)
