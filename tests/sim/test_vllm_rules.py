"""Rules of vLLM's scheduler and offloading connector that change hits or admission, each on a trace small enough to follow by hand."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan.hardware.timing import IN, OUT, transfer_s
from kvplan.loading import Loading
from kvplan.memory.below import below
from kvplan.request import Request
from tests.deployed import deployed
from tests.sim.runs import run
from tests.sim.test_by_hand import by_hand, request, rows
from tests.sim.worlds import columns, world


def test_a_shortage_preempts_all_behind_it_until_the_step_has_ended() -> None:
    # 4 sequences of 16 + 40 tokens in 8 blocks, one step in flight. Each has 2 blocks and needs a third for its 33rd token, all in the
    # same step. 0.24 with a connector: the last is preempted, but its blocks are free only when its step has ended; so is the third, the
    # second, and the first itself. 0.33: nobody while all are in flight; a step later the last, whose 2 blocks serve two of the others.
    # Without a connector the last one's 2 blocks are free at once.
    trace = [request(index, 0.0, 16, 40, index + 1) for index in range(4)]
    found = {}
    for rule, cpu in (("cascade", 100), ("wait", 100), ("freed", 100), ("cascade", 0)):
        built = world(trace, gpu_blocks=8, cpu_blocks=cpu, offload={"blocks_in_flight": rule}, overhead={"pause_s": 0.0})
        taken = columns(built)
        assert set(taken["status"]) == {0}
        found[rule, cpu] = int(sum(taken["preemptions"] > 0))
    assert found["cascade", 100] == 4
    assert found["wait", 100] < 4 and found["freed", 100] < 4 and found["cascade", 0] < 4


def test_less_than_a_chunk_behind_the_gpu_hit_is_not_loaded() -> None:
    # Chunks of 64 tokens. A: 70 tokens, 4 full blocks, one chunk below. B takes A's fourth block on the GPU.
    # A again: 48 tokens on the GPU, one chunk of 64 below: 16 tokens more, less than a chunk.
    trace = [
        request(0, 0.0, 70, 1, 1, 2, 3, 4),
        request(1, 50.0, 80, 1, 11, 12, 13, 14, 15),
        request(2, 100.0, 70, 1, 1, 2, 3, 4),
    ]
    for whole, expected in ((True, (48, 0)), (False, (48, 16))):
        built = by_hand(trace, gpu_blocks=8, cpu_blocks=100, offload={"chunk_tokens": 64, "load_whole_chunks": whole})
        assert rows(built, "gpu_hit_tokens", "cpu_hit_tokens")[2] == expected


def test_the_last_token_of_a_loaded_prompt_is_computed() -> None:
    # A's 4 blocks are found in host memory only: 63 tokens are hits, the 64th is computed.
    trace = [request(0, 0.0, 64, 1, 1, 2, 3, 4), request(1, 50.0, 127, 1, *range(11, 19)), request(2, 100.0, 64, 1, 1, 2, 3, 4)]
    assert rows(by_hand(trace, gpu_blocks=8, cpu_blocks=100), "gpu_hit_tokens", "cpu_hit_tokens", "computed_tokens")[2] == (0, 63, 1)


def test_who_waits_for_a_load_runs_behind_the_one_that_loads() -> None:
    # C loads 4 blocks, D with the same beginning waits for that load. Both are seen in one pass: C first, then D, which hits the GPU.
    trace = [
        request(0, 0.0, 64, 1, 1, 2, 3, 4),
        request(1, 10.0, 127, 1, *range(11, 19)),
        request(2, 20.0, 16, 40, 31),
        request(3, 21.5, 80, 1, 1, 2, 3, 4, 5),
        request(4, 21.6, 80, 1, 1, 2, 3, 4, 6),
    ]
    built = by_hand(trace, gpu_blocks=16, cpu_blocks=100, offload={"loads_seen_after_step": True}, engine={"plan_ahead": True})
    found = rows(built, "gpu_hit_tokens", "cpu_hit_tokens", "ttft_s")
    loaded, waited = found[3], found[4]
    assert (loaded[:2], waited[:2]) == ((0, 64), (64, 0)) or (loaded[0] + loaded[1], waited[0] + waited[1]) == (64, 64)
    assert loaded[2] + 21.5 <= waited[2] + 21.6 + 1e-9


def test_a_load_leaves_room_for_what_others_still_need() -> None:
    # A and B lie in host memory with 16 of 30 and 16 of 20 blocks; the GPU has 40. A holds 16 and needs 14 more for its prompt. B would fit
    # beside what A holds, not beside what it needs: with the
    # reservation it is admitted when A has ended; without, it is loaded, gives its blocks back for A, and is loaded again.
    def trace() -> list[Request]:
        first, second = tuple(range(1, 31)), tuple(range(101, 121))
        other = tuple(range(201, 239))
        return [
            request(0, 0.0, 16 * 16, 1, *first[:16]),
            request(1, 50.0, 16 * 16, 1, *second[:16]),
            request(2, 100.0, 38 * 16, 1, *other),
            request(3, 200.0, 30 * 16, 30, *first),
            request(4, 200.0, 20 * 16, 30, *second),
        ]

    loads = {}
    for reserve in (True, False):
        built = by_hand(trace(), gpu_blocks=40, cpu_blocks=500, engine={"reserve_full_prompt": True, "reserve_in_flight": reserve})
        found = rows(built, "queue_s", "load_s", "e2e_s", "preemptions")
        loads[reserve] = built.tally.count
        assert reserve is False or (found[3][3], found[4][3]) == (0, 0)
        assert reserve is False or found[4][0] >= found[3][2]
    assert loads == {True: 2, False: 3}


def test_what_is_computed_takes_what_loads_were_promised() -> None:
    # A has 16 of its 30 blocks in host memory and loads them into a pool of 40; B, 20 blocks that nobody has, comes behind it. A still
    # needs 14 of the 24 blocks left, but vLLM keeps them free for a prefill only against other loads: B is admitted while A loads.
    first = tuple(range(1, 31))
    trace = [
        request(0, 0.0, 16 * 16, 1, *first[:16]),
        request(1, 50.0, 38 * 16, 1, *range(201, 239)),
        request(2, 200.0, 30 * 16, 30, *first),
        request(3, 200.0, 20 * 16, 30, *range(301, 321)),
    ]
    built = by_hand(trace, gpu_blocks=40, cpu_blocks=500, engine={"reserve_full_prompt": True, "reserve_in_flight": True})
    found = rows(built, "queue_s", "load_s", "cpu_hit_tokens")
    assert found[2][2] == 14 * 16  # the other two are on the GPU still
    assert found[3][0] < found[2][1]


def test_what_was_refused_is_offered_again_while_its_sequence_decodes() -> None:
    # Host memory of 4 blocks. A's 4 are being written to a slow disk (2 s a block) and stay until then; B's 4 are refused at its
    # prefill and offered again with every step: once the disk has A, in vLLM they are stored.
    def stored(again: bool) -> int:
        trace = [request(0, 0.0, 64, 1, 1, 2, 3, 4), request(1, 4.0, 64, 30, 11, 12, 13, 14)]
        built = by_hand(trace, gpu_blocks=20, cpu_blocks=4, disk_blocks=100, offload={"offers_again": again})
        columns(built)
        return built.tiers[1].stored_tokens

    assert (stored(True), stored(False)) == (128, 64)


@pytest.mark.parametrize(("waits", "hits"), [(True, (0, 63, 1)), (False, (0, 0, 64))])
def test_a_request_waits_for_content_that_is_being_stored(waits: bool, hits: tuple[int, ...]) -> None:
    # A GPU of 8 blocks, stores of 0.5 s a block, prompts of 4 blocks.
    # t=0     A computes until 1.64; its blocks are free at once, and copied from 1.64 to 3.64
    # t=1.64  B computes until 3.28 in the other four
    # t=1.7   D is planned, in A's blocks: it starts when these are copied, at 3.64. The GPU has lost A
    # t=3.28  A is asked for again. Host memory does not have it yet: vLLM puts the request off until it has, at 3.64, and loads 4 blocks;
    #         an engine for which that is a miss computes it
    a, b, d = (1, 2, 3, 4), (11, 12, 13, 14), (21, 22, 23, 24)
    trace = [request(at, when, 64, 1, *blocks) for at, (when, blocks) in enumerate([(0.0, a), (0.5, b), (1.7, d), (1.8, a)])]
    built = by_hand(trace, gpu_blocks=8, cpu_blocks=100, engine={"plan_ahead": True}, offload={"waits_for_stores": waits})
    assert rows(built, "gpu_hit_tokens", "cpu_hit_tokens", "computed_tokens")[3] == hits


@pytest.mark.parametrize(("model", "hits"), [("llama-3.1-8b", 63), ("gpt-oss-20b", 48)])
def test_the_last_block_of_a_prompt_is_never_loaded_with_windows(model: str, hits: int) -> None:
    # 4 blocks in host memory only. Full attention alone: all of them may be loaded, and the last token is computed again. With groups of
    # windows a hit ends a token before the prompt does, hence a block.
    trace = [request(0, 0.0, 64, 1, 1, 2, 3, 4), request(1, 50.0, 639, 1, *range(11, 51)), request(2, 100.0, 64, 1, 1, 2, 3, 4)]
    found = columns(world(trace, gpu_blocks=40, cpu_blocks=500, model=model))
    assert (found["gpu_hit_tokens"][2], found["cpu_hit_tokens"][2]) == (0, hits)


@pytest.mark.parametrize(("version", "cpu", "last"), [("0.24", 8192 - 32, 0), ("0.26", 16384 - 16, 16)])
def test_a_draft_model_leaves_holes_below_in_0_24(version: str, cpu: int, last: int) -> None:
    # EAGLE, MTP: a prompt of 16,384 tokens in steps of 8,192. 0.24 never stores the last block of a step, so that what it finds ends at
    # 8,176; 0.26 stores all. Of every hit the last block is computed again: 8,160 tokens are left, and 16,368; on the GPU, where a hit
    # ends before the last token, 16,352: of the two blocks behind that 0.26 has both below and loads one.
    order = [tuple(range(first, first + 1024)) for first in (1, 2001, 1, 1)]
    trace = [request(at, 20.0 * at, 16_384, 1, *keys) for at, keys in enumerate(order)]
    result, built = run(trace, version=version, gpu_kv="2052MiB", cpu="8GiB", sets={"engine.drafts": True})
    found = built.recorder.arrays()
    assert list(found["cpu_hit_tokens"]) == [0, 0, cpu, last]
    assert list(found["gpu_hit_tokens"]) == [0, 0, 0, 16_384 - 32]
    assert any("draft model" in warning for warning in result.warnings)


SESSION = [
    Request(index=0, arrival_s=0.0, prompt_tokens=64, output_tokens=16, blocks=(1, 2, 3, 4), session="a"),
    Request(index=1, arrival_s=0.0, prompt_tokens=64, output_tokens=16, blocks=(11, 12, 13, 14), session="a", think_s=1.0),
]


@pytest.mark.parametrize("engine", ["sglang", "dynamo", "vllm"])
def test_an_answer_is_stored_only_for_a_prompt_that_goes_on_from_it(engine: str) -> None:
    # Two prompts of one session that share nothing: nothing can be found.
    result, _ = run(SESSION, engine=engine, cpu="1GiB")
    assert result.prompt_tokens.computed == 128


def test_no_hit_rate_above_the_ceiling() -> None:
    # The second prompt is the first, its answer and 32 tokens more: 63 of 96 tokens are known, 3 blocks of them. The ceiling says so.
    trace: list[Any] = [
        Request(index=0, arrival_s=0.0, prompt_tokens=32, output_tokens=32, blocks=(1, 2), session="a"),
        Request(index=1, arrival_s=0.0, prompt_tokens=96, output_tokens=1, blocks=(1, 2, 3, 4, 5, 6), session="a", think_s=1.0),
    ]
    result, world_of_it = run(trace)
    assert result.prompt_tokens.gpu_hit == 48
    assert world_of_it.arrivals.ceiling.rate == pytest.approx(48 / 128)


def test_a_prompt_larger_than_host_memory_reaches_the_tier_behind_it() -> None:
    # Prompts of 8 blocks, host memory of 4, a disk. Where stores stream past host memory the disk has all of A; where promotions take as
    # much as there is room for, 4 blocks of it come back: 64 tokens. Without the first nothing is stored, without the second none loaded.
    trace = [request(index, 40.0 * index, 128, 1, *range(10 * index, 10 * index + 8)) for index in range(3)]
    again = request(3, 400.0, 128, 1, *range(8))
    for streams, part, expected in ((True, True, (64, 64)), (False, True, (0, 128)), (True, False, (0, 128))):
        built = by_hand(
            [*trace, again],
            gpu_blocks=10,
            cpu_blocks=4,
            disk_blocks=100,
            engine={"step_tokens": 8192},
            offload={"streams_stores": streams, "promotes_part": part},
        )
        assert rows(built, "disk_hit_tokens", "computed_tokens")[3] == expected


def test_an_idle_engine_takes_its_time_to_see_a_load_and_a_busy_one_sees_it_with_a_step() -> None:
    # C loads A's 4 blocks, which B has pushed out of 50, beside nothing or beside D, whose steps of milliseconds see the load.
    late = {}
    for busy in (False, True):
        trace = [request(0, 0.0, 64, 1, 1, 2, 3, 4), request(1, 50.0, 784, 1, *range(11, 60))]
        trace += [request(2, 100.0, 16, 400, 91)] if busy else []
        trace.append(request(3, 100.5, 80, 1, 1, 2, 3, 4, 5))
        first = []
        for load_s in (0.0, 2.0):
            found = columns(world(trace, gpu_blocks=50, cpu_blocks=100, overhead={"load_s": load_s, "pause_s": 0.0}))
            assert found["cpu_hit_tokens"][-1] >= 48
            first.append(float(found["ttft_s"][-1]))
        late[busy] = first[1] - first[0]
    assert late[False] == pytest.approx(2.0)
    assert abs(late[True]) < 0.05


@pytest.mark.parametrize(("before", "gap_s"), [(True, 0.128), (False, 0.0)])
def test_a_step_is_launched_when_the_stores_of_the_one_before_are_handed_over(before: bool, gap_s: float) -> None:
    # 4 blocks of 32 tensors at 1 ms: the step behind the prompt waits for that; from 0.33 on only the one after it.
    overhead = {"submit_piece_s": 1e-3, "pause_s": 0.0}
    built = world([request(0, 0.0, 64, 2, 1, 2, 3, 4)], cpu_blocks=100, offload={"stores_before_launch": before}, overhead=overhead)
    found = columns(built)
    assert float(found["e2e_s"][0] - found["ttft_s"][0]) == pytest.approx(gap_s, abs=0.02)


@pytest.mark.parametrize(("model", "tp", "kernel"), [("llama-3.1-8b", 1, False), ("deepseek-v2-lite", 1, True), ("llama-3.1-70b", 8, True)])
def test_small_pieces_are_loaded_by_a_kernel_and_stored_by_the_copy_engines(model: str, tp: int, kernel: bool) -> None:
    # A block of one layer on one rank: 64 KiB; 16 x 576 x 2 bytes = 18 KiB; 8 KiB. Below 28 KiB 12 thread blocks of a kernel load it.
    made = deployed(model, machine="h100-sxm", tp=tp)
    loading, moved, link = Loading(made), below(made).loaded(8192), made.machine.link
    by_kernel = moved.rank_bytes / (made.engine.offload.load_share * link.mapped_read_Bps)
    engines = transfer_s(link, IN, moved.rank_bytes, moved.pieces)
    assert loading.host_copy_s(IN, moved) == pytest.approx(by_kernel if kernel else engines)
    assert (loading.submit_s(IN, moved.keys) == 0.0) == kernel
    assert loading.host_copy_s(OUT, moved) == pytest.approx(transfer_s(link, OUT, moved.rank_bytes, moved.pieces))
