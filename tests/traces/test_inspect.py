"""The statistics of public traces, to the printed digit, and small ones by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kvplan.results.trace import Distribution
from kvplan.traces import open_trace
from kvplan.traces.reuse.inspect import inspect


def spread(values: Distribution, digits: int = 1) -> tuple[float, ...]:
    return (round(values.mean, digits), values.p50, values.p95, values.p99, values.max)


def test_mooncake_conversation(real) -> None:
    result = inspect(open_trace(real("mooncake_conversation.jsonl")))
    arrivals, sharing = result.arrivals, result.sharing
    assert sharing
    assert sharing.reuse_s
    assert (result.requests, arrivals.span_s) == (12031, 3536.999)
    assert (round(arrivals.mean_per_s, 4), arrivals.peak_10s_per_s) == (3.4015, 6.7)
    assert (round(arrivals.dispersion_1s, 3), arrivals.distinct_stamps, arrivals.largest_batch) == (7.894, 1180, 28)
    assert spread(result.prompt_tokens) == (12035.1, 6909, 39552, 85401, 126195)
    assert spread(result.output_tokens) == (342.6, 350, 698, 1120, 2000)
    assert (result.prompt_tokens.min, result.prompt_tokens.total) == (891, 144_793_823)
    assert result.output_tokens.total == 4_122_048
    assert (sharing.blocks, sharing.unique_blocks, round(sharing.used_once, 4)) == (288_500, 182_790, 0.7585)
    assert (round(sharing.ideal.block_hit, 4), round(sharing.ideal.token_hit, 4)) == (0.3664, 0.3736)
    assert (round(sharing.ideal_request_mean, 4), round(sharing.ideal_warm.token_hit, 4)) == (0.3843, 0.3981)
    assert round(sharing.requests_with_hit, 4) == 0.9999
    assert round(sharing.requests_with_hit_beyond_first, 4) == 0.3872
    assert spread(sharing.hit_prefix_blocks) == (8.8, 1, 43, 106, 240)
    times = sharing.reuse_s
    assert [times.p10, times.p25, times.p50, times.p75, times.p90, times.p95, times.p99, times.max] == [
        0.0, 54.001, 113.999, 266.999, 519.0, 626.999, 1578.0, 3030.0,
    ]  # fmt: skip
    assert {k: round(v, 4) for k, v in sharing.reuse_within.items() if k != "86400"} == {
        "0": 0.1027, "1": 0.1027, "10": 0.1169, "60": 0.2821, "300": 0.7853, "600": 0.9371, "1800": 0.992, "3600": 1.0,
    }  # fmt: skip
    assert (round(sharing.top_1pct_share, 4), round(sharing.top_10pct_share, 4)) == (0.3165, 0.7514)
    assert sharing.common_prefix_blocks == 1
    text = " ".join(result.quirks)
    assert "batches every 3 s (1,180 stamps" in text
    assert "12,009 of 12,031" in text  # all but the 22 inputs that are whole blocks
    assert "118 requests repeat" in text
    assert "exact duplicates (same time, lengths and ids): 1" in text


def test_mooncake_synthetic(real) -> None:
    result = inspect(open_trace(real("mooncake_synthetic.jsonl")))
    arrivals, sharing = result.arrivals, result.sharing
    assert sharing
    assert sharing.reuse_s
    assert (result.requests, arrivals.span_s, round(arrivals.mean_per_s, 4)) == (3993, 1022.025, 3.9069)
    assert (arrivals.peak_10s_per_s, round(arrivals.dispersion_1s, 3)) == (5.5, 1.089)
    assert spread(result.prompt_tokens) == (15325.5, 11587, 49009, 66458, 191378)
    assert spread(result.output_tokens) == (149.1, 69, 519, 769, 893)
    assert (result.prompt_tokens.total, result.output_tokens.total) == (61_194_628, 595_432)
    assert (sharing.blocks, sharing.unique_blocks, round(sharing.used_once, 4)) == (121_877, 43_924, 0.5845)
    assert (round(sharing.ideal.block_hit, 4), round(sharing.ideal.token_hit, 4)) == (0.6396, 0.6512)
    # kvcache-simulator leaves out the first floor(3993 / 2) requests, as here.
    assert (round(sharing.ideal_request_mean, 4), round(sharing.ideal_warm.token_hit, 4)) == (0.4232, 0.8627)
    assert spread(sharing.hit_prefix_blocks) == (19.5, 0, 82, 121, 373)
    times = sharing.reuse_s
    assert [times.p10, times.p25, times.p50, times.p75, times.p90, times.p95, times.p99, times.max] == [
        4.814, 18.193, 59.387, 157.567, 281.764, 390.497, 582.892, 792.834,
    ]  # fmt: skip
    assert (round(sharing.top_1pct_share, 4), round(sharing.top_10pct_share, 4)) == (0.1007, 0.4956)
    assert (round(sharing.requests_with_hit, 4), round(sharing.requests_with_hit_beyond_first, 4)) == (0.4463, 0.4378)
    assert "213 requests repeat" in " ".join(result.quirks)


AZURE = {
    "code": (8819, 3435.948, 2.567, 67, 13.18, (2047.8, 1469, 7315, 7436, 7437), (27.9, 13, 90, 252, 1899)),
    "conv": (19366, 3501.722, 5.530, 19, 1.39, (1154.7, 1020, 4083, 4142, 14050), (211.1, 129, 451, 601, 1000)),
}


@pytest.mark.parametrize("name", AZURE)
def test_azure(real, name: str) -> None:
    requests, span_s, rate, peak, dispersion, prompt, output = AZURE[name]
    result = inspect(open_trace(real(f"AzureLLMInferenceTrace_{name}.csv")))
    arrivals = result.arrivals
    assert (result.requests, round(arrivals.span_s, 3), round(arrivals.mean_per_s, 3)) == (requests, span_s, rate)
    assert (arrivals.peak_1s_per_s, round(arrivals.dispersion_1s, 2)) == (peak, dispersion)
    assert (spread(result.prompt_tokens), spread(result.output_tokens)) == (prompt, output)
    assert (result.sharing, result.sessions) == (None, None)
    assert "hit rates: the file names no content" in result.cannot_say


def test_sessions_are_inferred_from_growing_prompts(mooncake: Callable[..., Path]) -> None:
    # Two chats over one system block 0 take turns; a third request shares nothing but that block.
    system = [0]
    path = mooncake(
        (0, 1100, 9, [*system, 1, 100]),
        (1000, 1100, 9, [*system, 2, 101]),
        (2000, 2100, 9, [*system, 1, 3, 4, 102]),
        (3000, 2100, 9, [*system, 2, 5, 6, 103]),
        (4000, 3100, 9, [*system, 1, 3, 4, 7, 8, 104]),
        (5000, 600, 9, [*system, 105]),
    )
    sessions = inspect(open_trace(path)).sessions
    assert sessions
    assert sessions.gap_s
    assert (sessions.inferred, sessions.sessions, sessions.turns.max, sessions.turns.min) == (True, 3, 3, 1)
    assert (sessions.gap_s.count, sessions.gap_s.mean) == (3, 2.0)


def test_working_sets(mooncake: Callable[..., Path]) -> None:
    path = mooncake((0, 1024, 1, [1, 2]), (30_000, 1024, 1, [1, 3]), (61_000, 512, 1, [1]))
    sharing = inspect(open_trace(path)).sharing
    assert sharing
    minute = sharing.working_sets[0]
    # Blocks 1 2 3 in the first minute, 1 in the second.
    assert (minute.window_s, minute.mean_blocks, minute.max_blocks) == (60.0, 2.0, 3)
    assert sharing.unique_over_time == (2, 2, 2, 2, 3, 3, 3, 3, 3, 3)


def test_one_request(mooncake: Callable[..., Path]) -> None:
    result = inspect(open_trace(mooncake((5, 10, 1, [1]))))
    assert (result.arrivals.span_s, result.arrivals.peak_1s_per_s) == (0.0, 1)
    assert result.sharing
    assert result.sharing.reuse_s is None
