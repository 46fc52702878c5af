"""SGLang's scheduler and HiCache: times worked out by hand from its source. Steps take 1 s + 0.01 s a token + 0.1 s a decoding sequence."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.sim.transfer.links import IN
from tests.sim.test_by_hand import by_hand, request, rows
from tests.sim.test_paths import disk
from tests.sim.worlds import world


def test_prompts_run_alone_and_those_that_decode_wait() -> None:
    # A, 16 tokens, decodes when B comes with 192 tokens in steps of 64. Mixed, each step of B carries A: A's 20 tokens take 19 steps of
    # 1.1 s, of which 3 to 4 are longer by B's 192 tokens. Apart, A waits for three steps of 1 + 0.64 s, and has all its own beside.
    trace = [request(0, 0.0, 16, 20, 1), request(1, 5.0, 192, 1, *range(10, 22))]
    took = {}
    for apart in (False, True):
        built = by_hand(trace, gpu_blocks=50, engine={"prefill_apart": apart})
        found = rows(built, "ttft_s", "e2e_s")
        took[apart] = found[0][1] - found[0][0]
        gaps = built.recorder.arrays()
        assert len(gaps["itl_s"]) == 2
    assert took[False] == pytest.approx(19 * 1.1 + 1.92, abs=0.11)
    assert took[True] == pytest.approx(19 * 1.1 + 3 * 1.64, abs=0.11)


def test_a_gap_between_tokens_holds_the_prompts_in_between() -> None:
    # The same: the longest of A's gaps is 3 x 1.64 + 1.1 s, the others 1.1 s.
    trace = [request(0, 0.0, 16, 20, 1), request(1, 5.0, 192, 1, *range(10, 22))]
    built = by_hand(trace, gpu_blocks=50, engine={"prefill_apart": True})
    gaps: list[tuple[float, int]] = []
    built.recorder.intervals = lambda seconds, tokens: gaps.append((seconds, tokens))  # type: ignore[method-assign]
    built.run()
    assert sorted(gaps)[-1] == (pytest.approx(3 * 1.64 + 1.1, rel=1e-6), 1)
    assert sorted(gaps)[0][0] == pytest.approx(1.1) and sum(tokens for _, tokens in gaps) == 19


def test_patience_for_a_prefetch_begins_when_the_scheduler_first_asks() -> None:
    # A's 8 blocks are on the disk only (2 s a block). It comes at 200 while another runs alone for some 12 s (one at a time). Asked then,
    # the scheduler gives it 2 s more, so that 14 s bring 6 to 7 blocks. From arrival on, 2 s would have brought one.
    trace = [request(0, 0.0, 128, 1, *range(8))]
    trace += [request(at, 50.0 * at, 127, 1, *range(100 * at, 100 * at + 8)) for at in (1, 2)]
    trace += [request(3, 199.0, 16, 12, 900), request(4, 200.0, 129, 1, *range(8))]
    rules: dict[str, Any] = {"prefetch": "timeout", "prefetch_timeout_s": 2.0, "prefetch_timeout_most_s": 99.0, "prefetch_min_tokens": 16}
    built = by_hand(trace, gpu_blocks=10, cpu_blocks=9, disk_blocks=99, engine={"step_tokens": 999, "max_batch": 1}, offload=rules)
    hit = rows(built, "disk_hit_tokens")[4][0]
    assert 5 * 16 <= hit <= 8 * 16


def test_what_is_stored_when_it_is_evicted_waits_for_the_step_in_progress() -> None:
    # A decodes in steps of 1.1 s. B comes in the middle of one and pushes C's 4 blocks out of the GPU: 4 x 0.5 s of copies, which begin
    # when the step in progress has ended under SGLang, at once elsewhere.
    trace = [request(0, 0.0, 64, 1, 1, 2, 3, 4), request(1, 10.0, 16, 60, 9), request(2, 20.0, 128, 1, *range(20, 28))]
    ends = {}
    for behind in (False, True):
        rules = {"store": "on_evict", "spills_behind_step": behind}
        built = by_hand(trace, gpu_blocks=13, cpu_blocks=50, offload=rules, engine={"plan_ahead": True})
        ends[behind] = rows(built, "e2e_s")[2][0]
    assert ends[True] >= ends[False]


def test_files_are_read_one_after_the_other() -> None:
    # One thread: four requests of one page each, at once, end one after the other, not together.
    one = disk(disk_read_threads=1, disk_write_threads=1)
    ends = [one.send(IN, 0.0, 16)[1] for _ in range(4)]
    assert ends == pytest.approx([(at + 1) * one.service_s(IN, 16) for at in range(4)])


def test_the_output_of_running_requests_is_kept_free() -> None:
    # 10 blocks. A and B: 16 + 100 tokens, 8 blocks at their end. B comes behind A, which still takes 7: it waits for A where all of that is
    # reserved, else it is admitted at once, and preempted later.
    trace = [request(0, 0.0, 16, 100, 1), request(1, 3.0, 16, 100, 2)]
    found = {}
    for share in (0.0, 1.0):
        built = by_hand(trace, gpu_blocks=10, engine={"reserve_output": share})
        found[share] = rows(built, "queue_s", "e2e_s", "preemptions")
    assert found[0.0][1][0] < 3 and sum(row[2] for row in found[0.0]) >= 1
    assert found[1.0][1][0] > 60 and sum(row[2] for row in found[1.0]) == 0


def test_a_prompt_is_handled_when_the_step_behind_it_is_launched() -> None:
    # A's 16 tokens take the GPU 1.16 s and the host 2 s to launch, until 2.0. The step of decodes behind them is launched from then
    # until 2.4: SGLang handles A's first token only then. Its second one comes when that step has ended, 1.1 s after it began at 2.0.
    first = {}
    for launches_first in (False, True):
        built = by_hand([request(0, 0.0, 16, 2, 1)], engine={"plan_ahead": True, "launches_first": launches_first})
        built.cost.host_s = lambda chunks, decodes: 2.0 if chunks else 0.4  # type: ignore[method-assign]
        first[launches_first] = rows(built, "ttft_s", "e2e_s")[0]
    assert first == {False: (2.0, 3.1), True: (2.4, 3.1)}


def test_a_gap_that_holds_a_prompt_is_counted_whether_or_not_decodes_are_taken_at_once() -> None:
    # A decodes 60 tokens while B and C compute 192 tokens each, apart from it, and decode then: 59 + 29 + 9 gaps, however they are counted.
    trace = [request(0, 0.0, 16, 60, 1), request(1, 0.1, 192, 30, *range(10, 22)), request(2, 0.3, 192, 10, *range(30, 42))]
    total: dict[bool, tuple[int, float]] = {}
    for jump in (True, False):
        built = world(trace, gpu_blocks=60, engine={"prefill_apart": True, "plan_ahead": True, "step_tokens": 64}, jump=jump)
        gaps: list[tuple[float, int]] = []
        built.recorder.intervals = lambda seconds, tokens, gaps=gaps: gaps.append((seconds, tokens))  # type: ignore[method-assign,misc]
        built.run()
        total[jump] = sum(tokens for _, tokens in gaps), sum(seconds * tokens for seconds, tokens in gaps)
    assert total[True] == (59 + 29 + 9, pytest.approx(total[False][1], rel=1e-9)) and total[False][0] == 59 + 29 + 9
