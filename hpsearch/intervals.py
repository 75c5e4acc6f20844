"""Intervals of measured shares and means: how far a figure may be from what it stands for."""

import math
from collections.abc import Sequence

Z_95 = 1.959963984540054
"""Two-sided 95 % point of the normal distribution."""

_T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""Two-sided 95 % points of Student's t for 1..10 degrees of freedom (Fisher and Yates, table III)."""


def share_interval(share: float | None, n: int | None) -> tuple[float, float] | None:
    """Return the 95 % interval of a share that was counted over n images.

    Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927): it stays inside
    [0, 1] and is right near 0 and 1, where the textbook interval is not.
    """
    if share is None or not n or n < 0 or not 0 <= share <= 1:  # NaN is none of these either
        return None
    z2 = Z_95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def mean_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % interval of a mean over repeats (Student 1908); None for fewer than two."""
    n = len(values)
    if n < 2:
        return None
    mean = sum(values) / n
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (n - 1))
    half = _t_95(n - 1) * deviation / math.sqrt(n)
    return mean - half, mean + half


def _t_95(freedom: int) -> float:
    """Return the two-sided 95 % point of Student's t; beyond the table by its expansion about the normal one.

    Abramowitz and Stegun 26.7.5; from 11 degrees of freedom on it is right to 2e-4.
    """
    if freedom <= len(_T_95):
        return _T_95[freedom - 1]
    z = Z_95
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


def overlap(one: tuple[float, float] | None, other: tuple[float, float] | None) -> bool | None:
    """Say whether two intervals share a point; None if one of them is not known."""
    if one is None or other is None:
        return None
    return one[0] <= other[1] and other[0] <= one[1]
