"""Fits recover what generated the data, also when some of it is disturbed."""

import random

import pytest

from kvplan.calibrate.predict import disk_read_Bps, gemm_s, prefill_attention_flops, roofline_s
from kvplan.calibrate.records import Row, point
from kvplan.fit.least_squares import RUN_TO_RUN, Fitted, Parameter, direct, fit, over_runs, ratio
from kvplan.hardware.spec import Disk, Gpu

pytest.importorskip("scipy")


def row(size: float, seconds: float, spread: float = 0.01) -> Row:
    medians = tuple(seconds * (1 + spread * step) for step in (-1, -0.5, 0, 0, 0.5, 1))
    return Row(
        point=point("copy", bytes=size),
        seconds=seconds,
        lo=medians[0],
        hi=medians[-1],
        blocks=6,
        samples=18,
        converged=True,
        block_medians=medians,
    )


def line(values: dict[str, float], one: Row) -> float:
    return values["start"] + one.point.number("bytes") / values["rate"]


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
    assert ratio([row(1, 1.25)], [row(1, 1.0)], source="", invert=True).value == pytest.approx(0.8)


def test_a_direct_value_carries_the_rows_interval() -> None:
    found = direct([row(100, 2.0)], lambda one, seconds: one.point.number("bytes") / seconds, source="")
    assert (found.value, found.lo, found.hi) == (50.0, pytest.approx(100 / 2.02), pytest.approx(100 / 1.98))


def test_roofline_by_hand() -> None:
    # 2 s of compute and 1 s of traffic: q = 1 adds them, q -> infinity takes the longer.
    assert roofline_s(2.0, 1.0, 1.0, 1.0, 1.0) == pytest.approx(3.0)
    assert roofline_s(2.0, 1.0, 1.0, 1.0, 2.0) == pytest.approx(5**0.5)
    assert roofline_s(2.0, 1.0, 1.0, 1.0, 50.0) == pytest.approx(2.0)


def test_a_product_of_one_token_is_a_read_of_its_weights() -> None:
    gpu = Gpu(name="x", memory_bytes=1, hbm_Bps=1e12, bf16_flops=1e15, weight_read_efficiency=0.5, gemm_overhead_s=1e-6)
    # 2 x 4096 x 4096 B of weights and 2 x 2 x 4096 B of vectors at 0.5 TB/s: 67.14 us, and 1 us to start.
    assert gemm_s(gpu, 1, 4096, 4096) == pytest.approx(68.14e-6, rel=1e-3)


def test_attention_counts_the_pairs_that_causal_tokens_see() -> None:
    # 2 new tokens after 3: they see 3 + 1 and 3 + 2 tokens, 9 pairs; 4 x 128 FLOPs each at heads of 128.
    assert prefill_attention_flops(1, 128, 2, 3) == 9 * 512
    # 10 more keys for each of the 2 new tokens: 29 pairs. At heads of 64 a pair counts (4 x 64 + 288) x 512 / 800 = 348.16.
    assert prefill_attention_flops(1, 64, 2, 3, 10) == pytest.approx(29 * 348.16)


def test_disk_rate_follows_the_queue_and_then_the_device() -> None:
    disk = Disk(capacity_bytes=1, read_Bps=2e9, write_Bps=1e9, latency_s=1e-4, stream_Bps=1e9, read_iops=1e9, queue_knee=20)
    # One reader of 1 MB: 1 MB / (0.1 ms + 1 ms) = 909 MB/s. Sixteen would do 14.5 GB/s: the device gives 2 GB/s.
    assert disk_read_Bps(disk, 1e6, 1) == pytest.approx(909e6, rel=1e-3)
    assert disk_read_Bps(disk, 1e6, 16) == pytest.approx(2e9, rel=1e-3)
