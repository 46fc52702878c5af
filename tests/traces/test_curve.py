"""Hit rates against slow caches, published tables and an independent tool."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvplan.errors import InputError
from kvplan.request import Request
from kvplan.traces import Trace, columns, open_trace
from kvplan.traces.reuse.curve import curve
from kvplan.traces.reuse.policies import POLICIES
from kvplan.traces.reuse.reuse import NEVER, Window, _greater_before, analyse
from kvplan.traces.trace import in_chunks
from tests.traces import cache_oracle as oracle

ORACLES = {"lru": oracle.lru, "fifo": oracle.fifo, "opt": oracle.opt}
SIZE = 4


def trace_of(prompts: list[tuple[int, ...]]) -> Trace:
    """A trace of prompts of blocks, the last one partial."""
    requests = [
        Request(index=index, arrival_s=float(index), prompt_tokens=max(1, SIZE * len(prompt) - 1), output_tokens=1, blocks=prompt)
        for index, prompt in enumerate(prompts)
    ]
    return Trace("rows", "native", SIZE, lambda notes: in_chunks("rows", enumerate(requests, start=1)))


prompts = st.lists(st.lists(st.integers(0, 2), min_size=0, max_size=5).map(tuple), min_size=1, max_size=25)


@settings(max_examples=150, deadline=None)
@given(prompts, st.integers(1, 12), st.integers(0, 10))
def test_every_policy_equals_a_cache_of_single_blocks(rows, capacity, first) -> None:
    first = min(first, len(rows) - 1)
    window = Window(analyse(columns.load(trace_of(rows))), first)
    tokens = [max(1, SIZE * len(row) - 1) for row in rows]
    for name, slow in ORACLES.items():
        hits = slow(rows, capacity)
        fast = POLICIES[name](window, [capacity, 10**9])
        assert fast[0, 0] == sum(hits[first:]), name
        assert fast[1, 0] == sum(min(SIZE * h, t) for h, t in zip(hits[first:], tokens[first:], strict=True)), name
        assert fast[0, 1] == sum(slow(rows, 10**9)[first:]), name


@given(st.permutations(range(12)))
def test_greater_before_counts_inversions(values) -> None:
    slow = [sum(v > value for v in values[:at]) for at, value in enumerate(values)]
    assert _greater_before(np.array(values)).tolist() == slow


def test_by_hand(mooncake: Callable[..., Path]) -> None:
    # Prompts A B | D | A B | D in blocks of 512, B with 488 tokens, touched tail first. Before the third row the stack
    # is
    # D A B: A lies below 1 block, B below 2. Before the fourth it is A B D: D lies below 2. 6 blocks, 3,024 tokens in
    # all.
    path = mooncake((0, 1000, 1, [1, 2]), (1, 512, 1, [9]), (2, 1000, 1, [1, 2]), (3, 512, 1, [9]))
    result = curve(open_trace(path), capacities=[1, 2, 3])
    assert [(p.capacity_blocks, p.block_hit, p.token_hit) for p in result.curves["lru"]] == [
        (1, 0.0, 0.0),
        (2, 1 / 6, 512 / 3024),
        (3, 3 / 6, 1512 / 3024),
    ]
    assert (result.ideal.block_hit, result.unique_blocks) == (0.5, 3)


CONVERSATION = {500: (0.0422, 0.043), 1000: (0.0445, 0.0454), 2000: (0.0543, 0.0554), 5000: (0.1118, 0.114),
                10000: (0.2116, 0.2157), 20000: (0.2878, 0.2935), 30000: (0.3257, 0.3322), 50000: (0.3546, 0.3615),
                100000: (0.3637, 0.3708), 200000: (0.3664, 0.3736), 5859: (0.1361, None),
                97656: (0.3635, None)}  # fmt: skip
SYNTHETIC = {500: (0.0451, 0.046), 1000: (0.0841, 0.0857), 2000: (0.1464, 0.1492), 5000: (0.2793, 0.2845),
             10000: (0.4239, 0.4318), 20000: (0.5718, 0.5822), 30000: (0.6242, 0.6356), 50000: (0.6396, 0.6512),
             5859: (0.3094, None)}  # fmt: skip


@pytest.mark.parametrize(("name", "table"), [("conversation", CONVERSATION), ("synthetic", SYNTHETIC)])
def test_lru_tables_of_the_public_traces(real, name, table) -> None:
    result = curve(open_trace(real(f"mooncake_{name}.jsonl")), capacities=list(table))
    for point in result.curves["lru"]:
        blocks, tokens = table[point.capacity_blocks]
        assert round(point.block_hit, 4) == blocks
        assert tokens is None or round(point.token_hit, 4) == tokens


# Token hit rates over the second half of the requests by kvcache-simulator 0.1.3 (its C++ core).
WARM = {
    "lru": {102: 0.04536, 1638: 0.05202, 5000: 0.11303, 6553: 0.15305, 13107: 0.25024, 26214: 0.33000, 52428: 0.37798},
    "fifo": {102: 0.03790, 1638: 0.05088, 5000: 0.10790, 6553: 0.14308, 13107: 0.21641, 26214: 0.29005, 52428: 0.34906},
    "opt": {102: 0.07399, 1638: 0.24537, 5000: 0.36323, 6553: 0.38601, 13107: 0.39811, 26214: 0.39811, 52428: 0.39811},
}


def test_three_policies_equal_an_independent_simulator(real) -> None:
    trace = open_trace(real("mooncake_conversation.jsonl"))
    result = curve(trace, policies=list(WARM), capacities=list(WARM["lru"]), warmup=0.5)
    for name, rates in WARM.items():
        assert {p.capacity_blocks: round(p.token_hit, 5) for p in result.curves[name]} == rates


def test_a_sample_of_the_blocks_stays_within_its_own_interval(real) -> None:
    trace = open_trace(real("mooncake_synthetic.jsonl"))
    sampled = curve(trace, max_events=40_000)
    exact = curve(trace, capacities=[point.capacity_blocks for point in sampled.curves["lru"]])
    assert sampled.sampled_one_in == 4  # 121,877 events halved twice
    inside = [abs(p.block_hit - q.block_hit) <= (p.error or 0) for p, q in zip(sampled.curves["lru"], exact.curves["lru"], strict=True)]
    assert np.mean(inside) >= 0.9


def test_a_sample_keeps_the_same_blocks_however_often_it_is_thinned(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    prompts = [tuple(int(block) for block in rng.integers(0, 1 << 40, size=rng.integers(0, 9))) for _ in range(400)]
    every = columns.load(trace_of(prompts))
    monkeypatch.setattr(columns, "_CHUNK", 64)  # so that requests lie across the ends of parts
    sampled = columns.load(trace_of(prompts), max_events=len(every.keys) // 5)
    kept = columns.mix(every.keys) < np.uint64(2**64 // sampled.one_in)
    assert sampled.one_in == 8
    assert np.array_equal(sampled.keys, every.keys[kept])
    assert np.array_equal(sampled.tokens, every.tokens[kept])
    assert np.array_equal(np.diff(sampled.starts), np.bincount(every.request_of_event()[kept], minlength=400))


def test_ids_may_be_unsigned_hashes_of_64_bits(mooncake: Callable[..., Path]) -> None:
    path = mooncake((0, 1024, 1, [2**64 - 1, 5]), (1, 1024, 1, [2**64 - 1, 6]), (2, 512, 1, [2**64 - 2]))
    assert curve(open_trace(path)).ideal.block_hit == 1 / 5


def test_tiers_add_up(real) -> None:
    trace = open_trace(real("mooncake_synthetic.jsonl"))
    result = curve(trace, capacities=[1000, 20000], tiers=[1000, 20000])
    gpu, both = result.curves["lru"]
    assert result.tiers[0].token_hit == gpu.token_hit
    assert result.tiers[1].token_hit == pytest.approx(both.token_hit - gpu.token_hit)


def test_shares_of_the_ideal_are_the_smallest_capacities(real) -> None:
    trace = open_trace(real("mooncake_synthetic.jsonl"))
    result = curve(trace)
    for share, capacity in result.share_of_ideal.items():
        below, at = curve(trace, capacities=[capacity - 1, capacity]).curves["lru"]
        assert below.token_hit < float(share) * result.ideal.token_hit <= at.token_hit + 1e-12


def test_refuses_what_it_cannot_answer(tmp_path: Path, mooncake) -> None:
    lengths = tmp_path / "t.csv"
    lengths.write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n0.0,10,5\n")
    with pytest.raises(InputError, match="holds lengths only"):
        curve(open_trace(lengths))
    trace = open_trace(mooncake((0, 10, 1, [1]), (1, 10, 1, [1])))
    for options, message in [
        ({"policies": ["lfuu"]}, "no policy named 'lfuu'"),
        ({"capacities": ["64GiB"]}, "not a number of blocks"),
        ({"capacities": [0]}, "at least one block"),
        ({"warmup": 1.0}, "warmup is a share"),
        ({"tiers": [5, 2]}, "tiers must grow"),
    ]:
        with pytest.raises(InputError, match=message):
            curve(trace, **options)


@pytest.mark.benchmark
def test_all_capacities_of_a_real_trace_take_no_time(real) -> None:
    trace = open_trace(real("mooncake_conversation.jsonl"))
    began = time.perf_counter()
    reuse = analyse(columns.load(trace))
    print(f"reading and stack distances of 288,500 events: {time.perf_counter() - began:.3f} s")
    assert (reuse.distance < NEVER).sum() == 105_710
