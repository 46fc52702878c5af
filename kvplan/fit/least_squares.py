"""From rows to the numbers of a machine: robust fits of relative errors. Intervals hold the noise between blocks
(bootstrap), the choice of points (jackknife) and what differs from run to run (a stated floor).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from kvplan.calibrate.records import Row
from kvplan.errors import MissingError
from kvplan.fit.intervals import median_relative_error, percentile

if TYPE_CHECKING:
    import numpy as np

DRAWS = 60  # bootstrap draws; enough for a 95 % interval to about a tenth of its width
# What a number moves from one run to the next on the same server beyond what its own samples show, as a share of it (95 %).
# Two runs on one H100 server: link rates 0.1 and 0.6 %, duplex 1.3 %, elementwise 0.1 to 1 %; two reads of one
# virtual disk an hour apart 13 %, of which the choice of points explains the larger part.
RUN_TO_RUN = {"gpu": 0.01, "link": 0.01, "host": 0.05, "disk": 0.05}
GROUPS = 20  # groups of points that the jackknife leaves out in turn, at most


class Fitted(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One number of the machine with its 95 % interval and where it comes from, in words."""

    value: float
    lo: float
    hi: float
    source: str


class Fit(msgspec.Struct, frozen=True, kw_only=True):
    """Fitted parameters by name, and how well the form describes the rows: relative errors."""

    values: dict[str, Fitted]
    median_error: float
    p90_error: float
    rows: int


class Parameter(msgspec.Struct, frozen=True, kw_only=True):
    """A positive parameter: a weak log-normal prior keeps one that the rows do not determine near `typical` (within
    a factor e^width).
    """

    name: str
    typical: float
    width: float = 1.0
    at_most: float = math.inf


Model = Callable[[dict[str, float], Row], float]


def fit(model: Model, parameters: Sequence[Parameter], rows: Sequence[Row], *, scale: float, source: str) -> Fit:
    """Parameters that minimise the soft-L1 loss of ln(predicted/measured), weighted by each row's own spread.

    `scale` is the relative error beyond which a row counts less. Raises MissingError without scipy, ValueError with
    fewer rows than parameters.
    """
    if len(rows) < len(parameters):
        raise ValueError(f"{len(rows)} rows do not determine {len(parameters)} parameters")
    import numpy as np

    best = _solve(model, parameters, rows, [row.seconds for row in rows], scale)
    half = 1.96 * np.hypot(_block_sigma(model, parameters, rows, scale, best), _point_sigma(model, parameters, rows, scale, best))
    values = dict(zip((p.name for p in parameters), best, strict=True))
    predicted = [model(values, row) for row in rows]
    measured = [row.seconds for row in rows]
    errors = [abs(p / m - 1) for p, m in zip(predicted, measured, strict=True)]
    error = median_relative_error(predicted, measured)
    text = f"{source}: {len(rows)} points, median error {error:.1%}"
    return Fit(
        values={
            p.name: Fitted(value=best[i], lo=best[i] * math.exp(-half[i]), hi=min(p.at_most, best[i] * math.exp(half[i])), source=text)
            for i, p in enumerate(parameters)
        },
        median_error=error,
        p90_error=percentile(errors, 0.9),
        rows=len(rows),
    )


def _block_sigma(model: Model, parameters: Sequence[Parameter], rows: Sequence[Row], scale: float, best: Sequence[float]) -> np.ndarray:
    """Standard deviation of each parameter's logarithm over bootstrap draws of the rows' blocks."""
    import numpy as np

    generator = np.random.default_rng(1)
    draws = [_solve(model, parameters, rows, [_draw(row, generator) for row in rows], scale, start=best) for _ in range(DRAWS)]
    return np.std(np.log(draws), axis=0)


def _point_sigma(model: Model, parameters: Sequence[Parameter], rows: Sequence[Row], scale: float, best: Sequence[float]) -> np.ndarray:
    """Standard deviation of each parameter's logarithm by the delete-a-group jackknife over the rows: what another
    choice of points would have given (Quenouille 1956, Tukey 1958).
    """
    import numpy as np

    groups = min(GROUPS, len(rows))
    if len(rows) - math.ceil(len(rows) / groups) < len(parameters):
        return np.zeros(len(parameters))
    left = [[row for i, row in enumerate(rows) if i % groups != out] for out in range(groups)]
    logs = np.log([_solve(model, parameters, kept, [row.seconds for row in kept], scale, start=best) for kept in left])
    return np.sqrt((groups - 1) * np.var(logs, axis=0))


