"""One owner for every number: size, plan, simulate and calibrate say the same of one deployment.

Bytes of a sequence on the GPUs and below, tokens of a pool, seconds of a load, the break-even and step times, over models of every kind of
layer, one and eight ranks, bf16 and fp8 KV; figures are read from the records that `--json` prints.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec
import pytest

import kvplan
from kvplan import catalog
from kvplan.deployment import Deployment, Tiers
from kvplan.loading import Loading
from kvplan.memory.below import below
from kvplan.memory.layout import layout
from kvplan.memory.pool import kv_pool
from kvplan.planning.closed_form import worth
from kvplan.request import Request
from kvplan.results.size import SizeResult
from kvplan.scenario import Scenario
from kvplan.sim.outcome.summary import summarise
from kvplan.sim.simulate import World
from kvplan.step_time import StepCost
from tests.deployed import deployed
from tests.sim.worlds import ListTrace

MODELS = (
    "llama-3.1-8b",
    "gemma-3-12b",
    "gpt-oss-20b",
    "llama-4-scout",
    "deepseek-r1",
    "qwen3-30b-a3b",
    "qwen3-next-80b-a3b",
    "nemotron-3-nano-30b-a3b",
)
CASES = [(model, tp, kv) for model in MODELS for tp in (1, 8) for kv in ("bf16", "fp8")]
CONTEXT = 8192
MACHINE = "h200-sxm"


@cache
def served(model: str, tp: int, kv: str) -> Deployment:
    return deployed(model, machine=MACHINE, tp=tp, kv_dtype=kv)


@cache
def sized(model: str, tp: int, kv: str, **options: int) -> SizeResult:
    return kvplan.size(model, machine=MACHINE, tp=tp, kv_dtype=kv, context_tokens=CONTEXT, **options)


def scenario_of(deployment: Deployment) -> Scenario:
    return Scenario(name="agreement", trace="", deployment=deployment)


def prefix_tokens(deployment: Deployment) -> int:
    """A prefix of whole pieces near the context, three at least."""
    kept = below(deployment)
    return max(3 * kept.chunk_tokens, kept.whole(CONTEXT))


def room_bytes(deployment: Deployment) -> int:
    """A pool of little more than one request."""
    made = layout(deployment)
    blocks = made.request_blocks(prefix_tokens(deployment) + 128) + deployment.engine.null_blocks
    return blocks * made.block_bytes * made.ranks


@cache
def reloaded(model: str, tp: int, kv: str) -> Any:
    """A prompt, another that takes its place on the GPUs, and the first again with 64 tokens more."""
    deployment = served(model, tp, kv)
    made, tokens = layout(deployment), prefix_tokens(deployment)
    tiers = Tiers(gpu_kv_bytes=room_bytes(deployment), cpu_bytes=8 * below(deployment).stored(tokens + 64).tier_bytes)
    keys = tokens // made.unit_tokens
    prompts = [range(keys), range(keys, 2 * keys), range(keys)]
    requests = [
        Request(index=at, arrival_s=1000.0 * at, prompt_tokens=tokens + 64 * (at == 2), output_tokens=1, blocks=tuple(prompt))
        for at, prompt in enumerate(prompts)
    ]
    scenario = scenario_of(deployment.changed(tiers=tiers))
    trace = ListTrace(requests, made.unit_tokens)
    return msgspec.to_builtins(summarise(World(scenario, trace).run()))  # type: ignore[arg-type]


@pytest.mark.parametrize(("model", "tp", "kv"), CASES)
def test_size_speaks_of_the_blocks_and_rows_that_everybody_uses(model: str, tp: int, kv: str) -> None:
    found, deployment = sized(model, tp, kv), served(model, tp, kv)
    made, kept = layout(deployment), below(deployment)
    held = (made.grown_blocks(CONTEXT) + made.fixed_blocks(CONTEXT, 1)) * made.block_bytes * made.ranks
    assert found.tier_bytes_per_token["gpu"] * CONTEXT == held
    assert found.tier_bytes_per_token["cpu"] * CONTEXT == kept.stored(CONTEXT).tier_bytes
    assert found.engine.reserved_bytes_per_request == made.request_blocks(CONTEXT) * made.block_bytes * made.ranks
    assert found.kv.bytes_per_sequence <= held  # the logical state fits into what is held


@pytest.mark.parametrize(("model", "tp", "kv"), CASES)
def test_the_pool_of_size_is_the_pool_of_a_scenario(model: str, tp: int, kv: str) -> None:
    found, deployment = sized(model, tp, kv), served(model, tp, kv)
    pool = kv_pool(deployment).kv_bytes
    assert found.fit.kv_pool_bytes == pool
    assert found.engine.pool_tokens == layout(deployment).tokens(layout(deployment).blocks(pool), CONTEXT)


@pytest.mark.parametrize(("model", "tp", "kv"), CASES)
def test_size_and_plan_agree_on_loads_and_break_even(model: str, tp: int, kv: str) -> None:
    deployment = served(model, tp, kv)
    loading = Loading(deployment)
    price = next(row.price for row in sized(model, tp, kv).offload if row.placement == "80 % on CPU" and row.kv_dtype == kv)
    said = worth(scenario_of(deployment), "cpu", prefix_tokens(deployment))
    assert price is not None
    assert price.idle_break_even_tokens == said.break_even_tokens.value
    assert said.load_s == loading.load_s("cpu", said.prefix_tokens)
    assert said.recompute_s == loading.recompute_s(said.prefix_tokens)


@pytest.mark.parametrize(("model", "tp", "kv"), CASES)
def test_the_simulator_moves_the_same_bytes_in_the_same_time(model: str, tp: int, kv: str) -> None:
    found, deployment = reloaded(model, tp, kv), served(model, tp, kv)
    tokens, kept = prefix_tokens(deployment), below(deployment)
    host = next(tier for tier in found["tiers"] if tier["name"] == "cpu")
    came = found["prompt_tokens"]["cpu_hit"]  # the rest of the prefix is still on the GPUs
    assert came > 0
    assert came + found["prompt_tokens"]["gpu_hit"] == tokens
    assert host["stored_bytes"] == pytest.approx(2 * kept.stored(tokens).tier_bytes, rel=1e-9)
    assert found["loads"]["count"] == 1
    assert found["loads"]["stall_s"] == pytest.approx(Loading(deployment).load_s("cpu", came), rel=1e-6)


@pytest.mark.parametrize(("model", "tp", "kv"), CASES)
def test_the_simulator_has_the_pool_of_size(model: str, tp: int, kv: str) -> None:
    deployment = served(model, tp, kv)
    gpu = next(tier for tier in reloaded(model, tp, kv)["tiers"] if tier["name"] == "gpu")
    made = layout(deployment)
    blocks = made.blocks(room_bytes(deployment))
    assert sized(model, tp, kv, pool_bytes=room_bytes(deployment)).engine.pool_blocks == blocks
    assert gpu["capacity_bytes"] == (blocks - deployment.engine.null_blocks) * made.block_bytes * made.ranks


def test_what_a_catalogued_engine_is_does_not_depend_on_who_asks() -> None:
    assert sized("llama-3.1-8b", 1, "bf16").engine.version == catalog.engine("vllm").version


@pytest.mark.parametrize(("model", "tp", "kv"), CASES)
def test_a_lone_decode_takes_the_steps_of_the_step_cost(model: str, tp: int, kv: str) -> None:
    """33 tokens are 32 steps over contexts that grow by one; the step time is linear in between, so its middle is its mean."""
    deployment = served(model, tp, kv).changed(tiers=Tiers(gpu_kv_bytes=4 * room_bytes(served(model, tp, kv))))
    request = Request(index=0, arrival_s=0.0, prompt_tokens=CONTEXT, output_tokens=33, blocks=())
    trace = ListTrace([request], layout(deployment).unit_tokens)
    found = msgspec.to_builtins(summarise(World(scenario_of(deployment), trace).run()))  # type: ignore[arg-type]
    cost = StepCost(deployment)
    steps = [cost.step_s([], 1, cost.decode_attention_s([CONTEXT + done]), 1) for done in range(1, 33)]
    assert found["itl_s"]["mean"] == pytest.approx(sum(steps) / len(steps), rel=1e-3)
