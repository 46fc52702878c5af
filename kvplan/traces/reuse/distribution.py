"""Percentiles of columns."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kvplan.results.trace import Distribution

_PERCENTS = (10, 25, 50, 75, 90, 95, 99)


def distribution(values: npt.NDArray) -> Distribution:
    """The distribution of at least one value; percentiles by nearest rank, so that each is a value that occurs."""
    ordered = np.sort(values)
    n = len(ordered)
    at = {f"p{percent}": float(ordered[min(n - 1, n * percent // 100)]) for percent in _PERCENTS}
    return Distribution(
        count=n,
        total=float(ordered.sum()),
        mean=float(ordered.mean()),
        min=float(ordered[0]),
        max=float(ordered[-1]),
        **at,
    )
