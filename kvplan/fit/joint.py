"""Fits of many numbers at once to measurements that one run of a model predicts together."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from kvplan.errors import MissingError


class Factor(msgspec.Struct, frozen=True, kw_only=True):
    """A positive number: a log-normal prior keeps it within a factor e^width of `typical` where nothing tells it, and never
    above `at_most` or below `at_least`."""

    name: str
    typical: float
    width: float
    at_least: float = 0.0
    at_most: float = float("inf")


class JointFit(msgspec.Struct, frozen=True, kw_only=True):
    """Fitted values and their 95 % intervals; `off` are the residuals ln(predicted/measured) over their sigma.

    `covariance` is of the logarithms, in the order of `names`.
    """

    names: list[str]
    values: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    covariance: Any
    off: list[float]


def fit_jointly(
    predict: Callable[[dict[str, float]], Sequence[float]], factors: Sequence[Factor], measured: Sequence[float], sigma: Sequence[float]
) -> JointFit:
    """Values that minimise the soft-L1 loss of ln(predicted/measured) over `sigma`, the relative spread of each measurement.

    Intervals are Gauss-Newton's, widened by how far the residuals exceed `sigma`. Raises MissingError without scipy, ValueError
    with fewer measurements than numbers.
    """
    import numpy as np

    try:
        from scipy.optimize import least_squares
    except ImportError:
        raise MissingError("fitting needs scipy", hint='pip install "kvplan[live]"') from None
    if len(measured) < len(factors):
        raise ValueError(f"{len(measured)} measurements do not determine {len(factors)} numbers")
    logs, weights = np.log(np.asarray(measured)), 1 / np.asarray(sigma)
    typical = np.log([factor.typical for factor in factors])
    widths = np.array([factor.width for factor in factors])
    low = np.log([max(factor.at_least, factor.typical * 1e-4) for factor in factors])
    high = np.log([min(factor.at_most, factor.typical * 1e4) for factor in factors])

    def residuals(theta: Any) -> Any:
        values = dict(zip((factor.name for factor in factors), np.exp(theta).tolist(), strict=True))
        off = (np.log(np.asarray(predict(values))) - logs) * weights
        return np.concatenate([off, (theta - typical) / widths])

    start = np.clip(typical, low + 1e-6, high - 1e-6)
    found = least_squares(residuals, start, loss="soft_l1", bounds=(low, high), diff_step=STEP, max_nfev=MOST_STEPS)
    off = residuals(found.x)[: len(logs)]
    excess = beyond(off.tolist())
    covariance = np.linalg.inv(found.jac.T @ found.jac) * excess**2
    half = 1.96 * np.sqrt(np.diag(covariance))
    values = dict(zip((factor.name for factor in factors), np.exp(found.x).tolist(), strict=True))
    return JointFit(
        names=[factor.name for factor in factors],
        values=values,
        intervals={
            name: (float(value * np.exp(-width)), float(value * np.exp(width)))
            for (name, value), width in zip(values.items(), half, strict=True)
        },
        covariance=covariance,
        off=off.tolist(),
    )


def beyond(off: Sequence[float]) -> float:
    """By what factor residuals exceed the spread that was expected of them: their median absolute value against a normal one's;
    at least 1."""
    return max(1.0, statistics.median(abs(one) for one in off) / NORMAL_MEDIAN)


STEP = 0.03
"""Relative step of the derivatives: beyond the kinks that single steps of an engine leave in its times."""
MOST_STEPS = 25
NORMAL_MEDIAN = 0.6745
"""Median of the absolute value of a standard normal number."""


def spread(fit: JointFit, predict: Callable[[dict[str, float]], Sequence[float]], sigma: Sequence[float]) -> list[float]:
    """Relative 95 % half-width of a new measurement of each point: what the numbers leave open, and the measurement's own spread
    `sigma`."""
    import numpy as np

    base = np.log(np.asarray(predict(fit.values)))
    slopes = []
    for name in fit.names:
        moved = dict(fit.values)
        moved[name] *= 1 + STEP
        slopes.append((np.log(np.asarray(predict(moved))) - base) / np.log1p(STEP))
    jacobian = np.array(slopes).T
    open_ = np.einsum("ij,jk,ik->i", jacobian, fit.covariance, jacobian)
    return (1.96 * np.sqrt(open_ + np.asarray(sigma) ** 2)).tolist()
