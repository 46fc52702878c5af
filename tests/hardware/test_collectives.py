"""Collectives: measured points are met, between them lines in logarithms, beyond them proportion, without them a ring."""

from __future__ import annotations

import math

import msgspec
import pytest

from kvplan.catalog import shipped
from kvplan.catalog.machines import machine
from kvplan.hardware.collectives import collective_s, curves, ring_s
from kvplan.hardware.spec import Curve, Interconnect

RING = Interconnect(Bps=1e9, latency_s=0.03)
OWN = Interconnect(
    Bps=1e9,
    latency_s=0.03,
    curves=(
        Curve(op="all_reduce", gpus=2, size_bytes=(1e3, 1e6, 1e9), seconds=(1e-5, 1e-4, 1e-2)),
        Curve(op="all_reduce", gpus=8, size_bytes=(1e3, 1e6, 1e9), seconds=(4e-5, 4e-4, 4e-2)),
    ),
)


def test_a_ring_where_nothing_was_measured() -> None:
    # A ring of 4 sends 2 x 3/4 of 1 GB at 1 GB/s; a gather of 1 GB only 3/4 of it; a message from one to the next all of it.
    assert collective_s(RING, "all_reduce", 4, 1e9) == pytest.approx(1.53)
    assert collective_s(RING, "all_gather", 4, 1e9) == pytest.approx(0.78)
    assert collective_s(RING, "send", 2, 1e9) == pytest.approx(1.03)
    assert collective_s(RING, "all_reduce", 1, 1e9) == collective_s(RING, "all_reduce", 4, 0) == collective_s(None, "send", 4, 1) == 0.0


def test_between_measured_points() -> None:
    # Half way between 1 kB and 1 MB in logarithms, 31.6 kB, lies the geometric mean of 10 and 100 us.
    assert collective_s(OWN, "all_reduce", 2, 10**4.5) == pytest.approx(math.sqrt(1e-5 * 1e-4))
    # 4 GPUs lie half way between 2 and 8: again the geometric mean. More than were measured count as the most.
    assert collective_s(OWN, "all_reduce", 4, 1e6) == pytest.approx(2e-4)
    assert collective_s(OWN, "all_reduce", 16, 1e6) == pytest.approx(4e-4)
    # Ten times the largest takes ten times as long, a byte as long as 1 kB, and nothing less than a launch.
    assert collective_s(OWN, "all_reduce", 2, 1e10) == pytest.approx(0.1)
    assert collective_s(OWN, "all_reduce", 2, 1) == pytest.approx(1e-5)
    assert collective_s(OWN, "all_reduce", 2, 1, least_s=2e-5) == pytest.approx(2e-5)
    assert collective_s(OWN, "all_gather", 2, 1e9) == ring_s(OWN, "all_gather", 2, 1e9)


@pytest.mark.parametrize(
    ("name", "gpus", "micro"), [("h100-sxm", 2, 464.1), ("h100-sxm", 4, 639.3), ("h100-sxm", 8, 590.7), ("h200-sxm", 8, 564)]
)
def test_the_engines_all_reduce_of_128_mib(name: str, gpus: int, micro: float) -> None:
    """8,192 tokens of a hidden state of 8,192 in bf16, as published: no fixed ring gives these three figures."""
    link = machine(name).interconnect
    assert collective_s(link, "all_reduce", gpus, 2**27, library="engine") == pytest.approx(micro * 1e-6, rel=0.05)


def test_nccl_stands_for_a_library_without_a_curve() -> None:
    link = machine("h100-sxm").interconnect
    assert collective_s(link, "all_gather", 8, 2**20, library="engine") == collective_s(link, "all_gather", 8, 2**20) > 1e-5


def test_a_link_of_half_the_rate_is_longer_by_what_exceeds_the_latency() -> None:
    full = machine("h100-sxm").interconnect
    assert full
    half = msgspec.structs.replace(full, table_rate=0.5)
    small, large = (collective_s(full, "all_reduce", 8, size) for size in (8192, 2**27))
    assert collective_s(half, "all_reduce", 8, 8192) == small
    assert collective_s(half, "all_reduce", 8, 2**27) == pytest.approx(small + 2 * (large - small))


def test_every_machine_names_a_table_that_exists_and_rising_times() -> None:
    for name in shipped.names("machines"):
        link = machine(name).interconnect
        if link and link.table:
            found = curves(link.table)
            assert {curve.op for curve in found} >= {"all_reduce", "all_gather", "reduce_scatter", "all_to_all"}, name
            for curve in found:  # noise of a measurement apart, more bytes never take less
                assert all(b > 0.7 * a for a, b in zip(curve.seconds, curve.seconds[1:], strict=False)), (name, curve)


def test_a_curve_needs_rising_sizes() -> None:
    with pytest.raises(ValueError, match="rising"):
        Curve(op="send", gpus=2, size_bytes=(2.0, 1.0), seconds=(1e-5, 1e-4))