def _solve(
    model: Model,
    parameters: Sequence[Parameter],
    rows: Sequence[Row],
    measured: Sequence[float],
    scale: float,
    start: Sequence[float] | None = None,
) -> list[float]:
    import numpy as np

    try:
        from scipy.optimize import least_squares
    except ImportError:
        raise MissingError("fitting needs scipy", hint='pip install "kvplan[calibrate]"') from None
    logs = np.log(measured)
    weights = np.array([1 / max(scale, relative_sigma(row)) for row in rows])
    typical = np.array([math.log(p.typical) for p in parameters])
    widths = np.array([p.width for p in parameters])
    upper = np.array([math.log(p.at_most) for p in parameters])

    def residuals(theta: np.ndarray) -> np.ndarray:
        values = dict(zip((p.name for p in parameters), np.exp(theta).tolist(), strict=True))
        predicted = np.log([model(values, row) for row in rows])
        return np.concatenate([(predicted - logs) * weights, (theta - typical) / widths])

    first = np.log(start) if start is not None else np.minimum(typical, upper - 1e-6)
    first = np.minimum(first, upper - 1e-9)
    solution = least_squares(residuals, first, loss="soft_l1", bounds=(np.full(len(first), -np.inf), upper))
    return [float(v) for v in np.exp(solution.x)]


def over_runs(path: str, found: Fitted) -> Fitted:
    """The number at a dotted path with what differs from run to run added to its interval, in quadrature on logarithms.

    Sizes, which are points of a grid, stay as they are.
    """
    floor = RUN_TO_RUN[path.partition(".")[0]]
    if path.endswith("_bytes") or found.lo <= 0:
        return found
    low, high = math.hypot(math.log(found.value / found.lo), floor), math.hypot(math.log(found.hi / found.value), floor)
    return msgspec.structs.replace(found, lo=found.value * math.exp(-low), hi=found.value * math.exp(high))


def relative_sigma(row: Row) -> float:
    """Relative standard deviation of a row from its interval; at most a fifth, since intervals of few blocks are
    wide by themselves.
    """
    return min(0.2, (row.hi - row.lo) / (2 * 1.96 * row.seconds))


def ratio(above: Sequence[Row], below: Sequence[Row], *, source: str, invert: bool = False) -> Fitted:
    """Median over pairs of seconds(above)/seconds(below), or its inverse, with an interval from both rows'."""
    import numpy as np

    if not above:
        raise ValueError("no pair of rows to compare")
    generator = np.random.default_rng(2)
    draws = np.array([[_draw(a, generator) / _draw(b, generator) for a, b in zip(above, below, strict=True)] for _ in range(200)])
    medians = np.median(1 / draws if invert else draws, axis=1)
    exact = [a.seconds / b.seconds for a, b in zip(above, below, strict=True)]
    value = float(np.median([1 / e for e in exact] if invert else exact))
    low, high = np.quantile(medians, [0.025, 0.975])
    return Fitted(value=value, lo=float(min(low, value)), hi=float(max(high, value)), source=source)


def _draw(row: Row, generator: np.random.Generator) -> float:
    import numpy as np

    return float(np.median(generator.choice(row.block_medians, len(row.block_medians))))


def direct(rows: Sequence[Row], value: Callable[[Row, float], float], *, source: str) -> Fitted:
    """Median over rows of a value computed from each row's seconds, with the median of the rows' intervals."""
    import statistics

    if not rows:
        raise ValueError("no rows")
    middles = [value(row, row.seconds) for row in rows]
    ends = [sorted((value(row, row.lo), value(row, row.hi))) for row in rows]
    middle = statistics.median(middles)
    low, high = statistics.median(e[0] for e in ends), statistics.median(e[1] for e in ends)
    return Fitted(value=middle, lo=min(low, middle), hi=max(high, middle), source=source)
