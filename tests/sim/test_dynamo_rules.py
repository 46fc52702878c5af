"""Dynamo KVBM under vLLM: times and hits worked out by hand from its source. A block takes 0.5 s between host memory and the GPU, 2 s on
the disk."""

from __future__ import annotations

from typing import Any

import pytest

from kvplan import catalog
from kvplan.request import Request
from tests.sim.runs import documents, run
from tests.sim.test_by_hand import by_hand, request, rows


def known(*, direct: bool, in_turn: bool = False) -> tuple[list[Request], dict[str, Any]]:
    """A's 4 blocks on the disk only, B's 2 in host memory, neither on the GPU: sizes and rules for it."""
    trace = [request(0, 0.0, 64, 1, 0, 1, 2, 3), request(1, 50.0, 80, 1, *range(10, 15)), request(2, 100.0, 32, 1, 20, 21)]
    trace.append(request(3, 150.0, 16 * 7, 1, *range(100, 107)))
    rules = {"lower_direct": direct, "loads_in_turn": in_turn, "job_order": "rank", "stores_gpu_hits": False}
    return trace, {"gpu_blocks": 8, "cpu_blocks": 6, "disk_blocks": 99, "engine": {"step_tokens": 999}, "offload": rules}


def test_a_disk_read_holds_up_a_host_load_behind_it() -> None:
    # A (4 x 2 s from the disk) and B (2 x 0.5 s from host memory) come together: one operation at a time, B's load begins when A's is over.
    waits = {}
    for in_turn in (False, True):
        trace, sizes = known(direct=True, in_turn=in_turn)
        trace += [request(4, 300.0, 65, 1, 0, 1, 2, 3), request(5, 300.1, 33, 1, 20, 21)]
        found = rows(by_hand(trace, **sizes), "disk_hit_tokens", "cpu_hit_tokens", "load_s")
        assert (found[4][0], found[5][1]) == (64, 32)
        waits[in_turn] = found[5][2]
    assert waits[False] == pytest.approx(1.0, abs=0.01)
    assert waits[True] == pytest.approx(8.0 - 0.1 + 1.0, abs=0.6)


def test_a_prefix_on_the_disk_is_read_each_time() -> None:
    # A is asked for three times, and pushed out of the GPU in between: KVBM reads it from the disk each time and leaves host memory as it
    # is. Through host memory the second and third find it there.
    for direct, expected in ((True, [64, 64, 64]), (False, [64, 0, 0])):
        trace, sizes = known(direct=direct)
        for turn in range(3):
            at = 300.0 + 100 * turn
            trace.append(request(4 + 2 * turn, at, 65, 1, 0, 1, 2, 3))
            trace.append(request(5 + 2 * turn, at + 50, 127, 1, *range(200 + 10 * turn, 208 + 10 * turn)))
        found = rows(by_hand(trace, **sizes), "disk_hit_tokens")
        assert [hit for (hit,) in found[4::2]] == expected


def test_a_disk_without_a_cpu_tier() -> None:
    # 2 documents in a GPU pool of one: the first comes back from the disk, and the blocks of a store are held until the disk has them.
    found = run(documents(2, 1024, rounds=2), engine="dynamo", gpu_kv="140MiB", disk="8GiB")[1].recorder.arrays()
    assert list(found["gpu_hit_tokens"] + found["disk_hit_tokens"]) == [0, 0, 1008, 1008]
    assert found["disk_hit_tokens"][2] > 900 and list(found["cpu_hit_tokens"]) == [0, 0, 0, 0]


def test_the_host_waits_for_the_last_layer_of_a_step_with_prompts() -> None:
    # A cold prompt of 32,768 tokens in steps of 8,192: three times the next step is prepared only when the one before it has ended.
    host = {"machine.host.python_s": 2.7e-6, "machine.host.launch_s": 396e-6}
    ttft = {}
    for waits in (False, True):
        sets: dict[str, Any] = {**host, "engine.offload.waits_for_prompts": waits}
        world = run(documents(1, 32_768), engine="dynamo", gpu_kv="8GiB", cpu="8GiB", sets=sets)[1]
        ttft[waits] = float(world.recorder.arrays()["ttft_s"][0])
        prepare_s = world.overhead.prepare_s
    assert ttft[True] - ttft[False] == pytest.approx(3 * prepare_s, rel=0.2)


def test_a_hit_to_the_end_of_a_prompt_gives_back_a_block() -> None:
    # A's 4 blocks are in host memory only: KVBM gives back the last one, so that 48 tokens hit and 16 are computed; vLLM loads all and
    # computes one token.
    trace = [request(0, 0.0, 64, 1, 1, 2, 3, 4), request(1, 50.0, 127, 1, *range(11, 19)), request(2, 100.0, 64, 1, 1, 2, 3, 4)]
    for last, expected in ((False, (48, 16)), (True, (63, 1))):
        built = by_hand(trace, gpu_blocks=8, cpu_blocks=100, offload={"load_last_block": last})
        assert rows(built, "cpu_hit_tokens", "computed_tokens")[2] == expected
    assert catalog.engine("dynamo").offload.load_last_block is False


def test_under_tensorrt_llm_answers_go_down_and_a_whole_hit_costs_its_block() -> None:
    # Blocks of 32. A's prompt of 128 tokens and 64 more: five whole blocks are stored, under vLLM the prompt's four alone.
    # The next turn goes on from there when the GPU has lost it. Asked again as it was, the fourth block is computed: partial reuse is off.
    first, answer = tuple(range(8)), tuple(range(100, 104))
    turns = [
        Request(index=0, arrival_s=0.0, prompt_tokens=128, output_tokens=64, blocks=first, session="a"),
        Request(index=1, arrival_s=0.0, prompt_tokens=224, output_tokens=1, blocks=(*first, *answer, 200, 201), session="a", think_s=60.0),
        Request(index=2, arrival_s=30.0, prompt_tokens=16 * 41, output_tokens=1, blocks=tuple(range(1000, 1041)), session="b"),
    ]
    found = {}
    for engine in ("dynamo-trtllm", "dynamo"):
        sets: dict[str, Any] = {"engine.block_tokens": 32}
        built = run(turns, engine=engine, gpu_kv=str(22 * 32 * 131072), cpu="1GiB", sets=sets)[1]
        arrays = built.recorder.arrays()
        found[engine] = int(arrays["gpu_hit_tokens"][1] + arrays["cpu_hit_tokens"][1])
        assert arrays["cpu_hit_tokens"][1] >= 128
    assert found == {"dynamo-trtllm": 160, "dynamo": 128}

    again = [Request(index=at, arrival_s=50.0 * at, prompt_tokens=128, output_tokens=1, blocks=first) for at in range(2)]
    hits = {
        name: int(run(again, engine=name, gpu_kv="1GiB")[1].recorder.arrays()["gpu_hit_tokens"][1]) for name in ("trtllm", "dynamo-trtllm")
    }
    assert hits == {"trtllm": 127, "dynamo-trtllm": 96}
