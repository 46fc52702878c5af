"""TensorRT-LLM's secondary pool and its scheduler, worked out by hand from its source."""

from __future__ import annotations

import pytest

from kvplan.request import Request
from tests.sim.runs import run
from tests.sim.test_by_hand import by_hand, request, rows

BLOCK_BYTES = 32 * 131072


def test_a_block_is_copied_down_when_it_is_taken() -> None:
    # GPU of 8 blocks. A has 4. B needs 5: 4 are free, so that one of A's goes to the secondary pool, its last one. A again: 3 on the GPU,
    # one brought back.
    trace = [request(0, 0.0, 64, 1, 1, 2, 3, 4), request(1, 50.0, 79, 1, *range(10, 15)), request(2, 100.0, 65, 1, 1, 2, 3, 4)]
    for blocks, expected in ((1, (48, 16)), (64, (0, 64))):
        rules = {"store": "on_evict", "spill_blocks": blocks, "exclusive": True, "load": "blocking"}
        built = by_hand(trace, gpu_blocks=8, cpu_blocks=50, offload=rules, engine={"step_tokens": 999})
        assert rows(built, "gpu_hit_tokens", "cpu_hit_tokens")[2] == expected


def test_a_prompt_that_is_all_there_computes_one_token() -> None:
    # 4 blocks of 32. Whole blocks may not hold the last token: 96 hit, 32 are computed. With a copy of the fourth 127 hit.
    def hit(partial: bool) -> tuple[int, int]:
        trace = [Request(index=at, arrival_s=10.0 * at, prompt_tokens=128, output_tokens=1, blocks=tuple(range(8))) for at in range(2)]
        found = run(trace, engine="trtllm", gpu_kv="1GiB", sets={"engine.partial_reuse": partial})[1].recorder.arrays()
        return int(found["gpu_hit_tokens"][1]), int(found["computed_tokens"][1])

    assert (hit(True), hit(False)) == ((127, 1), (96, 32))


def test_what_is_evicted_is_copied_when_the_step_in_progress_has_ended() -> None:
    # A step takes 1 s and 10 ms a prefill token, a copy 0.5 s a block. A leaves 4 blocks; B, 6 blocks, starts in the four others... of 8.
    # t=0     A computes until 1.64
    # t=1.64  B (0.5 s) computes 64 tokens in the four free blocks until 3.28
    # t=1.64  its other 32 tokens are planned: two of A's blocks go. Their copies begin with the step in progress over, at 3.28, and the
    #         step waits for them, until 4.28; it ends at 5.60. At once they are copied until 2.64, and it ends at 4.60.
    trace = [request(0, 0.0, 64, 1, 1, 2, 3, 4), request(1, 0.5, 96, 1, *range(10, 16))]
    for behind, ends_s in ((True, 5.6), (False, 4.6)):
        rules = {"store": "on_evict", "spill_blocks": 1, "exclusive": True, "load": "blocking", "spills_behind_step": behind}
        built = by_hand(trace, gpu_blocks=8, cpu_blocks=50, offload=rules, engine={"plan_ahead": True})
        assert rows(built, "e2e_s")[1] == (pytest.approx(ends_s - 0.5),)


def test_content_of_a_low_priority_is_not_offloaded() -> None:
    # Priority 20 lies under the 30 from which blocks are offloaded, the default 35 above: only the latter comes back.
    def hit(retention: int) -> int:
        first = Request(index=0, arrival_s=0.0, prompt_tokens=128, output_tokens=1, blocks=tuple(range(8)), retention=retention)
        other = Request(index=1, arrival_s=10.0, prompt_tokens=250, output_tokens=1, blocks=tuple(range(100, 116)))
        again = Request(index=2, arrival_s=20.0, prompt_tokens=129, output_tokens=1, blocks=tuple(range(8)), retention=retention)
        found = run([first, other, again], engine="trtllm", gpu_kv=str(8 * BLOCK_BYTES), cpu="1GiB")[1].recorder.arrays()
        return int(found["cpu_hit_tokens"][2])

    assert (hit(35), hit(20)) == (128, 0)


def test_nobody_is_taken_in_who_could_be_evicted() -> None:
    # 12 blocks of 32. Each of three requests ends with 5 (32 prompt tokens and 120 more): two run at once, the third waits for one of them.
    trace = [Request(index=at, arrival_s=0.1 * at, prompt_tokens=32, output_tokens=120, blocks=(10 * at, 10 * at + 1)) for at in range(3)]
    found = {}
    for engine in ("trtllm", "vllm"):
        sets = {"engine.block_tokens": 32, "engine.offload.store": "on_evict"}
        found[engine] = run(trace, engine=engine, gpu_kv=str(13 * BLOCK_BYTES), sets=sets)[1].recorder.arrays()
    assert found["trtllm"]["preemptions"].sum() == 0
    assert found["trtllm"]["queue_s"][2] > 0.5 * found["trtllm"]["e2e_s"][0] > found["vllm"]["queue_s"][2]
    assert found["vllm"]["preemptions"].sum() > 0
