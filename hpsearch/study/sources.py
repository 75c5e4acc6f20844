"""Where the values of a run's objectives are from: those of two sources are not told to one sampler."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hpsearch.objectives import Objective


class Sources:
    """The source of each objective whose values are modelled or measured.

    The first complete trial decides; of a run that is opened again, most of its trials, as on the front.
    """

    def __init__(self, objectives: Sequence[Objective]) -> None:
        self._columns = [(each.name, each.source_column) for each in objectives if each.source_column is not None]
        self._known: dict[str, Any] = {}

    def learn(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Take the commonest sources of complete trials; the first of the alphabet on a tie, as the front does."""
        rows = list(rows)
        for name, column in self._columns:
            counts = Counter(row[column] for row in rows if row.get(column))
            if counts:
                self._known[name] = min(counts, key=lambda source: (-counts[source], source))

    def foreign(self, rows: Iterable[Mapping[str, Any]]) -> str | None:
        """Say why a complete trial, all its seeds, does not compare with the others; None where it does."""
        for row in rows:
            for name, column in self._columns:
                known = self._known.setdefault(name, row.get(column))
                if row.get(column) != known:
                    return f"its {name} is from {row.get(column) or 'an unknown source'}, not from {known}"
        return None
