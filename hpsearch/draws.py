"""What a space draws, asked without a search."""

import warnings
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution

from greenprune_core.config import TrialConfig
from greenprune_core.errors import ConfigError
from search_spaces import SearchSpace


def first_config(space: SearchSpace) -> TrialConfig:
    """Return the configuration that a search of the space tries first."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for point in space.first_points[:1]:
        study.enqueue_trial(dict(point))
    return space.suggest(study.ask())


def draw_distributions(space: SearchSpace, params: Mapping[str, Any]) -> dict[str, BaseDistribution]:
    """Return the distributions that a space would draw these values from.

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
            f"trials from elsewhere need the names and ranges of the space {space.name!r}, but {error}; "
            "use a run of the same space"
        ) from error
    unknown = sorted(set(params) - set(trial.distributions))
    if unknown:
        raise ConfigError(
            f"trials from elsewhere need the names of the space {space.name!r}, but got {unknown[0]!r}; "
            "use a run of the same space"
        )
    return dict(trial.distributions)
