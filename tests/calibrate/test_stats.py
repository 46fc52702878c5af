"""Estimates of a time from blocks of samples."""

import math
import random
import statistics

import pytest

from kvplan.calibrate.records import Sample, point
from kvplan.calibrate.sample import Plan, estimate, measure
from kvplan.fit.intervals import median_interval, sign_test_rank


def test_rank_of_the_distribution_free_interval() -> None:
    # Leaving out r values on each side of n covers 1 - 2 P(Binomial(n, 1/2) <= r).
    # n = 5: 1 - 2/32 = 93.75 %: none. n = 6: 1 - 2/64 = 96.9 %: r = 0. n = 9: P(X <= 1) = 10/512, 1 - 20/512 = 96.1
    # %: r = 1.
    assert [sign_test_rank(n) for n in (1, 5, 6, 8, 9)] == [-1, -1, 0, 0, 1]


def test_interval_of_six_values_is_their_range() -> None:
    assert median_interval([6, 1, 2, 5, 3, 4]) == (3.5, 1, 6)


def test_interval_of_two_values_is_students() -> None:
    # ln 1 = 0 and ln e^2 = 2: mean 1, standard deviation sqrt(2); half width 12.7062 sqrt(2)/sqrt(2) = 12.706.
    middle, low, high = median_interval([1.0, math.e**2])
    assert low == pytest.approx(middle * math.exp(-12.7062), rel=1e-4)
    assert high == pytest.approx(middle * math.exp(12.7062), rel=1e-4)


def test_one_value_has_a_wide_interval_that_json_can_carry() -> None:
    assert median_interval([3.0]) == (3.0, 1.5, 6.0)


def test_interval_covers_the_median_under_episodic_noise() -> None:
    """One block in five is slow as a whole: an interval over samples would claim far too much; over blocks it holds."""
    chance, covered = random.Random(5), 0
    for _ in range(400):
        blocks = []
        for _ in range(10):
            slow = 1.2 if chance.random() < 0.2 else 1.0
            blocks.append(statistics.median(slow * math.exp(chance.gauss(0, 0.01)) for _ in range(5)))
        _, low, high = median_interval(blocks)
        covered += low <= 1.0025 and high >= 0.9975  # the median of such blocks lies a hair above 1
    assert covered / 400 >= 0.93


def _block(seconds: float) -> list[Sample]:
    return [Sample(seconds=seconds)] * 3


def test_a_slow_first_block_is_left_out_and_said() -> None:
    row = estimate(point("copy"), [_block(2.0), _block(1.0), _block(1.01), _block(0.99)], 0.02)
    assert row.seconds == 1.0
    assert row.notes["warmup_effect"] == 1.0
    assert row.blocks == 4


class _Scripted:
    """An instrument that answers each point from a list, block by block."""

    def __init__(self, script: dict[str, list[float]]) -> None:
        self.script, self.block = script, -1

    def fresh(self, seed: int) -> None:
        self.block += 1

    def measure(self, current, samples):  # type: ignore[no-untyped-def]
        if current.op == "broken":
            raise RuntimeError("no such kernel")
        series = self.script[current.op]
        return [Sample(seconds=series[min(self.block, len(series) - 1)])] * samples


def test_blocks_go_on_only_for_points_that_are_still_wide() -> None:
    wild = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]
    instrument = _Scripted({"calm": [1.0], "wild": wild})
    found = measure(
        instrument,  # type: ignore[arg-type]
        [point("calm"), point("wild"), point("broken")],
        Plan(blocks=6, max_blocks=8, samples=2, tolerance=0.02, budget_s=10),
        seed=1,
        clock=lambda: 0.0,
    )
    rows = {row.point.op: row for row in found.rows}
    assert (rows["calm"].blocks, rows["calm"].converged) == (6, True)
    assert (rows["wild"].blocks, rows["wild"].converged) == (8, False)
    assert found.failures == {"broken": "RuntimeError: no such kernel"}


def test_a_spent_budget_ends_a_probe_after_the_first_block() -> None:
    ticks = iter(range(0, 1000, 10))
    plan = Plan(blocks=6, max_blocks=8, samples=1, tolerance=0.02, budget_s=1)
    found = measure(_Scripted({"calm": [1.0]}), [point("calm")], plan, seed=1, clock=lambda: float(next(ticks)))  # type: ignore[arg-type]
    assert found.rows[0].blocks == 1
    assert not found.rows[0].converged
