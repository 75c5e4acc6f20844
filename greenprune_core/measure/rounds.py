"""Timing many networks in rounds: each gets a short turn in every round, so that slow moments hit all alike."""

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from greenprune_core.measure.design import Subject
from greenprune_core.measure.inference import waiter
from greenprune_core.measure.meter import Meter, joules_between


@dataclass
class Timed:
    """One network at one batch size, and what was seen of it."""

    subject: Subject
    batch_size: int
    seconds: list[float] = field(default_factory=list)
    """Of every pass; of its thread where there is only one, else of the clock on the wall."""
    joules: list[float] = field(default_factory=list)
    """Per pass above idle, one figure per round; empty without a meter."""

    @property
    def undisturbed_s(self) -> float:
        """Seconds of a pass that nothing disturbed: the lowest decile, since other processes only add."""
        return sorted(self.seconds)[len(self.seconds) // 10]


def time_in_rounds(
    timed: Sequence[Timed],
    *,
    seconds: float,
    turn_s: float,
    meter: Meter,
    idle_power_w: float | None,
    device: str = "cpu",
    on_turn: Callable[[float], None] | None = None,
) -> None:
    """Fill `timed` until the time is over; the first round is always finished.

    Args:
        timed: changed in place.
        seconds: how long to go on.
        turn_s: length of one turn; at least three passes.
        meter: counts the joules of each turn.
        idle_power_w: subtracted; None without a meter.
        device: where the passes run.
        on_turn: called after every turn with the fraction of the time that has gone, in [0, 1].
    """
    started = time.perf_counter()
    with torch.inference_mode():
        for n_turns, each in enumerate(itertools.cycle(timed), start=1):
            _turn(each, max(turn_s, meter.window_s), meter, idle_power_w, device)
            done = min((time.perf_counter() - started) / seconds, n_turns / len(timed), 1.0)
            if on_turn is not None:
                on_turn(done)
            if done == 1.0:
                return


def _turn(timed: Timed, length_s: float, meter: Meter, idle_power_w: float | None, device: str) -> None:
    network = timed.subject.network.to(device)
    generator = torch.Generator().manual_seed(0)  # the caller's own stays as it was
    images = torch.rand(timed.batch_size, *timed.subject.input_shape, generator=generator).to(device)
    wait = waiter(device)
    network(images)  # the first pass of a turn finds cold caches
    wait()
    # one thread's own time leaves out what other processes took; several threads or a GPU have wall time only
    clock = time.thread_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    before_j, started, n_passes = meter.read_j(), time.perf_counter(), 0
    while n_passes < 3 or time.perf_counter() - started < length_s:
        began = clock()
        network(images)
        wait()
        timed.seconds.append(clock() - began)
        n_passes += 1
    elapsed_s, after_j = time.perf_counter() - started, meter.read_j()
    joules = joules_between(before_j, after_j, meter)
    if joules is not None:
        timed.joules.append((joules - (idle_power_w or 0.0) * elapsed_s) / n_passes)
