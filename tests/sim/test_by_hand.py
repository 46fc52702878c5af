"""Tiny scenarios whose every event is worked out by hand.

A step takes 1 s, 10 ms more for each prefill token and 100 ms for each decoding sequence; a copy takes 0.5 s a block,
a disk read or write 2 s a block; nothing else costs anything.
"""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.engine.spec import Overhead
from kvplan.request import Request
from kvplan.sim.simulate import World
from kvplan.sim.transfer.paths import DiskPath, HostPath
from tests.sim.worlds import columns, world

ZERO = {name: getattr(Overhead(), name) for name in Overhead.__struct_fields__}


def request(index: int, arrival_s: float, prompt: int, output: int, *keys: int) -> Request:
    return Request(index=index, arrival_s=arrival_s, prompt_tokens=prompt, output_tokens=output, blocks=keys)


def by_hand(requests: list[Request], engine: dict[str, Any] | None = None, offload: dict[str, Any] | None = None, **tiers: int) -> World:
    plain = {"outputs_behind_stores": False, "loads_exclude_steps": False, "loads_seen_after_step": False}
    built = world(
        requests,
        engine={"plan_ahead": False, "reserve_full_prompt": False, "step_tokens": 64, **(engine or {})},
        offload=plain | (offload or {}),
        overhead=ZERO,
        jump=False,
        **tiers,
    )

    def step_s(chunks: list[tuple[int, int]], decodes: int, attention_s: float, sampled: int) -> float:
        return 1.0 + 0.01 * sum(new for new, _ in chunks) + 0.1 * decodes

    built.cost.busy_s = step_s  # type: ignore[method-assign, assignment]
    built.cost.host_s = lambda chunks, decodes: 0.0  # type: ignore[method-assign]
    for below in built.servers[0].below:
        if isinstance(below.path, HostPath):
            below.path.loading.host_copy_s = lambda direction, moved: 0.5 * moved.keys  # type: ignore[method-assign]
        if isinstance(below.path, DiskPath):
            below.path.queue.service_s = below.path.queue.share_s = lambda direction, size, pieces, threads: 2.0 * pieces  # type: ignore[method-assign]
    return built


def rows(built: World, *names: str) -> list[tuple[float, ...]]:
    found = columns(built)
    return [tuple(round(float(found[name][at]), 9) for name in names) for at in range(len(found["index"]))]


def test_decodes_and_chunks_share_the_budget_of_a_step() -> None:
    # t=0     A computes 64 of its 96 tokens                             1 + .64       ends 1.64
    # t=1.64  A computes the last 32 and B, here since 0.5, 32 of its 64  1 + .64       ends 3.28: first token of A
    # t=3.28  A decodes; B computes 32                                    1 + .1 + .32  ends 4.70: A ends, first token
    # of B
    # t=4.70  B decodes                                                   1 + .1        ends 5.80: B ends
    built = by_hand([request(0, 0.0, 96, 2, 1, 2, 3, 4, 5, 6), request(1, 0.5, 64, 2, 7, 8, 9, 10)])
    assert rows(built, "queue_s", "ttft_s", "e2e_s") == [(0.0, 3.28, 4.7), (1.14, 4.2, 5.3)]


def test_a_prefix_in_use_is_shared_at_once() -> None:
    # A computes 64 tokens until 1.64. B has the same 64 and 16 more: 64 hit, 16 computed, beside A's only other token.
    # t=1.64  A decodes, B computes 16: 1 + .1 + .16 ends 2.90
    built = by_hand([request(0, 0.0, 64, 2, 1, 2, 3, 4), request(1, 1.0, 80, 1, 1, 2, 3, 4, 5)])
    assert rows(built, "gpu_hit_tokens", "computed_tokens", "ttft_s", "e2e_s") == [
        (0, 64, 1.64, 2.9),
        (64, 16, 1.9, 1.9),
    ]


def test_a_prompt_that_is_wholly_cached_computes_its_last_block() -> None:
    # At least one token must be computed, and hits are whole blocks: 48 of 64. B: 1 + .16.
    built = by_hand([request(0, 0.0, 64, 1, 1, 2, 3, 4), request(1, 10.0, 64, 1, 1, 2, 3, 4)])
    assert rows(built, "gpu_hit_tokens", "ttft_s") == [(0, 1.64), (48, 1.16)]


def test_the_tail_goes_first_and_host_memory_gives_it_back() -> None:
    # 6 GPU blocks. A leaves 4 blocks behind; they are stored from 1.64 on (4 x 0.5 s).
    # t=10    B needs 5: 2 are free, A's last 3 go; its first stays.                   ends 10 + 1.64 + 1.16 = 12.8 (64
    # + 16 tokens)
    # t=20    C is A and one block: 16 tokens on the GPU, 48 in host memory, load 3 x 0.5 s until 21.5,
    #         then 16 tokens: 1.16, first token at 22.66.
    trace = [
        request(0, 0.0, 64, 1, 1, 2, 3, 4),
        request(1, 10.0, 80, 1, 11, 12, 13, 14, 15),
        request(2, 20.0, 80, 1, 1, 2, 3, 4, 5),
    ]
    built = by_hand(trace, gpu_blocks=6, cpu_blocks=100)
    assert rows(built, "gpu_hit_tokens", "cpu_hit_tokens", "load_s", "queue_s", "ttft_s") == [
        (0, 0, 0, 0, 1.64),
        (0, 0, 0, 0, 2.8),
        (16, 48, 1.5, 0, 2.66),
    ]
    assert built.tiers[1].loaded_tokens == 48
    assert built.tiers[1].stored_tokens == 64 + 80 + 16


