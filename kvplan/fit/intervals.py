"""Robust estimates of a time from blocks of samples."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

# Two-sided 95 % quantiles of Student's t for 1..4 degrees of freedom (any table of the distribution).
_T95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776}


def sign_test_rank(count: int) -> int:
    """The rank r (0-based) such that [sorted[r], sorted[-1-r]] covers the median with at least 95 %; -1 when none does.

    The number of values below the median is Binomial(n, 1/2), so leaving out r values on each side covers
    1 - 2 P(X <= r). Six values are the fewest: 1 - 2/64 = 96.9 %.
    """
    tail, rank = 0.0, -1
    for below in range(count // 2):
        tail += math.comb(count, below) / 2**count
        if 2 * tail > 0.05:
            break
        rank = below
    return rank


def median_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """(median, lo, hi) of positive values with a 95 % interval: order statistics from six values on, Student's t on
    logarithms below.

    One value tells nothing of its spread: its interval is a factor of two either way.
    """
    middle = statistics.median(values)
    ranked = sorted(values)
    rank = sign_test_rank(len(ranked))
    if rank >= 0:
        return middle, ranked[rank], ranked[-1 - rank]
    if len(ranked) == 1:
        return middle, middle / 2, middle * 2
    logs = [math.log(value) for value in ranked]
    half = _T95[len(logs) - 1] * statistics.stdev(logs) / math.sqrt(len(logs))
    return middle, middle * math.exp(-half), middle * math.exp(half)


def relative_half_width(middle: float, lo: float, hi: float) -> float:
    """Half of an interval's width over its middle."""
    return (hi - lo) / (2 * middle)


def median_relative_error(predicted: Sequence[float], measured: Sequence[float]) -> float:
    """Median of |predicted/measured - 1|. Raises statistics.StatisticsError on empty input."""
    return statistics.median(abs(p / m - 1) for p, m in zip(predicted, measured, strict=True))


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of the values lie, by linear interpolation."""
    ranked = sorted(values)
    place = share * (len(ranked) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ranked) - 1)
    return ranked[below] + (place - below) * (ranked[above] - ranked[below])
