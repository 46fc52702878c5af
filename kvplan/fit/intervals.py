"""Robust estimates of a time from blocks of samples."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import numpy as np
from scipy.special import bdtr, stdtrit


def sign_test_rank(count: int) -> int:
    """The rank r (0-based) such that [sorted[r], sorted[-1-r]] covers the median with at least 95 %; -1 when none does.

    The number of values below the median is Binomial(n, 1/2), so leaving out r values on each side covers
    1 - 2 P(X <= r). Six values are the fewest: 1 - 2/64 = 96.9 %.
    """
    return max((r for r in range(count // 2) if 2 * bdtr(r, count, 0.5) <= 0.05), default=-1)


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
    logs = np.log(ranked)
    half = float(stdtrit(len(logs) - 1, 0.975) * np.std(logs, ddof=1)) / math.sqrt(len(logs))
    return middle, middle * math.exp(-half), middle * math.exp(half)


def relative_half_width(middle: float, lo: float, hi: float) -> float:
    """Half of an interval's width over its middle."""
    return (hi - lo) / (2 * middle)
