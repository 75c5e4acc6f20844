"""Which device profile a run was made with: its name is the source of figures, so its numbers must stay the same."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from greenprune_core.cost.profile import REFERENCE, DeviceProfile, load_profile, pricing_profile
from greenprune_core.errors import ConfigError
from hpsearch.objectives import Objective
from hpsearch.settings import SearchSettings

KEY = "profile"
"""Field of settings.json."""


def describe(settings: SearchSettings) -> dict[str, str]:
    """Return name and digest of the profile that the settings ask for; the reference where they name none."""
    profile = load_profile(_asked(settings))
    content = json.dumps(profile.to_dict(), sort_keys=True).encode()
    return {"name": profile.name, "digest": hashlib.sha256(content).hexdigest()[:16]}


def check(facts: Mapping[str, Any], settings: SearchSettings) -> None:
    """Refuse to go on with other numbers than those of the profile that a run was made with.

    Args:
        facts: content of the run's settings.json.
        settings: of the resumed search.

    Raises:
        ConfigError: it is another profile, or the profile has changed.
    """
    before, now = facts.get(KEY), describe(settings)
    if before and before["name"] != now["name"]:
        raise ConfigError(
            f"a run keeps its device profile, but it was made with model:{before['name']} and got "
            f"model:{now['name']}; give --profile {facts['settings'].get('profile') or before['name']} or take "
            "another --name"
        )
    if before and before["digest"] != now["digest"]:
        raise ConfigError(
            f"a run keeps the numbers behind model:{now['name']}, but {_asked(settings)} has changed since it began; "
            "put the old file back, or begin a run with another --name"
        )


def source_of(objective: Objective, profile: DeviceProfile) -> str | None:
    """Return the source of what a profile models for an objective of inference; None where no profile is asked."""
    if objective.source_column is None:
        return None
    return f"model:{(pricing_profile(profile) if objective.name == 'energy' else profile).name}"


def _asked(settings: SearchSettings) -> str:
    return settings.pinned.get("budget.profile", settings.pinned.get("profile", REFERENCE))
