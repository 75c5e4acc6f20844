"""From timed layers to the rates of a device, by non-negative least squares on relative errors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls
from scipy.stats import spearmanr

from greenprune_core.cost import Cost
from greenprune_core.cost.energy import timing_counts
from greenprune_core.cost.profile import SECONDS, Quantity, Timing

LANES = (1, 4, 8, 16)
"""Widths of vector units that are tried; the one with the smallest residual stays."""

Key = tuple[str, str]
"""Field of `Timing` and kind of operator."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Score:
    """How well predictions meet what was measured."""

    median_error: float
    """Median of |predicted / measured - 1|."""
    rank_correlation: float
    """Spearman's rho."""
    n: int


def fit_timing(
    costs: Sequence[Cost],
    seconds: Sequence[float],
    batch_size: int,
    source: str,
    weights: Sequence[float] | None = None,
) -> Timing:
    """Fit all rates at one batch size.

    Args:
        costs: of one image, one per timed network.
        seconds: measured, of a pass over a batch; same order.
        batch_size: images per pass.
        source: stands beside every number of the result.
        weights: of each network's relative error, > 0; all alike without.
    """
    fits = []
    for lanes in LANES:
        counts = [count_timing(cost, batch_size, lanes) for cost in costs]
        rates, residual = fit_rates(counts, seconds, weights)
        fits.append((residual, lanes, rates))
    _, lanes, rates = min(fits, key=lambda fit: fit[0])
    by_field = {field: {kind: rates[field, kind] for f, kind in rates if f == field} for field in SECONDS}
    for field in SECONDS[1:]:
        # kinds that were not designed for are charged like element-wise ones
        by_field[field]["other"] = by_field[field].get("elementwise", 0.0)
    quantities = {
        field: {kind: Quantity(value=value, source=source) for kind, value in sorted(values.items())}
        for field, values in by_field.items()
    }
    return Timing(batch_size=batch_size, lanes=lanes, **quantities)


def count_timing(cost: Cost, batch_size: int, lanes: int) -> dict[Key, float]:
    """Add up what takes time in a network, by field of `Timing` and kind of operator."""
    total: dict[Key, float] = {}
    for operator in cost.operators:
        for field, count in timing_counts(operator, batch_size, lanes).items():
            total[field, operator.kind] = total.get((field, operator.kind), 0.0) + count
    return total


def fit_rates(
    counts: Sequence[Mapping[Key, float]], values: Sequence[float], weights: Sequence[float] | None = None
) -> tuple[dict[Key, float], float]:
    """Fit non-negative rates so that counts times rates meet the values: least squares of weight * relative error.

    Returns:
        The rates, and the norm of the weighted relative residuals.
    """
    keys = sorted({key for count in counts for key in count})
    design_NK: Floats = np.array([[count.get(key, 0.0) for key in keys] for count in counts])
    scale_K = design_NK.max(axis=0)
    scale_K[scale_K == 0] = 1.0
    relative_NK = design_NK / scale_K / np.asarray(values, dtype=float)[:, None]
    weights_N = np.ones(len(counts)) if weights is None else np.asarray(weights, dtype=float)
    solution_K, residual = nnls(relative_NK * weights_N[:, None], weights_N)
    return dict(zip(keys, (solution_K / scale_K).tolist(), strict=True)), float(residual)


def score(predicted: Sequence[float], measured: Sequence[float]) -> Score:
    """Compare predictions with measurements."""
    ratio = np.asarray(predicted, dtype=float) / np.asarray(measured, dtype=float)
    rho = float(spearmanr(predicted, measured).statistic)
    return Score(median_error=float(np.median(np.abs(ratio - 1))), rank_correlation=rho, n=len(ratio))


def fit_proxy(macs: Sequence[int], values: Sequence[float]) -> float:
    """Return the one rate of a MACs-only proxy, fitted to the same relative errors; for comparison."""
    rates, _ = fit_rates([{("proxy", "macs"): float(count)} for count in macs], values)
    return rates["proxy", "macs"]
