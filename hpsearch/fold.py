"""Trials that repeat one configuration with several seeds, folded into one row for fronts, pictures and picks."""

from collections.abc import Mapping, Sequence
from typing import Any

from hpsearch.repeated import mean_row

Row = Mapping[str, Any]

OWN = ("trial_id", "seed", "energy_j", "macs", "params_kept", "latency_s", "model_latency_s")
"""What belongs to the network of one seed, and is no mean, when that network is taken away."""
TOLD = (*OWN, "val_accuracy", "test_accuracy")
"""What a folded row keeps of every seed."""


def fold_repeats(rows: Sequence[Row]) -> list[Row]:
    """Make one row of all complete rows that share a configuration's hash; the others stay as they are.

    It is the row of the lowest seed, with the means over the seeds that the sampler was told, and all seeds in the
    column `repeats`. It stands where the last of its seeds stood.
    """
    groups: dict[str, list[Row]] = {}
    for row in rows:
        key = str(row.get("config_hash") or row["trial_id"])
        # taken out and put back at the end: a dictionary keeps the order of insertion
        groups[key] = [*groups.pop(key, []), row]
    return [group[0] if len(group) == 1 else _fold(group) for group in groups.values()]


def each_seed(row: Row) -> list[Row]:
    """Return a folded row once per seed, with that seed's own network and costs under the mean accuracy."""
    seeds = [repeat for repeat in row.get("repeats") or [] if repeat.get("trial_id")]
    return [{**row, **{name: repeat.get(name) for name in OWN}} for repeat in seeds] or [row]


def _fold(group: Sequence[Row]) -> Row:
    by_seed = sorted(group, key=lambda row: (row.get("seed") or 0, str(row["trial_id"])))
    return {**mean_row(by_seed), "repeats": [{name: row.get(name) for name in TOLD} for row in by_seed]}
