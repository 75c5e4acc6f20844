"""First points are checked before a search starts: one outside its space would be trained and then lost."""

from collections.abc import Sequence
from typing import Any

from greenprune_core.errors import ConfigError
from search_spaces.space import N_PROBES, Draw, RandomTrial, SearchSpace, Value, ask


def check_first_points(space: SearchSpace) -> None:
    """Refuse a first point with a value that the space does not draw.

    Raises:
        ConfigError: a value is outside its range, off its steps, or none of its choices.
    """
    for number, point in enumerate(space.first_points, start=1):
        # what a point leaves open decides which other parameters are asked for: a few draws show them
        for seed in range(N_PROBES):
            trial = _PointTrial(space.name, number, dict(point), RandomTrial(seed))
            ask(space, trial)
            if trial.is_whole:
                break


class _PointTrial:
    """Answer with a point's values, and at random for what it leaves open."""

    def __init__(self, space: str, number: int, point: dict[str, Value], random: RandomTrial) -> None:
        self._place = f"first point {number} of {space}"
        self._point = point
        self._random = random
        self.is_whole = True
        """Whether nothing was left open so far."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        drawn = self._random.suggest_float(name, low, high, step=step, log=log)
        return float(self._answer(name, drawn, step))

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        return int(self._answer(name, self._random.suggest_int(name, low, high, step=step, log=log), step))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._answer(name, self._random.suggest_categorical(name, choices))

    def _answer(self, name: str, drawn: Any, step: float | None = None) -> Any:
        if name not in self._point:
            self.is_whole = False
            return drawn
        value, draw = self._point[name], self._random.seen[name]
        if not _holds(draw, value, step):
            steps = f" in steps of {step:g}" if step not in (None, 1) else ""
            raise ConfigError(
                f"a first point lies inside its space, but {self._place} has {name}={value!r}, which is drawn from "
                f"{draw}{steps}; take a value from there, or widen the space"
            )
        return value


def _holds(draw: Draw, value: Any, step: float | None) -> bool:
    if draw.kind == "categorical":
        return value in draw.choices
    if isinstance(value, str) or value is None or not draw.low <= value <= draw.high:
        return False
    n_steps = 0.0 if step is None else (value - draw.low) / step
    return bool(abs(n_steps - round(n_steps)) < 1e-8)  # as Optuna rounds
