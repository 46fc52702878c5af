"""From rows of measured seconds to the parameters of a form: robust fits of relative errors.

Intervals hold the noise between blocks (bootstrap) and the choice of points (jackknife).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import msgspec
import numpy as np
from scipy.optimize import least_squares

from kvplan.provenance import Z95

DRAWS = 60  # bootstrap draws; enough for a 95 % interval to about a tenth of its width
GROUPS = 20  # groups of points that the jackknife leaves out in turn, at most


class Timed(Protocol):
    """What a fit reads of a row: seconds with their 95 % interval, and the medians of the blocks that they come from."""

    @property
    def seconds(self) -> float: ...
    @property
    def lo(self) -> float: ...
    @property
    def hi(self) -> float: ...
    @property
    def block_medians(self) -> tuple[float, ...]: ...


class Fitted(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One number with its 95 % interval and where it comes from, in words."""

    value: float
    lo: float
    hi: float
    source: str


class Regression(msgspec.Struct, frozen=True, kw_only=True):
    """Fitted parameters by name, and how well the form describes the rows: relative errors."""

    values: dict[str, Fitted]
    median_error: float
    p90_error: float
    rows: int


class Parameter(msgspec.Struct, frozen=True, kw_only=True):
    """A positive parameter: a log-normal prior keeps one that nothing determines near `typical` (within a factor e^width)."""

    name: str
    typical: float
    width: float = 1.0
    at_least: float = 1e-300
    at_most: float = math.inf


R = TypeVar("R", bound=Timed)
Model = Callable[[dict[str, float]], Callable[[R], float]]
"""Values of the parameters -> a function from a row to the seconds that they predict."""


def fit(model: Model[R], parameters: Sequence[Parameter], rows: Sequence[R], *, scale: float, source: str) -> Regression:
    """Parameters that minimise the soft-L1 loss of ln(predicted/measured), weighted by each row's own spread, with 95 % intervals.

    `scale` is the relative error beyond which a row counts less. Raises ValueError with fewer rows than parameters.
    """
    best = solve(model, parameters, rows, scale)
    sigma = np.hypot(_block_sigma(model, parameters, rows, scale, best), _point_sigma(model, parameters, rows, scale, best))
    predict = model(best)
    errors = [abs(predict(row) / row.seconds - 1) for row in rows]
    error = float(np.median(errors))
    text = f"{source}: {len(rows)} points, median error {error:.1%}"

    def fitted(parameter: Parameter, half: float) -> Fitted:
        value = best[parameter.name]
        return Fitted(value=value, lo=value * math.exp(-half), hi=min(parameter.at_most, value * math.exp(half)), source=text)

    values = {p.name: fitted(p, Z95 * float(s)) for p, s in zip(parameters, sigma, strict=True)}
    return Regression(values=values, median_error=error, p90_error=float(np.quantile(errors, 0.9)), rows=len(rows))


def solve(
    model: Model[R],
    parameters: Sequence[Parameter],
    rows: Sequence[R],
    scale: float,
    *,
    measured: Sequence[float] = (),
    start: dict[str, float] | None = None,
) -> dict[str, float]:
    """The best values alone. `measured` replaces the rows' seconds, `start` is where to begin instead of at the typical values.

    Raises ValueError with fewer rows than parameters.
    """
    if len(rows) < len(parameters):
        raise ValueError(f"{len(rows)} rows do not determine {len(parameters)} parameters")

    def predict(values: dict[str, float]) -> list[float]:
        one = model(values)
        return [one(row) for row in rows]

    sigma = [max(scale, relative_sigma(row)) for row in rows]
    return minimise(predict, parameters, measured or [row.seconds for row in rows], sigma, start=start)[0]


