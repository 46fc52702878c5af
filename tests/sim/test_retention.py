"""TensorRT-LLM's prioritised LRU: what has the lower retention priority goes first."""

from __future__ import annotations

import msgspec
import pytest

from kvplan.request import Request
from tests.sim.runs import documents, run


def asked_again(retention: int) -> list[Request]:
    """Document 0 with a retention priority, five others after it, then document 0 again; each has 1 GiB."""
    first, *others = documents(6, 8192, every_s=10.0)
    kept = msgspec.structs.replace(first, retention=retention)
    return [kept, *others, msgspec.structs.replace(kept, index=6, arrival_s=100.0)]


def hits(retention: int, engine: str, **tiers: str) -> float:
    _, world = run(asked_again(retention), engine=engine, **tiers)
    found = world.recorder.arrays()
    return float(sum(found[f"{tier}_hit_tokens"][-1] for tier in ("gpu", "cpu")))


@pytest.mark.parametrize(("retention", "found"), [(35, 0), (36, 8192 - 1), (100, 8192 - 1), (0, 0)])
def test_in_a_pool_for_four_the_higher_priority_outlives_later_use(retention: int, found: int) -> None:
    """Five others of priority 35 pass through a GPU pool of 4.1 documents: LRU has given document 0 up, all but its last token
    is found when it ranks above them."""
    assert hits(retention, "trtllm", gpu_kv="4.1GiB") == found
    assert hits(retention, "vllm", gpu_kv="4.1GiB") == 0


def test_host_memory_keeps_the_order() -> None:
    """Documents A (32) and B (31), then two of 35, in a GPU pool for two and host memory for one: B goes down first and is
    given up for A. By use alone it is the other way round."""
    docs = [msgspec.structs.replace(doc, retention=rank) for doc, rank in zip(documents(4, 8192), (32, 31, 35, 35), strict=True)]
    lru = {"engine.gpu_policy": "lru", "engine.offload.policy": "lru"}
    found = {}
    for name, sets in (("retention", {}), ("lru", lru)):
        for asked in (0, 1):
            again = msgspec.structs.replace(docs[asked], index=4, arrival_s=60.0)
            result, _ = run([*docs, again], engine="trtllm", gpu_kv="2.1GiB", cpu="1.1GiB", sets=sets)
            found[name, asked] = (result.prompt_tokens.gpu_hit + result.prompt_tokens.cpu_hit) / 8192
    assert found["retention", 0] > 0.99 and found["lru", 1] > 0.99
    assert found["retention", 1] < 0.34 and found["lru", 0] < 0.34
