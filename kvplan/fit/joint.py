"""Fits of many numbers at once to measurements that one run of a model predicts together."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np

from kvplan.fit.least_squares import Parameter, minimise
from kvplan.provenance import Z95


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
    predict: Callable[[dict[str, float]], Sequence[float]],
    parameters: Sequence[Parameter],
    measured: Sequence[float],
    sigma: Sequence[float],
) -> JointFit:
    """Values that minimise the soft-L1 loss of ln(predicted/measured) over `sigma`, the relative spread of each measurement.

    Intervals are Gauss-Newton's, widened by how far the residuals exceed `sigma`. Raises ValueError with fewer measurements than numbers.
    """
    if len(measured) < len(parameters):
        raise ValueError(f"{len(measured)} measurements do not determine {len(parameters)} numbers")
    values, found = minimise(predict, parameters, measured, sigma, diff_step=STEP, max_nfev=MOST_STEPS)
    off = ((np.log(np.asarray(predict(values))) - np.log(np.asarray(measured))) / np.asarray(sigma)).tolist()
    covariance = np.linalg.inv(found.jac.T @ found.jac) * beyond(off) ** 2
    widths = np.exp(Z95 * np.sqrt(np.diag(covariance))).tolist()
    intervals = {name: (value / width, value * width) for (name, value), width in zip(values.items(), widths, strict=True)}
    return JointFit(names=list(values), values=values, intervals=intervals, covariance=covariance, off=off)


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
    base = np.log(np.asarray(predict(fit.values)))
    slopes = []
    for name in fit.names:
        moved = dict(fit.values)
        moved[name] /= 1 + STEP  # downwards: efficiencies end at 1
        slopes.append((np.log(np.asarray(predict(moved))) - base) / -np.log1p(STEP))
    jacobian = np.array(slopes).T
    open_ = np.einsum("ij,jk,ik->i", jacobian, fit.covariance, jacobian)
    return (Z95 * np.sqrt(open_ + np.asarray(sigma) ** 2)).tolist()
