"""Fits recover what generated the data, also when some of it is disturbed."""

import random
from collections.abc import Callable

import pytest

from kvplan.calibrate.fits import RUN_TO_RUN, over_runs
from kvplan.calibrate.records import Estimate, point
from kvplan.fit.least_squares import Fitted, Parameter, direct, fit, ratio


def row(size: float, seconds: float, spread: float = 0.01) -> Estimate:
    medians = tuple(seconds * (1 + spread * step) for step in (-1, -0.5, 0, 0, 0.5, 1))
    return Estimate(
        point=point("copy", bytes=size),
        seconds=seconds,
        lo=medians[0],
        hi=medians[-1],
        blocks=6,
        samples=18,
        converged=True,
        block_medians=medians,
    )


def line(values: dict[str, float]) -> Callable[[Estimate], float]:
    return lambda one: values["start"] + one.point.number("bytes") / values["rate"]


PARAMETERS = [Parameter(name="start", typical=1e-6), Parameter(name="rate", typical=1e10, width=3.0)]


def test_a_line_over_five_decades_with_outliers() -> None:
    noise = random.Random(3)
    rows = []
    for exponent in range(12, 31):
        slow = 1.5 if exponent in (15, 24) else 1.0  # two sizes were disturbed
        rows.append(row(2**exponent, slow * (3e-6 + 2**exponent / 50e9) * noise.uniform(0.99, 1.01)))
    found = fit(line, PARAMETERS, rows, scale=0.03, source="copies")
    assert found.values["start"].value == pytest.approx(3e-6, rel=0.03)
    assert found.values["rate"].value == pytest.approx(50e9, rel=0.02)
    assert found.median_error < 0.02 < found.p90_error


def test_intervals_hold_the_estimate_and_say_what_was_fitted() -> None:
    rows = [row(2**n, 3e-6 + 2**n / 50e9) for n in range(12, 31, 2)]
    found = fit(line, PARAMETERS, rows, scale=0.03, source="copies").values["rate"]
    assert found.lo <= found.value <= found.hi
    assert found.source.startswith("copies: 10 points, median error")


def test_points_off_the_form_widen_the_interval_though_each_is_steady() -> None:
    exact = [row(2**n, 3e-6 + 2**n / 50e9, spread=1e-4) for n in range(12, 31)]
    waved = [row(one.point.number("bytes"), one.seconds * (1.02 if i % 2 else 0.98), spread=1e-4) for i, one in enumerate(exact)]
    tight, wide = (fit(line, PARAMETERS, rows, scale=0.03, source="").values["rate"] for rows in (exact, waved))
    assert (tight.hi - tight.lo) / tight.value < 0.005  # the prior and 0.01 % of noise
    # 2 % either way over the 11 sizes from 1 MiB that are nearly all rate: 2 % / sqrt(11) x 1.96 = 1.2 % each way.
    assert 0.015 < (wide.hi - wide.lo) / wide.value < 0.04
    assert wide.lo < 50e9 < wide.hi


def test_what_differs_between_runs_adds_in_quadrature() -> None:
    point_like = over_runs("disk.read_Bps", Fitted(value=100.0, lo=100.0, hi=100.0, source=""))
    assert (point_like.lo, point_like.hi) == (pytest.approx(100 * 2.718281828**-0.05), pytest.approx(100 * 2.718281828**0.05))
    assert RUN_TO_RUN["gpu"] == 0.01
    wide = over_runs("gpu.gemm_efficiency", Fitted(value=1.0, lo=0.9, hi=1.1, source=""))
    assert (wide.lo, wide.hi) == (pytest.approx(0.9, rel=1e-3), pytest.approx(1.1, rel=1e-3))  # sqrt(0.105^2 + 0.01^2)
    size = Fitted(value=16384, lo=4096, hi=16384, source="")
    assert over_runs("link.small_copy_bytes", size) == size  # a point of the grid


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="1 rows do not determine 2 parameters"):
        fit(line, PARAMETERS, [row(1e6, 1e-3)], scale=0.03, source="")


def test_a_ratio_pairs_rows() -> None:
    slower = ratio([row(1, 1.25), row(2, 2.5)], [row(1, 1.0), row(2, 2.0)], source="")
    assert slower.value == pytest.approx(1.25)
    assert slower.lo < 1.25 < slower.hi


def test_a_direct_value_carries_the_rows_interval() -> None:
    found = direct([row(100, 2.0)], lambda one, seconds: one.point.number("bytes") / seconds, source="")
    assert (found.value, found.lo, found.hi) == (50.0, pytest.approx(100 / 2.02), pytest.approx(100 / 1.98))
