"""SGLang's scheduler and HiCache: times worked out by hand from its source. Steps take 1 s + 0.01 s a token + 0.1 s a decoding sequence."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from kvplan import catalog
from kvplan.deployment import Deployment
from kvplan.loading import Loading
from kvplan.memory.below import below
from kvplan.sim.transfer.links import IN, OUT
from kvplan.step_time import StepCost
from tests.sim.runs import run
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


def test_write_back_stops_the_scheduler_until_the_victims_are_copied() -> None:
    # A GPU of 8 blocks, copies of 0.5 s a block, a host that takes 4 s to launch a step.
    # t=0     A computes 64 tokens and leaves 4 blocks
    # t=10    B, 127 tokens, needs 8: four are free, A's four are copied first, until 12. The step itself takes 1 + 1.27 s, until 14.27, and
    #         is launched meanwhile, until 14. Under SGLang the host waits for the copies and launches from 12 to 16.
    found = {}
    for waits in (False, True):
        rules = {"store": "on_evict", "spill_blocks": 1, "spills_behind_step": True, "spill_waits": waits}
        trace = [request(0, 0.0, 64, 1, 1, 2, 3, 4), request(1, 10.0, 127, 1, *range(10, 17))]
        built = by_hand(trace, gpu_blocks=8, cpu_blocks=50, offload=rules, engine={"step_tokens": 200})
        built.cost.host_s = lambda chunks, decodes: 4.0  # type: ignore[method-assign]
        found[waits] = rows(built, "e2e_s")[1][0]
    assert found == {False: 4.27, True: 6.0}


def test_a_store_waits_for_the_step_behind_and_locks_its_blocks_until_then() -> None:
    # A GPU of 12 blocks. A's 64 tokens are computed until 1.64; B, 16 tokens, decodes in steps of 1.1 s behind it. C, 8 blocks, fits only
    # when A's four are free. Stored with its own step A is down after 2 s, at 3.64; under SGLang the copy begins when the following step
    # has ended, a step of B's later.
    admitted = {}
    for start in ("step_end", "next_step_end"):
        rules = {"store_start": start, "store_holds_blocks": True}
        trace = [request(0, 0.0, 64, 1, 1, 2, 3, 4), request(1, 0.1, 16, 30, 9), request(2, 0.2, 127, 1, *range(20, 27))]
        built = by_hand(trace, gpu_blocks=12, cpu_blocks=50, offload=rules, engine={"plan_ahead": True, "reserve_full_prompt": True})
        admitted[start] = rows(built, "queue_s")[2][0]
    assert admitted["next_step_end"] > admitted["step_end"] + 1.0


def test_what_is_cut_short_keeps_whole_batches_of_pages() -> None:
    # A's 8 blocks are on the disk only, 2 s each. It comes at 200 while another runs alone until some 213: 6 blocks have come. Read in
    # batches of four, and not waited for, four of them count; in batches of 128, none.
    hits = {}
    for batch in (0, 4, 128):
        trace = [request(0, 0.0, 129, 1, *range(1, 9))]
        trace += [request(at, 50.0 * at, 16 * 10, 1, *range(100 * at, 100 * at + 10)) for at in (1, 2)]
        trace += [request(3, 199.5, 16, 12, 900), request(4, 200.0, 129, 1, *range(1, 9))]
        rules = {"prefetch": "best_effort", "prefetch_batch_blocks": batch, "prefetch_min_tokens": 16, "prefetch_share": 1.0}
        built = by_hand(trace, gpu_blocks=12, cpu_blocks=10, disk_blocks=100, offload=rules, engine={"max_batch": 1})
        hits[batch] = int(rows(built, "disk_hit_tokens")[4][0])
    assert hits[128] == 0
    assert hits[0] >= hits[4] == 64


def test_a_page_of_one_token_is_a_copy_of_its_own() -> None:
    # Unset, a page is one token: storing 8,192 tokens of Llama-3.1-8B takes 8,192 copies of 128 KiB, which the scheduler's thread hands
    # over one after the other (2.5 us each: 20 ms), against 128 of 8 MiB with the 64 that kvplan's configuration sets.
    moved, seconds = {}, {}
    for page in (1, 64):
        engine = msgspec.structs.replace(catalog.engine("sglang"), block_tokens=page)
        deployment = Deployment(model=catalog.model("llama-3.1-8b"), server=catalog.machine("h100-sxm"), engine=engine)
        moved[page] = below(deployment).stored(8192)
        seconds[page] = Loading(deployment, StepCost(deployment)).submit_s(OUT, moved[page].keys)
    assert (moved[1].pieces, moved[64].pieces) == (8192, 128)
    assert moved[1].rank_bytes == moved[64].rank_bytes == 2**30
    assert seconds[1] == pytest.approx(64 * seconds[64])


def test_a_latent_takes_its_place_on_every_rank() -> None:
    # DeepSeek-V3 on 8 ranks with --hicache-size 100, 800 GB in all: 100 GB / (61 layers x 576 x 2 bytes) = 1.42 million tokens.
    scenario = run([request(0, 0.0, 64, 1)], engine="sglang", model="deepseek-v3", machine="h200-sxm", tp=8, cpu="800GB")[1]
    assert scenario.tiers[1].capacity_tokens == pytest.approx(100e9 / (61 * 576 * 2), rel=1e-3)


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
