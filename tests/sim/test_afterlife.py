"""Tiers that never evict forget what no later request names: nothing that a run reports changes by it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kvplan.request import Request
from kvplan.sim.cache import afterlife
from kvplan.sim.cache.afterlife import named_later
from kvplan.traces.packed import PackedRequests
from kvplan.traces.trace import open_trace
from kvplan.traces.write import convert
from tests.sim.runs import run


def chat(rng: np.random.Generator, sessions: int, turns: int) -> list[Request]:
    """Sessions that begin with one of two system prompts, in blocks of 16 tokens; prompts go on with what was answered."""
    rows: list[tuple[float, str, tuple[int, ...]]] = []
    fresh = 100
    for session in range(sessions):
        keys = tuple(range(8)) if session % 2 else tuple(range(50, 58))
        at_s = float(rng.uniform(0, 20))
        for _ in range(turns):
            added = int(rng.integers(2, 12))
            keys, fresh = keys + tuple(range(fresh, fresh + added)), fresh + added
            rows.append((at_s, f"s{session}", keys))
            at_s += float(rng.exponential(2.0))
    rows.sort()
    return [
        Request(index=at, arrival_s=t, prompt_tokens=16 * len(keys), output_tokens=9, blocks=keys, session=session)
        for at, (t, session, keys) in enumerate(rows)
    ]


@pytest.mark.parametrize("engine", ["vllm", "lmcache-mp", "dynamo"])
@pytest.mark.parametrize("seed", range(3))
def test_forgetting_changes_nothing_but_the_memory_taken(engine: str, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = chat(np.random.default_rng(seed), 24, 5)
    convert(requests, tmp_path / "t.jsonl", block_tokens=16)
    trace = open_trace(tmp_path / "t.jsonl")
    monkeypatch.setattr("tests.sim.runs.ListTrace", lambda requests, key_tokens: requests)  # the trace itself
    monkeypatch.setattr(afterlife, "DELAY", 10)
    nodes, found = [], []
    for least in (10**9, 0):
        monkeypatch.setattr(afterlife, "LONG_REQUESTS", least)
        result, world = run(
            trace,
            engine=engine,  # type: ignore[arg-type]
            gpu_kv="300MiB",
            cpu="200MiB",
            disk="1TiB",
        )
        found.append((result, {name: column.tolist() for name, column in world.recorder.arrays().items()}))
        nodes.append(size_of(world.tiers[-1].tree.root))
    assert repr(found[0]) == repr(found[1])  # absent times are NaN
    assert nodes[1] < nodes[0] if engine != "dynamo" else nodes[1] == nodes[0]


def size_of(node: object) -> int:
    """Runs of a tree."""
    return 1 + sum(size_of(child) for child in node.children.values())  # type: ignore[attr-defined]


def test_named_later_by_hand() -> None:
    prompts = [(1, 2, 3), (1, 2, 9), (7,), (), (1, 2, 3, 4), (7, 8)]
    packed = PackedRequests()
    packed.extend([Request(index=at, arrival_s=0.0, prompt_tokens=1, output_tokens=1, blocks=ids) for at, ids in enumerate(prompts)])
    assert named_later(packed).tolist() == [3, 2, 1, 0, 0, 0]
