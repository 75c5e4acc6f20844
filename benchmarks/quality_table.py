"""Statistics of benchmarks/quality.py: means, standard errors, paired differences, goals, as Markdown."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class Mean:
    """A mean with its standard error; nan where n is too small."""

    n: int
    value: float
    error: float

    def text(self, sign: bool = False) -> str:
        """Percent, or points of difference."""
        if self.n == 0:
            return "-"
        error = "" if math.isnan(self.error) else f" ± {100 * self.error:.2f}"
        return f"{100 * self.value:{'+' if sign else ''}.2f}{error}"


def mean(values: Sequence[float]) -> Mean:
    """Mean and standard error of independent values."""
    n = len(values)
    if n == 0:
        return Mean(0, math.nan, math.nan)
    error = statistics.stdev(values) / math.sqrt(n) if n > 1 else math.nan
    return Mean(n, statistics.fmean(values), error)


def by_seed(rows: Sequence[Row], arm: str) -> dict[int, Row]:
    """Finished rows of one arm."""
    return {row["seed"]: row for row in rows if row["arm"] == arm and "error" not in row}


def paired(rows: Sequence[Row], arm: str, other: str) -> Mean:
    """Mean difference of test accuracies over the seeds that both arms have."""
    first, second = by_seed(rows, arm), by_seed(rows, other)
    return mean([first[s]["test_accuracy"] - second[s]["test_accuracy"] for s in sorted(first.keys() & second.keys())])


def table(rows: Sequence[Row], arms: Sequence[str]) -> list[str]:
    """One line per arm, in the given order."""
    lines = [
        "| arm | n | test accuracy, % | MACs kept | parameters kept | training MACs / dense | - dense | - uniform |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for arm in arms:
        found = list(by_seed(rows, arm).values())
        if not found:
            continue
        test = mean([row["test_accuracy"] for row in found])
        kept = [statistics.fmean(row[key] for row in found) for key in ("macs_kept", "params_kept", "train_macs_share")]
        control = f"uniform/{arm.split('/')[1]}/epochs" if "/" in arm else "dense"
        versus = paired(rows, arm, control).text(sign=True) if control not in (arm, "dense") else "-"
        dense = paired(rows, arm, "dense").text(sign=True) if arm != "dense" else "-"
        lines.append(
            f"| {arm} | {test.n} | {test.text()} | {kept[0]:.3f} | {kept[1]:.3f} | {kept[2]:.2f} | {dense} | {versus} |"
        )
    return lines


def goals(rows: Sequence[Row], scale: str) -> list[str]:
    """Say of each goal whether it was reached, with the figures."""
    best = "ours/0.5/channel"
    lines = []
    top = paired(rows, "ours/0.75/channel", "dense")
    lines.append(_verdict("at 0.75 of the MACs no drop against dense (>= -0.1)", top, top.value >= -0.001))
    half = paired(rows, best, "uniform/0.5/epochs")
    lines.append(_verdict("at 0.5 above uniform width by more than two standard errors", half, _is_above(half)))
    lean = paired(rows, "ours/0.5/parameters", "uniform/0.5/epochs")
    lines.append(_verdict("the same at no larger a share of the parameters", lean, _is_above(lean)))
    for target in (0.75, 0.5, 0.35, 0.25):
        same_cost = paired(rows, f"ours/{target}/channel", f"uniform/{target}/cost")
        lines.append(
            _verdict(f"at {target} not below uniform width of the same training MACs", same_cost, same_cost.value >= 0)
        )
    if scale == "gpu":
        for arm in (best, "ours/0.5/parameters"):
            drop = paired(rows, arm, "dense")
            lines.append(_verdict(f"{arm} at most 0.3 point below dense", drop, drop.value >= -0.003))
            if params := [row["params_kept"] for row in by_seed(rows, arm).values()]:
                share = statistics.fmean(params)
                verdict = "reached" if share <= 0.5 else "MISSED"
                lines.append(f"- {verdict}: {arm} keeps at most 0.5 of the parameters: {share:.3f}")
    for other in ("slimming/0.5", "magnitude/0.5", "depgraph/0.5", "oto/0.5"):
        difference = paired(rows, best, other)
        lines.append(_verdict(f"not below {other} at the same training MACs", difference, difference.value >= 0))
    return lines


def _is_above(difference: Mean) -> bool:
    return difference.value > 2 * difference.error


def _verdict(goal: str, difference: Mean, reached: bool) -> str:
    if difference.n == 0:
        return f"- not measured: {goal}"
    return f"- {'reached' if reached else 'MISSED'}: {goal}: {difference.text(sign=True)} points (n {difference.n})"
