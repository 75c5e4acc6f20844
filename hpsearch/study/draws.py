"""What a space draws, asked without a search."""

import copy
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, Trial

from greenprune_core.config import TrialConfig
from greenprune_core.cost.profile import DeviceProfile, load_profile
from greenprune_core.errors import ConfigError
from search_spaces import SearchSpace
from search_spaces.space import N_PROBES


def first_config(space: SearchSpace) -> TrialConfig:
    """Return the configuration that a search of the space tries first."""
    return space.suggest(_begin(space.first_points[0] if space.first_points else {}, seed=0))


def first_profile(space: SearchSpace) -> DeviceProfile:
    """Return the device profile of the configuration that a search of the space tries first."""
    return load_profile(first_config(space).budget.profile)


def draw_point(space: SearchSpace, point: Mapping[str, Any], seed: int) -> Trial | None:
    """Return a trial with a point's values, the others drawn at random; None if the space does not hold the point."""
    trial = _begin(point, seed)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna warns of what is looked at below
            space.suggest(trial)
    except ValueError:
        return None
    kinds = trial.distributions
    return trial if all(_holds(kinds[name], value) for name, value in trial.params.items()) else None


def _begin(point: Mapping[str, Any], seed: int) -> Trial:
    """Begin a trial that answers with a point's values."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    study.enqueue_trial(dict(point))
    return study.ask()


def present_distributions(space: SearchSpace) -> dict[str, BaseDistribution]:
    """Return what each parameter of a space is drawn from now; conditional ones show up among random draws."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    found: dict[str, BaseDistribution] = {}
    for _ in range(N_PROBES):
        trial = study.ask()
        space.suggest(trial)
        found.update(trial.distributions)
    return found


def conform(trials: Iterable[FrozenTrial], present: Mapping[str, BaseDistribution]) -> list[FrozenTrial]:
    """Return finished trials as if the present space had drawn them; those outside its ranges are left out.

    A sampler takes a parameter's range from the trials that it knows, the oldest first: without this a resumed search
    would never draw from the part by which its space was widened.
    """
    found = []
    for trial in trials:
        now = {name: present.get(name, old) for name, old in trial.distributions.items()}
        if all(_holds(now[name], value) for name, value in trial.params.items()):
            changed = copy.copy(trial)
            changed.distributions = now
            found.append(changed)
    return found


def _holds(distribution: BaseDistribution, value: Any) -> bool:
    try:
        return distribution._contains(distribution.to_internal_repr(value))
    except ValueError:
        return False  # a choice that is none any more


def draw_distributions(
    space: SearchSpace, params: Mapping[str, Any], origin: str = "trials from elsewhere"
) -> dict[str, BaseDistribution]:
    """Return the distributions that a space would draw these values from; `origin` names where they are from.

    Raises:
        ConfigError: the space draws other names, or one of the values is outside its range.
    """
    trial = optuna.trial.FixedTrial(dict(params))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            space.suggest(trial)
    except (ValueError, Warning) as error:
        raise ConfigError(
            f"{origin} needs the names and ranges of the space {space.name!r}, but {error}; use a run of the same space"
        ) from error
    unknown = sorted(set(params) - set(trial.distributions))
    if unknown:
        raise ConfigError(
            f"{origin} needs the names of the space {space.name!r}, but got {unknown[0]!r}; use a run of the same space"
        )
    return dict(trial.distributions)
