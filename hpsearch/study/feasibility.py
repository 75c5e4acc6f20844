"""What a sub-network must keep to be of use, and whether any trial of a run does."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hpsearch.units import ACCURACY, ENERGY, show

FIRST_LOOK = 8
"""Complete trials after which a search says that none is feasible yet: the first points and a few draws."""
HOPELESS = 2.0
"""A limit is out of reach when the cheapest network costs more than so many times of it: the first points of a space
and the first draws reach close to its cheapest network, so no draw makes up for that."""

NOT_KNOWN = 1.0
"""Violation where the energy is not known: as if it were twice the limit."""


@dataclass(frozen=True, kw_only=True)
class Constraints:
    """What a sub-network must keep to be feasible."""

    max_energy_j: float | None = None
    min_accuracy: float | None = None

    def of(self, row: Mapping[str, Any]) -> dict[str, float]:
        """Return each constraint's violation, met at <= 0, in shares so that they compare."""
        found = {}
        if self.max_energy_j is not None:
            energy_j = row.get("energy_j")
            is_missing = energy_j is None or not math.isfinite(energy_j)
            found["max_energy"] = NOT_KNOWN if is_missing else float(row["energy_j"]) / self.max_energy_j - 1.0
        if self.min_accuracy is not None:
            found["min_accuracy"] = self.min_accuracy - float(row["val_accuracy"])
        return found

    def __str__(self) -> str:
        parts = []
        if self.max_energy_j is not None:
            parts.append(f"max-energy {show(self.max_energy_j, ENERGY)}")
        if self.min_accuracy is not None:
            parts.append(f"min-accuracy {show(self.min_accuracy, ACCURACY)}")
        return " and ".join(parts)


@dataclass
class Feasibility:
    """How near the complete trials of a run came to its constraints."""

    constraints: Constraints = field(default_factory=Constraints)
    n_seen: int = 0
    n_feasible: int = 0
    nearest: Mapping[str, Any] | None = None
    """The trial with the least violation in sum; None before the first."""
    least_energy_j: float = float("inf")

    def take(self, row: Mapping[str, Any]) -> None:
        """Look at a complete trial."""
        violation = self._violation(row)
        self.n_seen += 1
        self.n_feasible += violation == 0.0
        if row.get("energy_j") is not None:
            self.least_energy_j = min(self.least_energy_j, row["energy_j"])
        if self.nearest is None or violation < self._violation(self.nearest):
            self.nearest = row

    @property
    def is_unmet(self) -> bool:
        """Whether there are complete trials, and none of them is feasible."""
        return self.n_seen > 0 and self.n_feasible == 0

    @property
    def is_hopeless(self) -> bool:
        """Whether the cheapest of enough trials is so far above the energy limit that no draw will meet it."""
        limit = self.constraints.max_energy_j
        return self.n_seen >= FIRST_LOOK and limit is not None and self.least_energy_j > HOPELESS * limit

    def describe(self) -> str:
        """Return the rule, what was found, and the nearest trial, as the begin of an error's line."""
        assert self.nearest is not None
        return (
            f"a search needs constraints that a trial can meet, but none of {self.n_seen} keeps {self.constraints}; "
            f"nearest: trial {self.nearest['trial_id']} with {show(self.nearest['val_accuracy'], ACCURACY)} at "
            f"{show(self.nearest['energy_j'], ENERGY)}"
        )

    def _violation(self, row: Mapping[str, Any]) -> float:
        return sum(max(0.0, value) for value in self.constraints.of(row).values())
