"""Which device profile a run was made with: its name is the source of figures, so its numbers must stay the same."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from greenprune_core.cost.profile import REFERENCE, load_profile
from greenprune_core.errors import ConfigError
from hpsearch.settings import SearchSettings

KEY = "profile"
"""Field of settings.json."""


def describe(settings: SearchSettings) -> dict[str, str]:
    """Return name and digest of the profile that the settings ask for; the reference where they name none."""
    profile = load_profile(_asked(settings))
    content = json.dumps(profile.to_dict(), sort_keys=True).encode()
    return {"name": profile.name, "digest": hashlib.sha256(content).hexdigest()[:16]}


def check(facts: Mapping[str, Any], settings: SearchSettings) -> None:
    """Refuse to go on with other numbers under the name of the profile that a run was made with.

    Args:
        facts: content of the run's settings.json.
        settings: of the resumed search.

    Raises:
        ConfigError: the profile has changed.
    """
    before, now = facts.get(KEY), describe(settings)
    if before and before["name"] == now["name"] and before["digest"] != now["digest"]:
        raise ConfigError(
            f"a run keeps the numbers behind model:{now['name']}, but {_asked(settings)} has changed since it began; "
            "put the old file back, or begin a run with another --name"
        )


def _asked(settings: SearchSettings) -> str:
    return settings.pinned.get("budget.profile", settings.pinned.get("profile", REFERENCE))
