"""What is simulated of an engine is known, or said to be assumed."""

from __future__ import annotations

import pytest

from kvplan import catalog
from kvplan.engine.facts import facts, known_share


@pytest.mark.parametrize("name", ["vllm", "lmcache-mp", "sglang"])
def test_nine_in_ten_simulated_facts_are_known(name: str) -> None:
    known, total = known_share(catalog.engine(name))
    assert known >= 0.9 * total, [one["fact"] for one in facts(catalog.engine(name)) if one["kind"] == "assumed"]


def test_the_host_times_of_sglang_are_its_own() -> None:
    engine = catalog.engine("sglang")
    assumed = {one["fact"] for one in facts(engine) if one["fact"].startswith("overhead.") and one["kind"] == "assumed"}
    assert assumed == {"overhead.launch_layer_eager_s", "overhead.group_s", "overhead.api_s", "overhead.api_token_s"}
    assert {engine.provenance[f"overhead.{name}"].kind for name in ("step_s", "prepare_s", "load_s")} == {"measured"}


def test_sglang_loads_with_more_thread_blocks_since_0_5_22() -> None:
    assert [catalog.engine("sglang", version).offload.load_share for version in ("0.5.17", "0.5.22", "0.5.23")] == [0.79, 1.0, 1.0]


def test_what_was_measured_on_one_version_is_assumed_of_another() -> None:
    at = {version: {one["fact"]: one for one in facts(catalog.engine("vllm", version))} for version in catalog.engine_versions("vllm")}
    assert list(at) == ["0.24.0", "0.26", "0.33"]
    assert at["0.24.0"]["overhead.gap_s"]["kind"] == "derived"
    assert at["0.33"]["overhead.gap_s"]["kind"] == "assumed"
    assert at["0.33"]["overhead.gap_s"]["source"].startswith("as at 0.24.0")
    assert at["0.33"]["host_pool.shared"]["value"] == "always"


def test_a_connector_shares_the_facts_of_the_engine_that_it_runs_in() -> None:
    own, base = catalog.engine("lmcache-mp").provenance, catalog.engine("vllm").provenance
    assert own["overhead.gap_s"] == base["overhead.gap_s"]
    assert catalog.engine("trtllm").provenance["overhead.gap_s"].kind == "assumed"


def test_what_another_rule_switches_off_is_not_listed() -> None:
    listed = {one["fact"] for one in facts(catalog.engine("vllm"))}
    assert not listed & {"offload.prefetch_timeout_s", "offload.store_after_lookups", "overhead.store_byte_s"}