def minimise(
    predict: Callable[[dict[str, float]], Sequence[float]],
    parameters: Sequence[Parameter],
    measured: Sequence[float],
    sigma: Sequence[float],
    *,
    start: dict[str, float] | None = None,
    **options: Any,
) -> tuple[dict[str, float], Any]:
    """The values that minimise the soft-L1 loss of ln(predicted/measured) over `sigma`, and scipy's own answer on their logarithms.

    `options` go to scipy's least_squares.
    """
    logs, weights = np.log(np.asarray(measured)), 1 / np.asarray(sigma)
    typical, low, high = (np.log([getattr(p, name) for p in parameters]) for name in ("typical", "at_least", "at_most"))
    widths = np.array([p.width for p in parameters])

    def named(theta: np.ndarray) -> dict[str, float]:
        return dict(zip((p.name for p in parameters), np.exp(theta).tolist(), strict=True))

    def residuals(theta: np.ndarray) -> np.ndarray:
        off = (np.log(np.asarray(predict(named(theta)))) - logs) * weights
        return np.concatenate([off, (theta - typical) / widths])

    first = np.array([math.log(start[p.name]) for p in parameters]) if start else typical
    first = np.clip(first, low + 1e-6, high - 1e-6)
    found = least_squares(residuals, first, loss="soft_l1", bounds=(low, high), **options)
    return named(found.x), found


def _spread(draws: Sequence[dict[str, float]]) -> np.ndarray:
    """Standard deviation of each parameter's logarithm over draws."""
    return np.std(np.log([list(values.values()) for values in draws]), axis=0)


def _block_sigma(model: Model[R], parameters: Sequence[Parameter], rows: Sequence[R], scale: float, best: dict[str, float]) -> np.ndarray:
    """The spread over bootstrap draws of the rows' blocks."""
    generator = np.random.default_rng(1)
    return _spread(
        [solve(model, parameters, rows, scale, measured=[draw(row, generator) for row in rows], start=best) for _ in range(DRAWS)]
    )


def _point_sigma(model: Model[R], parameters: Sequence[Parameter], rows: Sequence[R], scale: float, best: dict[str, float]) -> np.ndarray:
    """The spread by the delete-a-group jackknife over the rows: what another choice of points would have given
    (Quenouille 1956, Tukey 1958).
    """
    groups = min(GROUPS, len(rows))
    if len(rows) - math.ceil(len(rows) / groups) < len(parameters):
        return np.zeros(len(parameters))
    left = [[row for i, row in enumerate(rows) if i % groups != out] for out in range(groups)]
    return math.sqrt(groups - 1) * _spread([solve(model, parameters, kept, scale, start=best) for kept in left])


def relative_sigma(row: Timed) -> float:
    """Relative standard deviation of a row from its interval; at most a fifth, since intervals of few blocks are
    wide by themselves.
    """
    return min(0.2, (row.hi - row.lo) / (2 * Z95 * row.seconds))


def ratio(above: Sequence[R], below: Sequence[R], *, source: str) -> Fitted:
    """Median over pairs of seconds(above)/seconds(below), with an interval from both rows' blocks."""
    if not above:
        raise ValueError("no pair of rows to compare")
    generator = np.random.default_rng(2)
    draws = [[draw(a, generator) / draw(b, generator) for a, b in zip(above, below, strict=True)] for _ in range(200)]
    value = float(np.median([a.seconds / b.seconds for a, b in zip(above, below, strict=True)]))
    low, high = np.quantile(np.median(draws, axis=1), [0.025, 0.975])
    return Fitted(value=value, lo=float(min(low, value)), hi=float(max(high, value)), source=source)


def draw(row: Timed, generator: np.random.Generator) -> float:
    """One bootstrap draw of a row's seconds: the median of its blocks drawn with replacement."""
    return float(np.median(generator.choice(row.block_medians, len(row.block_medians))))


def direct(rows: Sequence[R], value: Callable[[R, float], float], *, source: str) -> Fitted:
    """Median over rows of a value computed from each row's seconds, with the median of the rows' intervals."""
    if not rows:
        raise ValueError("no rows")
    middle = float(np.median([value(row, row.seconds) for row in rows]))
    ends = [sorted((value(row, row.lo), value(row, row.hi))) for row in rows]
    low, high = np.median(ends, axis=0)
    return Fitted(value=middle, lo=min(float(low), middle), hi=max(float(high), middle), source=source)
