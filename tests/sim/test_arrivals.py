"""Arrival stamps: speed, jitter, quantised stamps; the ceiling of the hit rate; warm-up."""

from __future__ import annotations

import pytest

from kvplan.request import Request
from kvplan.scenario import Run
from kvplan.sim.cluster import arrivals
from kvplan.sim.cluster.arrivals import Arrivals
from kvplan.sim.outcome.summary import summarise
from tests.sim.worlds import ListTrace, world


def request(index: int, arrival_s: float, *blocks: int, prompt: int = 32) -> Request:
    return Request(index=index, arrival_s=arrival_s, prompt_tokens=prompt, output_tokens=1, blocks=blocks)


def times(stamps: list[float], **run: float) -> list[tuple[int, float]]:
    trace = ListTrace([request(index, stamp) for index, stamp in enumerate(stamps)], 16)
    return [(each.index, each.arrival_s) for each in Arrivals(trace, Run(**run), grain_tokens=16)]  # type: ignore[arg-type]


def test_speedup_divides_the_stamps() -> None:
    assert times([0.0, 3.0, 6.0], speedup=4.0) == [(0, 0.0), (1, 0.75), (2, 1.5)]


def test_jitter_spreads_within_its_width_and_keeps_time_in_order() -> None:
    found = times([0.0] * 50 + [1.0] * 50, jitter_s=3.0, seed=2)
    assert [at for _, at in found] == sorted(at for _, at in found)
    assert sorted(index for index, _ in found) == list(range(100))
    assert all(0 <= at - (index >= 50) <= 3.0 for index, at in found)
    assert found == times([0.0] * 50 + [1.0] * 50, jitter_s=3.0, seed=2) != times([0.0] * 50 + [1.0] * 50, jitter_s=3.0, seed=3)


@pytest.mark.parametrize(("stamps", "gap_s"), [([0.0, 0.0, 0.0, 3.0, 3.0, 3.0, 6.0, 6.0, 6.0], 3.0), ([0.0, 1.0, 2.0], 0.0), ([5.0], 0.0)])
def test_quantised_stamps_are_noticed(stamps: list[float], gap_s: float) -> None:
    watched = Arrivals(ListTrace([request(i, at) for i, at in enumerate(stamps)], 16), Run(), grain_tokens=16)  # type: ignore[arg-type]
    list(watched)
    assert watched.stamps.gap_s == gap_s


def test_the_ceiling_counts_leading_blocks_seen_before(monkeypatch: pytest.MonkeyPatch) -> None:
    # 32 tokens each in blocks of 16. The second shares one block, the third both, the fourth's second block follows a
    # new first one.
    rows = [request(0, 0, 1, 2), request(1, 1, 1, 3), request(2, 2, 1, 3), request(3, 3, 9, 3)]
    watched = Arrivals(ListTrace(rows, 16), Run(), grain_tokens=16)  # type: ignore[arg-type]
    list(watched)
    assert watched.ceiling.rate == (0 + 16 + 32 + 0) / 128
    warm = Arrivals(ListTrace(rows, 16), Run(warmup=0.5), grain_tokens=16)  # type: ignore[arg-type]
    list(warm)
    assert warm.ceiling.rate == (32 + 0) / 64
    monkeypatch.setattr(arrivals, "MOST_KEYS", 3)
    many = Arrivals(ListTrace(rows, 16), Run(), grain_tokens=16)  # type: ignore[arg-type]
    list(many)
    assert many.ceiling.rate is None


def test_a_warm_up_leaves_the_first_requests_out() -> None:
    # Four requests 10 s apart; the last two repeat the first two and hit 16 of their 32 tokens.
    rows = [request(0, 0, 1, 2), request(1, 10, 3, 4), request(2, 20, 1, 2), request(3, 30, 3, 4)]
    built = world(rows, gpu_blocks=200, warmup=0.5)
    result = summarise(built.run())
    assert (result.prompt_tokens.total, result.prompt_tokens.gpu_hit) == (64, 32)
    assert result.requests.completed == 4
    assert result.throughput.requests_per_s == pytest.approx(2 / (result.duration_s - 20))


def test_a_warm_up_is_a_share_of_the_requests_kept_whatever_their_rows() -> None:
    # Rows 90 to 99 of a file are left; half of them, 5 requests of 32 tokens, are counted.
    rows = [request(90 + i, i, 100 + 2 * i, 101 + 2 * i) for i in range(10)]
    result = summarise(world(rows, gpu_blocks=200, warmup=0.5).run())
    assert result.prompt_tokens.total == 5 * 32
    late = Arrivals(ListTrace(rows, 16), Run(warmup=0.5), grain_tokens=16)  # type: ignore[arg-type]
    list(late)
    assert late.ceiling.tokens == 5 * 32
