"""Closed loops: turns that wait for answers, answers that the next turn finds, and no more sessions than allowed."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest

from kvplan.errors import InputError
from kvplan.request import Request
from kvplan.sim.clock import Clock
from kvplan.sim.cluster.sessions import Sessions
from tests.sim.runs import run


def turns(session: str, first: int, count: int, *, arrival_s: float = 0.0, think_s: float = 3.0, at: int = 0) -> list[Request]:
    """Turn t asks 160 tokens after everything before; each answer has 160 tokens and is part of the next prompt."""
    return [
        Request(
            index=at + turn,
            arrival_s=arrival_s,
            prompt_tokens=160 + 320 * turn,
            output_tokens=160,
            blocks=tuple(range(first, first + 10 + 20 * turn)),
            session=session,
            think_s=-1.0 if turn == 0 else think_s,
        )
        for turn in range(count)
    ]


def column(world: Any, name: str) -> list[float]:
    return [float(value) for value in world.recorder.arrays()[name]]


def test_a_turn_arrives_when_the_answer_before_it_was_read() -> None:
    _, world = run(turns("a", 1, 3), gpu_kv="8GiB")
    arrival, whole = column(world, "arrival_s"), column(world, "e2e_s")
    for before in (0, 1):
        assert arrival[before + 1] == pytest.approx(arrival[before] + whole[before] + 3.0, abs=1e-9)


def test_the_next_turn_finds_the_answer_on_the_gpu() -> None:
    """The last of 160 answer tokens has no KV yet, so 19 of the 20 blocks of prompt and answer are found; then 39 of
    40."""
    _, world = run(turns("a", 1, 3), gpu_kv="8GiB")
    assert column(world, "gpu_hit_tokens") == [0, 19 * 16, 39 * 16]


def test_below_the_gpu_the_answer_is_found_where_the_engine_stores_it() -> None:
    """Another user's prompt fills the GPU between two turns."""
    mine = turns("a", 1, 2, think_s=30.0)
    other = Request(index=2, arrival_s=10.0, prompt_tokens=8000, output_tokens=1, blocks=tuple(range(10_000, 10_500)))
    found = {}
    for stores in (True, False):
        _, world = run([*mine, other], gpu_kv="0.985GiB", cpu="8GiB", sets={"engine.offload.store_generated": stores})
        found[stores] = column(world, "cpu_hit_tokens")[1] + column(world, "gpu_hit_tokens")[1]
    assert found == {True: 19 * 16, False: 10 * 16}


def test_sessions_beyond_the_limit_wait_for_one_to_end() -> None:
    trace = [request for user in range(3) for request in turns(f"u{user}", 1 + 1000 * user, 2, at=2 * user)]
    _, free = run(trace, gpu_kv="8GiB")
    _, limited = run(trace, gpu_kv="8GiB", sets={"run.max_sessions": 1})
    ends = [arrival + whole for arrival, whole in zip(column(limited, "arrival_s"), column(limited, "e2e_s"), strict=True)]
    assert column(free, "arrival_s")[::2] == [0.0, 0.0, 0.0]
    arrivals = column(limited, "arrival_s")
    lag = limited.recorder.first_token_s
    assert arrivals[0] == 0.0
    assert arrivals[2] == pytest.approx(ends[1] - lag, abs=1e-9) and arrivals[4] == pytest.approx(ends[3] - lag, abs=1e-9)


def test_belady_needs_arrivals_that_are_known() -> None:
    with pytest.raises(InputError, match="turns wait for answers"):
        run(turns("a", 1, 2), gpu_kv="8GiB", cpu="8GiB", sets={"engine.offload.policy": "belady"})


def test_sessions_are_seen_however_late_they_are_named() -> None:
    single = [Request(index=i, arrival_s=i * 1e-3, prompt_tokens=16, output_tokens=1, blocks=(10**6 + i,)) for i in range(1200)]
    _, world = run([*single, *turns("late", 1, 2, arrival_s=2.0, think_s=30.0, at=1200)], gpu_kv="8GiB")
    assert column(world, "arrival_s")[-1] > 32.0


def test_a_long_trace_of_sessions_is_held_packed() -> None:
    def requests() -> Iterator[Request]:  # 60 blocks each: about 2.4 kB as an object, 480 bytes of names packed
        for row in range(5_000):
            blocks = tuple(range(1_000_000 + 60 * row, 1_000_060 + 60 * row))
            yield Request(index=row, arrival_s=float(row), prompt_tokens=960, output_tokens=1, blocks=blocks, session=f"{row % 50}")

    tracemalloc.start()
    sessions = Sessions(requests(), Clock(), lambda request: None)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    first = next(iter(sessions))
    following = sessions.following(first)
    assert following is not None and (first.index, following.index, following.blocks[0]) == (0, 50, 1_003_000)
    assert held < 800 * 5_000
