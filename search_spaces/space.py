"""A search space: which configurations are tried, in the define-by-run style of Optuna, without Optuna."""

import math
import random
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from greenprune_core.config import TrialConfig
from greenprune_core.errors import ConfigError
from greenprune_core.field_paths import leaf_types, resolve_path
from greenprune_core.typed_values import parse_value

Choice = None | bool | int | float | str
Value = float | Choice

N_PROBES = 64
"""Random configurations drawn to learn the parameters of a space; conditional ones show up among them."""


class SuggestTrial(Protocol):
    """The part of `optuna.trial.BaseTrial` that a space may use."""

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """Draw a number in [low, high]."""
        ...

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """Draw a whole number in [low, high]."""
        ...

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Draw one of the choices."""
        ...


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """Configurations to search, and what is known about them."""

    name: str
    """Short name, shown in listings and stored with every trial."""
    suggest: Callable[[SuggestTrial], TrialConfig]
    """Turns a trial's draws into a configuration; every draw is valid."""
    first_points: tuple[Mapping[str, Value], ...] = ()
    """Draws to try first, because they are known to be good."""
    scientific: tuple[str, ...] = ()
    """Drawn parameters whose effect the search is about."""
    nuisance: tuple[str, ...] = ()
    """Drawn parameters that must be tuned for a fair comparison of the scientific ones."""
    fixed: Mapping[str, str] = field(default_factory=dict)
    """Settings that the space holds, by dotted path, as text."""
    description: str = ""
    """What is learnt, how long a trial takes, what was chosen and why."""
    needs: Callable[[TrialConfig], Mapping[str, float]] | None = None
    """Where trials differ: `cpus` and `gpus` of one, in place of --cpus-per-trial and --gpus-per-trial."""


@dataclass(frozen=True)
class Draw:
    """What one parameter is drawn from."""

    kind: str
    """float, int or categorical."""
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    choices: tuple[Any, ...] = ()

    def __str__(self) -> str:
        if self.kind == "categorical":
            return " | ".join(map(str, self.choices))
        return f"{self.low:g} .. {self.high:g}{' (log)' if self.log else ''}"


def draws(space: SearchSpace) -> dict[str, Draw]:
    """Learn the parameters of a space, in the order in which they are drawn.

    Raises:
        ConfigError: the space draws a configuration that is not valid, or its code raises.
    """
    found: dict[str, Draw] = {}
    for seed in range(N_PROBES):
        probe = RandomTrial(seed)
        config = ask(space, probe)
        if not isinstance(config, TrialConfig):
            raise ConfigError(
                f"a space's suggest returns a TrialConfig, but {space.name} returned {type(config).__name__}; "
                "see search_spaces/digits.py"
            )
        found.update((name, draw) for name, draw in probe.seen.items() if name not in found)
    return found


def ask(space: SearchSpace, trial: SuggestTrial) -> TrialConfig:
    """Draw once; a mistake in the space's own code is the user's to mend, and named with its place.

    Raises:
        ConfigError: the space draws a configuration that is not valid, or its code raises.
    """
    try:
        return space.suggest(trial)
    except ConfigError:
        raise
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise ConfigError(
            f"a space's suggest returns a TrialConfig, but {space.name} raised {type(error).__name__}: {error} "
            f"({frame.filename}:{frame.lineno}); mend it, --verbose shows the whole traceback"
        ) from error


