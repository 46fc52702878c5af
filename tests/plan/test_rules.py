"""Variations beyond capacities: rules for stores and loads, the remote pool, other tensor-parallel widths."""

from __future__ import annotations

import msgspec
import pytest

from kvplan import scenario
from kvplan.deploy.emit import emit
from kvplan.deployment import Parallel
from kvplan.errors import InputError
from kvplan.memory.pool import kv_pool
from kvplan.planning.closed_form import worth
from kvplan.planning.kinds import _others
from kvplan.planning.objective import Objective
from kvplan.planning.plan import plan
from kvplan.planning.prepare import space_of
from kvplan.planning.space import nothing
from kvplan.planning.widths import spread_over
from kvplan.results.placement import Placement
from kvplan.results.plan import PlanResult
from kvplan.units import GiB


def reasons(result: PlanResult) -> dict[str, str]:
    return {one.what: one.why for one in result.pruned}


@pytest.fixture(scope="module")
def chat() -> PlanResult:
    return plan(scenario.load("chat", sets=("machine.gpus=2", "machine.host.memory_bytes=64GiB")))


@pytest.fixture(scope="module")
def documents() -> PlanResult:
    return plan(
        scenario.load("documents", run={"limit": 300}, sets=("tiers.remote_bytes=4TiB",)), max_cpu_bytes=130 * GiB, max_disk_bytes=GiB
    )


def test_selective_stores_lose_the_first_reuse_and_are_not_chosen(chat: PlanResult) -> None:
    assert chat.chosen is not None
    selective = next(one for one in chat.options if one.placement.store == "selective")
    assert selective.stored_bytes["cpu"] < chat.chosen.stored_bytes["cpu"]
    assert selective.computed > chat.chosen.computed
    assert chat.placement.store == "write_through"


def test_loads_are_not_weighed_when_none_loses(chat: PlanResult) -> None:
    assert chat.chosen is not None and chat.chosen.loads.losing == 0
    assert "none of" in reasons(chat)["loading by break-even"]


def test_a_rule_that_the_engine_lacks_is_tried_and_never_advised() -> None:
    """A link of 5 GB/s, on which a third of the loads takes longer than computing."""
    slow = scenario.load("documents", run={"limit": 300}, sets=("machine.link.h2d_Bps=5GB/s",))
    result = plan(slow, max_cpu_bytes=130 * GiB, max_disk_bytes=GiB)
    weighed = [one for one in result.options if one.placement.load_rule == "break_even"]
    assert len(weighed) == 1
    assert result.placement.load_rule == "always"
    with pytest.raises(InputError, match="weigh each load"):
        emit(Placement(model="m", cpu_bytes=GiB, load_rule="break_even"), "lmcache")


def test_the_remote_pool_of_the_scenario_is_used_where_it_adds_hits(documents: PlanResult, chat: PlanResult) -> None:
    remote = [one for one in documents.options if one.placement.remote_bytes]
    assert remote and all(one.hit["remote"] > 0 for one in remote if one.completed)
    assert documents.without is not None
    assert "remote" not in documents.without.hit  # what it is compared with has no tier at all
    assert "remote_bytes" in reasons(chat)["remote"]  # a scenario without one is told how to add it


def test_a_remote_pool_is_emitted_where_an_address_is_enough() -> None:
    placement = Placement(model="m", cpu_bytes=GiB, remote_bytes=GiB, remote_url="lm://kv-pool:65432", chunk_tokens=256)
    assert "lm://kv-pool:65432" in emit(placement, "lmcache").text
    with pytest.raises(InputError, match="remote tier"):
        emit(placement, "vllm")


def test_other_widths_are_compared_on_as_many_gpus(chat: PlanResult) -> None:
    (split,) = chat.splits
    assert (split.gpus, split.other.tp, split.other.replicas) == (2, 2, 1)
    assert (split.planned.tp, split.planned.replicas) == (1, 2)
    assert reasons(chat)["TP 4"] == "l4 has 2 GPUs"


def test_a_wider_replica_has_its_share_of_everything() -> None:
    # On two L4 instead of one: twice the host memory, the pool grows by what the engine leaves on two over one, and
    # twice the arrivals. Two replicas of one GPU: the same sizes each, twice the arrivals for both together.
    base = scenario.load("chat", sets=("machine.gpus=2",))
    space, _ = space_of(base, Objective(), None, None, None)
    placement = msgspec.structs.replace(nothing(space), cpu_bytes=10 * GiB)
    wide, narrow = (spread_over(space.base, placement, Parallel(tp=tp), 2) for tp in (2, 1))
    grown = kv_pool(base.deployment.changed(tp=2)).kv_bytes - kv_pool(base.deployment).kv_bytes
    assert (wide.deployment.tp, wide.cluster.replicas, wide.run.speedup) == (2, 1, 2.0)
    assert wide.tiers.cpu_bytes == 20 * GiB
    assert wide.tiers.gpu_kv_bytes == base.tiers.gpu_kv_bytes + grown
    assert (narrow.deployment.tp, narrow.cluster.replicas, narrow.run.speedup) == (1, 2, 2.0)
    assert narrow.tiers.cpu_bytes == 10 * GiB


def test_experts_may_lie_on_data_parallel_ranks_instead() -> None:
    """Four ranks with a pool each, and host memory of a quarter each: as much in all as the four tensor-parallel ones have together."""
    base = scenario.load("chat", model="qwen3-30b-a3b", machine="h100-sxm", run={"tp": 4})
    space, _ = space_of(base, Objective(), None, None, None)
    ranks = Parallel(tp=1, dp=4, ep=4)
    assert _others(space)[0] == [ranks, Parallel(tp=2, dp=2, ep=4)]
    placement = msgspec.structs.replace(nothing(space), cpu_bytes=40 * GiB)
    apart = spread_over(space.base, placement, ranks, 4)
    assert (apart.cluster.replicas, apart.run.speedup, apart.tiers.cpu_bytes) == (1, 1.0, 10 * GiB)
    assert space.used(placement).gpus == 4
    turned, _ = space_of(base.changed(parallel=ranks), Objective(), None, None, None)
    assert Parallel(tp=4) in _others(turned)[0]
    used = turned.used(msgspec.structs.replace(nothing(turned), cpu_bytes=40 * GiB))
    assert (used.gpus, used.cpu_bytes) == (4, 160 * GiB)
    assert turned.cpu_limit_bytes == space.cpu_limit_bytes // 4


def test_a_break_even_length_without_width_says_what_it_hangs_on() -> None:
    # vLLM captures steps of up to 256 tokens: with 64 new ones, 192 of a prefix still fit, the next block of 16 does not.
    base = scenario.load("none.jsonl", model="llama-3.1-8b", machine="h100-sxm", tiers={"gpu_kv": "40GiB"})
    at_the_edge = worth(base, "cpu", 8192)
    assert at_the_edge.break_even_tokens.value == 192 + 16
    assert "256 tokens" in at_the_edge.set_by
    elsewhere = worth(scenario.load("none.jsonl", model="llama-3.1-8b", machine="l4", tiers={"gpu_kv": "3GiB"}), "cpu", 8192)
    span = elsewhere.break_even_tokens
    assert span.lo is not None and span.hi is not None and span.value is not None
    assert span.lo <= span.value <= span.hi and span.lo < span.hi
    assert not elsewhere.set_by