def test_what_only_the_disk_holds_goes_through_host_memory() -> None:
    # As above with 4 blocks of host memory: B's store of its first chunk (4 blocks) puts A out of it, the disk has A.
    # t=200   C: GPU 16 tokens. Host memory keeps whole prefixes, so all 4 blocks are read: 8 s, until 208. Then the 3
    # that the GPU
    #         lacks, 3 x 0.5 s, until 209.5, and 16 tokens until 210.66.
    trace = [
        request(0, 0.0, 64, 1, 1, 2, 3, 4),
        request(1, 10.0, 80, 1, 11, 12, 13, 14, 15),
        request(2, 200.0, 80, 1, 1, 2, 3, 4, 5),
    ]
    built = by_hand(trace, gpu_blocks=6, cpu_blocks=4, disk_blocks=100)
    found = rows(built, "gpu_hit_tokens", "cpu_hit_tokens", "disk_hit_tokens", "load_s", "ttft_s")[2]
    assert found == (16, 0, 48, 9.5, 10.66)


def test_a_preempted_request_finds_what_it_had() -> None:
    # 6 blocks, A and B with 2 blocks of prompt each and 33 tokens to generate.
    # t=0      A's prompt: 1 + .32                                                     1.32
    # t=1.32   A decodes, B's prompt: 1 + .1 + .32                                     2.74
    # 15 steps of two decodes take A to 48 tokens and B to 47, 3 blocks each: 15 x 1.2  20.74
    # A's 49th token needs a block: B goes. Its prompt stays cached, its third block is not full and free at once.
    # A alone: 16 more steps of 1.1 (its tokens 18 to 33)                              38.34, A ends
    # B comes back with 32 of 47 + 1 tokens cached: 16 tokens, 1.16                     39.50, its 17th token
    # 16 more at 1.1                                                                  57.10, B ends
    built = by_hand([request(0, 0.0, 32, 33, 1, 2), request(1, 0.0, 32, 33, 3, 4)], gpu_blocks=6)
    assert rows(built, "preemptions", "ttft_s", "e2e_s") == [(0, 1.32, 38.34), (1, 2.74, 57.1)]
    assert built.recorder.intervals_s.largest == pytest.approx(39.5 - 20.74)  # between B's 16th and 17th token
    assert built.recorder.intervals_s.count == 32 + 32


def test_requests_that_share_blocks_being_loaded_wait_for_one_load() -> None:
    # A's 4 blocks are in host memory only. C and D want them at 20 and 20.1: one load, 4 x 0.5 s until 22.
    # t=22    C computes 16, D finds 64 on the GPU and computes 16: 1 + .32, both at 23.32.
    trace = [
        request(0, 0.0, 64, 1, 1, 2, 3, 4),
        request(1, 10.0, 127, 1, *range(11, 19)),
        request(2, 20.0, 80, 1, 1, 2, 3, 4, 5),
        request(3, 20.1, 80, 1, 1, 2, 3, 4, 6),
    ]
    built = by_hand(trace, gpu_blocks=8, cpu_blocks=100)
    assert rows(built, "gpu_hit_tokens", "cpu_hit_tokens", "load_s", "ttft_s")[2:] == [
        (0, 64, 2.0, 3.32),
        (64, 0, 0, 3.22),
    ]
    assert built.tally.count == 1


@pytest.mark.parametrize(("rule", "hits"), [("always", 48), ("never", 0), ("break_even", 0)])
def test_load_rules(rule: str, hits: int) -> None:
    # Loading 3 blocks takes 1.5 s. Computing them again takes 48 x 10 ms = 0.48 s: only `always` loads, and loses 1.02
    # s by it.
    trace = [
        request(0, 0.0, 64, 1, 1, 2, 3, 4),
        request(1, 10.0, 80, 1, 11, 12, 13, 14, 15),
        request(2, 20.0, 80, 1, 1, 2, 3, 4, 5),
    ]
    built = by_hand(trace, gpu_blocks=6, cpu_blocks=100, offload={"load_rule": rule}, engine={"step_tokens": 8192})
    built.cost.prefill_s = lambda new, context, step_tokens: 0.01 * new  # type: ignore[method-assign]
    assert rows(built, "cpu_hit_tokens")[2] == (hits,)
    assert (built.tally.losing, round(built.tally.losing_s, 9)) == ((1, 1.02) if hits else (0, 0))
