"""How fast the simulator is: figures, not limits. Run with `pytest -m benchmark -s`."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.public import needs, public

ROOT = Path(__file__).resolve().parents[2]
TRACE = public("traces/mooncake_conversation.jsonl")
pytestmark = pytest.mark.benchmark


# The peak of the kernel's accounting (ru_maxrss) starts with that of the parent, so the child reports its own.
CODE = """
import sys
from kvplan.cli.main import run
try:
    run()
finally:
    sys.stderr.write(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def simulate(trace: Path, *arguments: str) -> tuple[float, float, dict]:
    """Seconds of the whole command, its peak memory in MB, its answer."""
    given = ["simulate", str(trace), "--model", "llama-3.1-8b", "--machine", "h100-sxm", "--json", "-q", *arguments]
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", CODE, *given],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )
    seconds = time.perf_counter() - began
    return seconds, int(done.stderr.split()[-2]) / 1024, json.loads(done.stdout)


def plain_lru(path: Path, per_key: int, capacity: int) -> float:
    """Seconds of a bare LRU pass: each row decoded, each of its blocks (`per_key` a hash id) looked up, moved up or
    put in, tail first.
    """
    began = time.perf_counter()
    cache: OrderedDict[int, None] = OrderedDict()
    hits = 0
    with path.open() as file:
        for line in file:
            row = json.loads(line)
            blocks = [key * per_key + part for key in row["hash_ids"] for part in range(per_key)]
            for block in blocks:
                if block not in cache:
                    break
                hits += 1
            for block in reversed(blocks):
                if block in cache:
                    cache.move_to_end(block)
                else:
                    cache[block] = None
            while len(cache) > capacity:
                cache.popitem(last=False)
    assert hits
    return time.perf_counter() - began


@needs("traces/mooncake_conversation.jsonl")
def test_conversation_against_a_bare_lru() -> None:
    tiers = ("--gpu-kv", "50GiB", "--cpu", "256GiB", "--disk", "2TiB", "--speedup", "0.25")
    seconds, megabytes, document = min((simulate(TRACE, *tiers) for _ in range(3)), key=lambda run: run[0])
    coarse = min(plain_lru(TRACE, 1, 36_000) for _ in range(3))
    fine = plain_lru(TRACE, 32, 36_000 * 32)
    total = document["requests"]["total"]
    print(
        f"\nconversation: {seconds:.2f} s, {megabytes:.0f} MB, {total / seconds:,.0f} requests/s; "
        f"bare LRU {coarse:.2f} s in 512-token blocks ({seconds / coarse:.1f} x), "
        f"{fine:.2f} s in 16-token blocks ({seconds / fine:.2f} x)"
    )


def generated(count: int) -> Iterator[dict]:
    """Sessions of some turns, a system prompt each, at a load that the GPU bears."""
    rng = random.Random(5)
    sessions = [[key] for key in range(200)]
    for index in range(count):
        session = rng.choice(sessions)
        if len(session) > 12:
            del session[1:]
        session.extend((10**6 + 2 * index, 10**6 + 2 * index + 1))
        yield {
            "timestamp": index * 250,
            "input_length": 512 * len(session) - 100,
            "output_length": 60,
            "hash_ids": list(session),
        }


def write(path: Path, rows: Iterator[dict]) -> Path:
    with path.open("w") as file:
        for row in rows:
            file.write(json.dumps(row) + "\n")
    return path


def test_cost_of_a_request_does_not_grow(tmp_path: Path) -> None:
    found = []
    for count in (10_000, 100_000, 1_000_000):
        path = write(tmp_path / f"{count}.jsonl", generated(count))
        seconds, megabytes, document = simulate(path, "--gpu-kv", "50GiB", "--cpu", "200GiB")
        assert document["requests"]["completed"] == count
        found.append((count, document["wall_s"], megabytes))
        print(
            f"\n{count:,} requests: {seconds:.1f} s, {1e6 * seconds / count:.0f} us each, "
            f"{megabytes:.0f} MB ({1e6 * megabytes / count:.0f} bytes each)"
        )
    print(f"cost of a request at 1,000,000 over that at 10,000: {found[-1][1] / found[-1][0] / (found[0][1] / found[0][0]):.2f}")


def test_a_long_session_costs_the_runs_it_touches(tmp_path: Path) -> None:
    for scale in (1, 10):
        turns = 100

        def rows(tokens: int = 5000 * scale, turns: int = turns) -> Iterator[dict]:
            for turn in range(1, turns + 1):
                length = turn * tokens
                yield {
                    "timestamp": turn * 30_000,
                    "input_length": length,
                    "output_length": 50,
                    "hash_ids": list(range(-(-length // 512))),
                }

        path = write(tmp_path / f"session{scale}.jsonl", rows())
        more = ("--set", "model.max_context_tokens=10000000", "--gpu-kv", "1TiB", "--cpu", "4TiB")
        seconds, megabytes, document = simulate(path, *more)
        assert document["requests"]["completed"] == turns
        print(f"\na session of {turns} turns to {turns * 5000 * scale:,} tokens: {document['wall_s']:.2f} s, {megabytes:.0f} MB")


def test_everybody_at_once(tmp_path: Path) -> None:
    rows = ({"timestamp": 0, "input_length": 64, "output_length": 1, "hash_ids": [index]} for index in range(1_000_000))
    seconds, megabytes, document = simulate(write(tmp_path / "burst.jsonl", rows), "--gpu-kv", "8GiB")
    assert document["requests"]["completed"] == 1_000_000
    print(f"\n1,000,000 arrivals at once: {seconds:.1f} s, {megabytes:.0f} MB")
