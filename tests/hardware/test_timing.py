"""The rates of a machine, with the arithmetic worked out."""

import pytest

from kvplan.hardware.spec import Disk, Gpu, Host, Link, Network
from kvplan.hardware.timing import (
    ANCHOR_LAUNCH_S,
    ANCHOR_PYTHON_S,
    ASSUMED_FACTORS,
    IN,
    OUT,
    both_ways_s,
    copies_s,
    disk_Bps,
    disk_s,
    gemm_s,
    host_factors,
    network_s,
    objects_s,
    pair_flops,
    prefill_attention_s,
    roofline_s,
    score_pairs,
    transfer_s,
)


def test_roofline() -> None:
    # 2 s of compute and 1 s of traffic: q = 1 adds them, q -> infinity takes the longer.
    assert roofline_s(2.0, 1.0, 1.0, 1.0, 1.0) == pytest.approx(3.0)
    assert roofline_s(2.0, 1.0, 1.0, 1.0, 2.0) == pytest.approx(5**0.5)
    assert roofline_s(2.0, 1.0, 1.0, 1.0, 30.0) == pytest.approx(2.0)
    assert roofline_s(0.0, 0.0, 1.0, 1.0, 3.0) == 0.0


GPU = Gpu(
    name="x",
    memory_bytes=1,
    hbm_Bps=1e12,
    bf16_flops=1e15,
    fp8_flops=2e15,
    gemm_efficiency=0.5,
    weight_read_efficiency=0.5,
    gemm_overhead_s=1e-6,
    attention_efficiency=0.5,
    attention_n0_tokens=10.0,
)


def test_a_product_of_one_token_is_a_read_of_its_weights() -> None:
    # 2 x 4096 x 4096 B of weights and 2 x 2 x 4096 B of vectors at 0.5 TB/s: 67.14 us, and 1 us to start.
    size = 2.0 * (4096 * 4096 + 2 * 4096)
    assert gemm_s(GPU, 2.0 * 4096 * 4096, size) == pytest.approx(68.14e-6, rel=1e-3)


def test_a_large_product_runs_at_the_peak_of_its_dtype() -> None:
    # 1e12 FLOPs at half of 1e15 and of 2e15 FLOP/s, and at 0.8 of the former where an engine's kernels reach that: 2, 1 and 2.5 ms.
    assert gemm_s(GPU, 1e12, 1.0) == pytest.approx(2e-3 + 1e-6)
    assert gemm_s(GPU, 1e12, 1.0, peak_flops=GPU.fp8_flops) == pytest.approx(1e-3 + 1e-6)
    assert gemm_s(GPU, 1e12, 1.0, kernel_share=0.8) == pytest.approx(2.5e-3 + 1e-6)


def test_score_pairs() -> None:
    # 2 new tokens after 3: they see 3 + 1 and 3 + 2 tokens. With a window of 4 both see 4; with one of 100, all.
    assert score_pairs(2, 3) == 9
    assert score_pairs(2, 3, window=4) == 8
    assert score_pairs(2, 3, window=100) == 9


def test_attention_counts_pairs_and_the_ragged_edge() -> None:
    # Heads of 128: (4 x 128 + 288) x 512 / 800 = 512 FLOPs a pair; heads of 64: (4 x 64 + 288) x 512 / 800 = 348.16.
    assert (pair_flops(128, 128), pair_flops(64, 64)) == (512, pytest.approx(348.16))
    # 9 pairs and 10 more keys for each of 2 tokens: 29 pairs at 0.5e15 FLOP/s.
    assert prefill_attention_s(GPU, 2, 3, [(512.0, 0)]) == pytest.approx(29 * 512 / 0.5e15)


LINK = Link(h2d_Bps=50e9, d2h_Bps=25e9, launch_s=10e-6, copy_s=1e-6, small_copy_bytes=20_000, small_copy_s=2e-6)


def test_copies_above_and_below_the_cliff() -> None:
    # 10 pieces of 100 kB: 10 x 1 us + 1 MB / 50 GB/s = 30 us up, 10 + 40 = 50 us down; and 10 us of launch.
    assert copies_s(LINK, IN, 1e6, 10) == pytest.approx(30e-6)
    assert transfer_s(LINK, OUT, 1e6, 10) == pytest.approx(60e-6)
    # 100 pieces of 10 kB are below the cliff: 100 x 2 us, longer than 1 MB / 50 GB/s.
    assert transfer_s(LINK, IN, 1e6, 100) == pytest.approx(210e-6)
    assert transfer_s(LINK, IN, 0, 1) == 0.0


def test_both_ways() -> None:
    # 10 s each at 0.8 of the rate: 12.5 s. 4 s beside 10 s at half the rate: 8 s, and the other is 4 s later.
    assert both_ways_s(10.0, 10.0, 0.8) == pytest.approx(2.5)
    assert both_ways_s(10.0, 4.0, 0.5) == pytest.approx(4.0)
    assert both_ways_s(0.0, 4.0, 0.5) == 0.0


DISK = Disk(
    capacity_bytes=1, read_Bps=2e9, write_Bps=1e9, latency_s=1e-4, write_latency_s=1e-3, stream_Bps=1e9, read_iops=1e9, queue_knee=20
)


def test_a_disk_follows_the_queue_and_then_the_device() -> None:
    # One reader of 1 MB: 1 MB / (0.1 ms + 1 ms) = 909 MB/s. Sixteen would do 14.5 GB/s: the device gives 2 GB/s.
    assert disk_Bps(DISK, IN, 1e6, 1) == pytest.approx(909e6, rel=1e-3)
    assert disk_Bps(DISK, IN, 1e6, 16) == pytest.approx(2e9, rel=1e-3)
    # A write of 1 MB takes 1 ms + 1 ms: 500 MB/s.
    assert disk_Bps(DISK, OUT, 1e6, 1) == pytest.approx(500e6, rel=1e-3)
    # 32 MB in 32 pieces by 16 threads: 16 ms; in one piece, one deep: 32 MB / (32 MB / 32.1 ms).
    assert disk_s(DISK, IN, 32e6, 32, 16) == pytest.approx(16e-3, rel=1e-3)
    assert disk_s(DISK, IN, 32e6, 1, 16) == pytest.approx(32.1e-3, rel=1e-3)


def test_networks() -> None:
    net = Network(Bps=1e9, latency_s=0.03)
    assert network_s(net, 1e9) == pytest.approx(1.03)
    assert network_s(net, 0) == 0.0
    # 100 objects of 1 kB, 4 at a time: 25 round trips of 30 ms and one object; the rate would take 0.1 ms.
    assert objects_s(net, 100e3, object_bytes=1e3, parallel=4) == pytest.approx(0.75 + 1e-6)


def test_the_host_is_measured_against_the_anchor() -> None:
    host = Host(memory_bytes=1, python_s=ANCHOR_PYTHON_S / 2, launch_s=ANCHOR_LAUNCH_S)
    assert host_factors(host) == pytest.approx((0.5, 0.75))
    assert host_factors(Host(memory_bytes=1, python_s=ANCHOR_PYTHON_S * 2)) == pytest.approx((2.0, 2.0))
    assert host_factors(Host(memory_bytes=1)) == ASSUMED_FACTORS
