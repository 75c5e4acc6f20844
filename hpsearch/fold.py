"""Trials that repeat one configuration with several seeds, folded into one row for fronts, pictures and picks."""

from collections.abc import Mapping, Sequence
from typing import Any

from hpsearch.repeated import mean_row

Row = Mapping[str, Any]

COSTS = ("energy_j", "macs", "params_kept", "latency_s", "model_latency_s")
OWN = ("trial_id", "seed", *COSTS)
"""What belongs to the network of one seed, and is no mean, when that network is taken away."""
ACCURACIES = ("val_accuracy", "test_accuracy")
TOLD = (*OWN, *ACCURACIES)
"""What a folded row keeps of every seed."""


def fold_repeats(rows: Sequence[Row], seeds: Sequence[Row] = ()) -> list[Row]:
    """Make one row of all complete rows that share a configuration's hash; the others stay as they are.

    It is the row of the lowest of these seeds, with the means over the seeds that the sampler was told, and all seeds
    in the column `repeats`. It stands where the last of its seeds stood.

    Args:
        rows: those whose costs compare.
        seeds: all complete rows, where `rows` may lack some seeds (only one was measured): the accuracy of one stands
            for no mean, so it is that of all.
    """
    every = _by_configuration(seeds)
    return [_fold(group, every.get(key, group)) for key, group in _by_configuration(rows).items()]


def each_seed(row: Row) -> list[Row]:
    """Return a folded row once per seed, with that seed's own network and costs under the mean accuracy."""
    seeds = [repeat for repeat in row.get("repeats") or [] if repeat.get("trial_id")]
    return [{**row, **{name: repeat.get(name) for name in OWN}} for repeat in seeds] or [row]


def _by_configuration(rows: Sequence[Row]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        key = str(row.get("config_hash") or row["trial_id"])
        # taken out and put back at the end: a dictionary keeps the order of insertion
        groups[key] = [*groups.pop(key, []), row]
    return groups


def _fold(group: Sequence[Row], seeds: Sequence[Row]) -> Row:
    if len(seeds) == 1:
        return group[0]
    compared, everyone = (sorted(part, key=_by_seed) for part in (group, seeds))
    mean = mean_row(everyone)
    accuracies = {name: mean.get(name) for name in ACCURACIES}
    ids = {row["trial_id"] for row in compared}
    repeats = [_tell(row, row["trial_id"] in ids) for row in everyone]
    return {**mean_row(compared), **accuracies, "latency_s": _measured(compared), "repeats": repeats}


def _measured(rows: Sequence[Row]) -> float | None:
    """Return the mean measured time of those seeds that were measured."""
    known = [row["latency_s"] for row in rows if row.get("latency_s") is not None]
    return sum(known) / len(known) if known else None


def _tell(row: Row, is_compared: bool) -> dict[str, Any]:
    return {name: None if name in COSTS and not is_compared else row.get(name) for name in TOLD}


def _by_seed(row: Row) -> tuple[int, str]:
    return row.get("seed") or 0, str(row["trial_id"])
