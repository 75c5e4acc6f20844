"""Processors and GPUs of one trial, where the space says that trials differ."""

import dataclasses
from collections.abc import Mapping

from greenprune_core.config import TrialConfig
from greenprune_core.errors import ConfigError
from hpsearch.cluster.session import count_slots
from hpsearch.settings import SearchSettings
from search_spaces import SearchSpace

KNOWN = ("cpus", "gpus")


def with_needs(space: SearchSpace, config: TrialConfig, settings: SearchSettings) -> SearchSettings:
    """Return the settings with the processors and GPUs that the space wants for this trial.

    Raises:
        ConfigError: the space asks for something else, or for more than any node has.
    """
    if space.needs is None:
        return settings
    wanted = space.needs(config)
    if not isinstance(wanted, Mapping):
        raise ConfigError(
            f"what a trial needs is told as {' and '.join(KNOWN)}, but {space.name} told {wanted!r}; "
            "return a dictionary, an empty one where a trial needs nothing of its own"
        )
    if not set(wanted) <= set(KNOWN):
        raise ConfigError(
            f"what a trial needs is told as {' and '.join(KNOWN)}, but {space.name} told {', '.join(wanted)}; "
            "name only these"
        )
    own = dataclasses.replace(
        settings,
        cpus_per_trial=float(wanted.get("cpus", settings.cpus_per_trial)),
        gpus_per_trial=float(wanted.get("gpus", settings.gpus_per_trial)),
    )
    count_slots(own.cpus_per_trial, own.gpus_per_trial)
    return own
