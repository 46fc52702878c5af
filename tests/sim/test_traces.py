"""Real traces: everything is accounted for, more memory hits more, and nothing hits more than the trace allows."""

from __future__ import annotations

import json

from kvplan import scenario
from kvplan.results.simulate import SimResult
from kvplan.sim.simulate import simulate
from tests.public import needs, public

TRACE = public("traces/mooncake_conversation.jsonl")
pytestmark = needs("traces/mooncake_conversation.jsonl")


def run(limit: int = 0, **tiers: str) -> SimResult:
    loaded = scenario.load(str(TRACE), model="llama-3.1-8b", machine="h100-sxm", tiers=dict(tiers), run={"speedup": 0.25, "limit": limit})
    return simulate(loaded)[0]


def hit_rate(result: SimResult) -> float:
    return 1 - result.prompt_tokens.computed / result.prompt_tokens.total


def ceiling() -> float:
    """Share of the prompt tokens that lie in leading blocks seen before, in whole engine blocks and less than the
    whole prompt.
    """
    seen: set[int] = set()
    hits = total = 0
    for line in TRACE.read_text().splitlines():
        row = json.loads(line)
        leading = next((at for at, key in enumerate(row["hash_ids"]) if key not in seen), len(row["hash_ids"]))
        hits += min(leading * 512, row["input_length"]) // 16 * 16
        total += row["input_length"]
        seen.update(row["hash_ids"])
    return hits / total


def test_every_request_and_token_is_accounted_for() -> None:
    result = run(gpu_kv="50GiB", cpu="256GiB", disk="2TiB")
    assert result.requests.total == result.requests.completed == 12_031
    tokens = result.prompt_tokens
    assert tokens.gpu_hit + tokens.cpu_hit + tokens.disk_hit + tokens.remote_hit + tokens.computed == tokens.total == 144_793_823


def test_an_unbounded_host_tier_reaches_the_ceiling_of_the_trace() -> None:
    best = ceiling()
    rate = hit_rate(run(gpu_kv="50GiB", cpu="64TiB"))
    assert best - 0.01 <= rate <= best + 1e-9


def test_the_hit_rate_rises_with_the_pool() -> None:
    rates = [hit_rate(run(limit=1500, gpu_kv=f"{size}GiB")) for size in (17, 20, 24, 28, 34, 40, 48, 64, 96, 128, 256, 512)]
    for smaller, larger in zip(rates, rates[1:], strict=False):
        assert larger >= smaller - 0.005
    assert rates[-1] > rates[0] + 0.05