def pin(space: SearchSpace, values: Mapping[str, str]) -> SearchSpace:
    """Fix settings of a space from text, as `--set key=value` does.

    A key is the name of a drawn parameter (which is then no longer drawn) or a field of TrialConfig, by its dotted
    path or by its last name where that is unique.

    Raises:
        ConfigError: the key is unknown, or the value is of the wrong type, outside the drawn range, or makes a
            configuration that is not valid.
    """
    drawn = draws(space)
    pinned: dict[str, Value] = {}
    fields: dict[str, str] = {}
    for key, text in values.items():
        name = key if key in drawn else _drawn_name(key, drawn)
        if name in drawn:
            pinned[name] = _read(text, name, drawn[name])
        else:
            fields[resolve_path(TrialConfig, key)] = text

    def suggest(trial: SuggestTrial) -> TrialConfig:
        config = space.suggest(_PinnedTrial(trial, pinned) if pinned else trial)
        for path, text in fields.items():
            config = config.with_value(path, text)
        return config

    result = replace(
        space,
        suggest=suggest,
        first_points=_fitting_points(space.first_points, pinned),
        scientific=tuple(name for name in space.scientific if name not in pinned),
        nuisance=tuple(name for name in space.nuisance if name not in pinned),
        fixed={**space.fixed, **{name: str(value) for name, value in pinned.items()}, **fields},
    )
    draws(result)  # every draw must stay valid with these values
    return result


def _drawn_name(key: str, drawn: Mapping[str, Draw]) -> str:
    """Name of the drawn parameter behind a path like `budget.target` or `network.name`, or the key itself."""
    section, _, last = key.rpartition(".")
    if key in leaf_types(TrialConfig):
        return last if last in drawn else section if last == "name" and section in drawn else key
    return key


def _read(text: str, name: str, draw: Draw) -> Value:
    if draw.kind == "categorical":
        for choice in draw.choices:
            if text == str(choice):
                return choice  # type: ignore[no-any-return]
        raise ConfigError(f"{name} is drawn from {draw}, but got {text!r}; take one of these or bring your own space")
    value: float = parse_value(text, int if draw.kind == "int" else float, name)
    if not draw.low <= value <= draw.high:
        raise ConfigError(f"{name} is drawn from {draw}, but got {text}; take a value inside or bring your own space")
    return value


def _fitting_points(
    points: Sequence[Mapping[str, Value]], pinned: Mapping[str, Value]
) -> tuple[Mapping[str, Value], ...]:
    """First points without the pinned parameters, each once; those that have the pinned values, where some do."""
    for name, value in pinned.items():
        agreeing = [point for point in points if point.get(name) == value]
        points = agreeing or points
    kept: list[Mapping[str, Value]] = []
    for point in points:
        rest = {name: value for name, value in point.items() if name not in pinned}
        if rest not in kept:
            kept.append(rest)
    return tuple(kept)


class _PinnedTrial:
    """Answer for the pinned parameters, and ask the trial for the others."""

    def __init__(self, trial: SuggestTrial, pinned: Mapping[str, Value]) -> None:
        self._trial = trial
        self._pinned = pinned

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        if name in self._pinned:
            return float(self._pinned[name])  # type: ignore[arg-type]
        return self._trial.suggest_float(name, low, high, step=step, log=log)

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        if name in self._pinned:
            return int(self._pinned[name])  # type: ignore[arg-type]
        return self._trial.suggest_int(name, low, high, step=step, log=log)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        if name in self._pinned:
            return self._pinned[name]
        return self._trial.suggest_categorical(name, choices)


class RandomTrial:
    """Draw at random and remember what was asked.

    Attributes:
        seen: what each parameter was drawn from.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.seen: dict[str, Draw] = {}

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """Draw a number in [low, high]."""
        self.seen[name] = Draw("float", *_ordered(name, low, high), log)
        if step is not None:
            return low + step * self._random.randint(0, round((high - low) / step))
        if log:
            exponent = self._random.random()
            return min(high, max(low, math.exp(math.log(low) + exponent * math.log(high / low))))
        return self._random.uniform(low, high)

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """Draw a whole number in [low, high]."""
        self.seen[name] = Draw("int", *_ordered(name, low, high), log)
        return self._random.randrange(low, high + 1, step)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Draw one of the choices."""
        self.seen[name] = Draw("categorical", choices=tuple(choices))
        return self._random.choice(list(choices))


def _ordered(name: str, low: float, high: float) -> tuple[float, float]:
    if not low <= high:
        raise ConfigError(f"a range goes from low to high, but {name} has low={low}, high={high}; swap them")
    return low, high
