"""Which rules make engines differ: each kind taken over by the first one after the other."""

from __future__ import annotations

import random

import msgspec
import pytest

from kvplan import catalog
from kvplan.engine.spec import EngineSpec, Offload
from kvplan.errors import KvplanError
from kvplan.report.compare import parting_words
from kvplan.request import Request
from kvplan.results.simulate import SimResult
from kvplan.scenario import Scenario
from kvplan.sim.outcome.parting import RULES, partings
from kvplan.sim.outcome.summary import summarise
from kvplan.sim.simulate import World
from tests.sim.runs import run
from tests.sim.worlds import ListTrace

FIVE = ("vllm", "lmcache", "sglang", "trtllm", "dynamo")


def documents(count: int, documents: int) -> list[Request]:
    """Questions to documents of 4,096 tokens, some of which are asked for more often, with 512 tokens more at each of the first four."""
    rng, found, asked = random.Random(5), [], [0] * documents
    for at in range(count):
        document = rng.choices(range(documents), [1 / (rank + 1) ** 0.9 for rank in range(documents)])[0]
        asked[document] = min(4, asked[document] + 1)
        blocks = tuple(1000 * (document + 1) + key for key in range(256 + 32 * asked[document]))
        found.append(Request(index=at, arrival_s=0.5 * at, prompt_tokens=16 * len(blocks) + 8, output_tokens=40, blocks=blocks))
    return found


TRACE = documents(80, 25)


def runs(scenarios: list[Scenario]) -> list[SimResult | None]:
    found: list[SimResult | None] = []
    for scenario in scenarios:
        try:
            found.append(summarise(World(scenario, ListTrace(TRACE, 16)).run()))
        except KvplanError:
            found.append(None)
    return found


def test_five_engines_differ_for_reasons_that_are_named() -> None:
    worlds = [run(TRACE, engine=engine, gpu_kv="4GiB", cpu="8GiB") for engine in FIVE]
    results = [result for result, _ in worlds]
    assert len({round(result.ttft_s.mean or 0, 6) for result in results}) == 5
    found = partings(FIVE, [world.scenario for _, world in worlds], results, runs)  # type: ignore[arg-type]
    leading = {}
    for one in found:
        assert one.against == "vllm" and one.rules
        assert one.ttft_mean_s is not None and one.against_ttft_mean_s is not None
        assert sum(effect.change_s for effect in one.rules) == pytest.approx(one.ttft_mean_s - one.against_ttft_mean_s, abs=1e-3)
        leading[one.name] = {effect.rule for effect in one.rules[:2]}
        words = parting_words(one)
        assert one.rules[0].rule in words and one.rules[0].settings[0] in words
    assert len({frozenset(rules) for rules in leading.values()}) >= 3  # not one cause for all


def test_every_rule_of_an_engine_is_of_one_kind() -> None:
    listed = [path for paths in RULES.values() for path in paths]
    assert len(listed) == len(set(listed))
    known = {*EngineSpec.__struct_fields__, *(f"offload.{name}" for name in Offload.__struct_fields__)}
    assert set(listed) <= known
    apart = {name for name in Offload.__struct_fields__ if f"offload.{name}" not in listed}
    assert apart == {"streamed_share", "draft_holes"}
    told = {name for name in EngineSpec.__struct_fields__ if name not in listed} - {"offload", "host_pool", "kv_formats", "abilities"}
    assert told == {  # what names an engine, what users set, and what many replicas or ranks do
        "name", "title", "version", "base", "connector", "provenance", "max_context_tokens", "drafts", "api_servers", "hands_over",
        "decoder_caches", "ranks_share_budget", "rank_router", "rank_stale_s",
    }  # fmt: skip


@pytest.mark.parametrize("engine", FIVE[1:])
def test_each_kind_of_rule_runs_in_another_engine(engine: str) -> None:
    ours, theirs = run(TRACE[:8], gpu_kv="4GiB", cpu="8GiB"), run(TRACE[:8], engine=engine, gpu_kv="4GiB", cpu="8GiB")
    found = partings(["vllm", engine], [ours[1].scenario, theirs[1].scenario], [ours[0], theirs[0]], runs)  # type: ignore[arg-type]
    assert len(found[0].rules) >= 6


def test_engines_of_one_name_are_not_taken_apart() -> None:
    result, world = run(TRACE[:4], gpu_kv="3GiB")
    newer = world.scenario.changed(engine=msgspec.structs.replace(catalog.engine("vllm", "0.33")))
    assert partings(["a", "b"], [world.scenario, newer], [result, result], runs) == []  # type: ignore[arg-type]
