"""One plan in the words of every target: the files parse, hold to the schema or the option list, and read back to the same numbers."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

import kvplan
from kvplan import catalog
from kvplan.cli.plan import EMITTED
from kvplan.deploy.emit import emit, engine_for, planned, save
from kvplan.deploy.explain import explain_config, explain_text
from kvplan.deploy.objects import quantities_of
from kvplan.deploy.options import options, unknown_options
from kvplan.deploy.serving import longest_context, pool_bytes, served, told
from kvplan.deploy.syntax import parse_config
from kvplan.deploy.targets import TARGETS
from kvplan.deployment import Deployment, Parallel, Tiers
from kvplan.errors import InputError
from kvplan.memory.layout import layout
from kvplan.results.deploy import Emission
from kvplan.results.placement import RULES, Placement
from kvplan.results.plan import PlanResult
from kvplan.scenario import Scenario
from kvplan.units import GiB, TiB
from tests.plan.schemas import PICKER, SCHEMAS, faults

SAME = (
    "model",
    "tp",
    "gpu_fraction",
    "kv_dtype",
    "max_context_tokens",
    "max_batch",
    "step_tokens",
    "cpu_bytes",
    "store",
    "store_generated",
)
"""Fields of a placement that every target says."""

KUBERNETES = ("kserve", "llm-d", "dynamo-k8s", "lmcache-operator", "production-stack")


def deployment_for(name: str, version: str = "", pool: int = 0) -> Deployment:
    return Deployment(
        model=catalog.model("llama-3.1-8b"),
        engine=engine_for(name, version),
        server=catalog.machine("h100-sxm"),
        parallel=Parallel(tp=1),
        tiers=Tiers(gpu_kv_bytes=pool),
    )


def placed(name: str, version: str = "", *, pool: int = 0, longest: int = 30_000, disk: bool = True) -> tuple[Placement, Deployment]:
    """A placement with every tier that the target has, in the engine's own rules and steps."""
    deployment = deployment_for(name, version, pool=pool)
    engine = deployment.engine
    rules = {field: getattr(engine.offload, field) for field in RULES}
    step = engine.abilities.cpu_step_bytes or GiB
    has_disk = disk and engine.abilities.disk
    placement = Placement(
        model="", cpu_bytes=64 * step, disk_bytes=500 * GiB if has_disk else 0, disk_path="/mnt/kv" if has_disk else "", **rules
    )
    return served(placement, deployment, longest), deployment


def emitted(name: str, version: str = "", **options: Any) -> tuple[Emission, Placement, Deployment]:
    placement, deployment = placed(name, version, **options)
    return emit(placement, name, deployment.engine, deployment), placement, deployment


def documents(emission: Emission) -> Iterator[dict[str, Any]]:
    for part in emission.parts:
        if part.format == "yaml":
            yield from (one for one in yaml.safe_load_all(part.text) if one)


def test_the_command_line_names_every_target() -> None:
    assert tuple(EMITTED) == tuple(TARGETS)


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_reads_back_to_the_same_numbers(name: str) -> None:
    emission, placement, deployment = emitted(name)
    read = explain_text(emission.text, "f", machine=catalog.machine("h100-sxm"))
    assert read.engine in (name, "vllm" if name == "kserve" else name)
    assert [one for one in read.notices if one.level == "error"] == []
    seen = read.placement
    for field in SAME:
        assert getattr(seen, field) == getattr(placement, field), field
    if placement.disk_bytes:
        assert seen.disk_path == ("/mnt/kv-cache-0" if name == "kserve" else placement.disk_path)
        bounded = deployment.engine.abilities.disk_bounded or name in ("kserve", "llm-d", "lmcache-operator")
        assert abs(seen.disk_bytes - (placement.disk_bytes if bounded else 0)) < 2**10
    assert read.host is not None and emission.host is not None
    assert read.host.taken_bytes == emission.host.taken_bytes or name == "kserve"
    assert read.pool_tokens == emission.pool_tokens


@pytest.mark.parametrize("name", TARGETS)
def test_files_parse_and_scripts_pass_the_shell(name: str, tmp_path: Path) -> None:
    emission, _, _ = emitted(name)
    for path in save(emission, tmp_path / "out"):
        if path.suffix == ".sh":
            assert subprocess.run(["bash", "-n", path], capture_output=True).returncode == 0
            assert path.stat().st_mode & 0o100
        else:
            assert list(yaml.safe_load_all(path.read_text()))
    whole, parts = explain_config(tmp_path / "out"), explain_text(emission.text, "f")
    assert whole.placement == parts.placement


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
@pytest.mark.parametrize("disk", [True, False])
@pytest.mark.parametrize("name", TARGETS)
def test_scripts_pass_shellcheck(name: str, disk: bool, tmp_path: Path) -> None:
    for path in save(emitted(name, disk=disk)[0], tmp_path / "out"):
        if path.suffix == ".sh":
            done = subprocess.run(["shellcheck", path], capture_output=True, text=True)
            assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("version", ["0.24.0", "0.26.0", "0.33.0"])
@pytest.mark.parametrize("name", ["vllm", "llm-d", "kserve"])
@pytest.mark.parametrize("pool", [0, 8 * GiB])
def test_vllm_is_given_only_options_of_its_version(name: str, version: str, pool: int) -> None:
    emission, _, _ = emitted(name, version, pool=pool)
    config = parse_config(emission.text, "f")
    quantities_of(config, "f")
    assert "--max-model-len" in config.flags
    assert unknown_options(config.flags, "vllm", version) == []
    assert emission.version == version


@pytest.mark.parametrize("name", ["lmcache", "lmcache-mp", "dynamo", "sglang"])
def test_other_programs_are_given_only_options_that_they_know(name: str) -> None:
    emission, _, _ = emitted(name)
    program = {"sglang": "sglang"}.get(name, "vllm")
    own = options("lmcache-server")
    flags = [flag for flag in parse_config(emission.text, "f").flags if flag not in own or name != "lmcache-mp"]
    assert unknown_options(flags, program) == []
    assert len(options(program)) > 250


def test_recorded_options_know_what_changed() -> None:
    assert "--max-model-len" in options("vllm", "0.24.0")
    assert "--prefix-cache-retention-interval" not in options("vllm", "0.26.0")
    assert "--prefix-cache-retention-interval" in options("vllm", "0.33.0")
    assert unknown_options(["--no-enable-prefix-caching", "--kv-transfer-config.kv_role"], "vllm") == []
    assert unknown_options(["--swap-space", "--max-model-length"], "vllm") == ["--swap-space", "--max-model-length"]


@pytest.mark.parametrize("name", KUBERNETES)
def test_objects_hold_to_their_schema(name: str) -> None:
    emission, _, _ = emitted(name)
    found = list(documents(emission))
    assert found
    for one in found:
        assert faults(one, SCHEMAS[one.get("kind", next(iter(one)))]) == []


def test_the_schemas_refuse_what_they_do_not_know() -> None:
    emission, _, _ = emitted("kserve")
    (service,) = documents(emission)
    wrong = msgspec.json.decode(msgspec.json.encode(service))
    wrong["spec"]["workload"] = {"kvCacheOffloading": wrong["spec"].pop("kvCacheOffloading")}  # as KServe's own sample has it
    assert faults(wrong, SCHEMAS["LLMInferenceService"]) == ["$.spec.workload: unknown"]


@pytest.mark.parametrize("name", KUBERNETES)
def test_tier_shm_and_memory_limit_come_together(name: str) -> None:
    emission, placement, _ = emitted(name)
    text = emission.text
    assert emission.host is not None
    assert "memory: " in text or "limitMemory: " in text
    if name != "lmcache-operator":  # its webhook shares the node's /dev/shm
        assert "sizeLimit: " in text or "sharedMemorySize: " in text or "shmSize: " in text
    read = explain_text(text, "f")
    assert not {one.code for one in read.notices} & {"memory_limit", "shm_too_small", "no_volume"}
    assert read.placement.cpu_bytes == placement.cpu_bytes


# Traps of manifests, by what users run into.


def edited(name: str, change: Any) -> set[str]:
    """Codes of what is wrong with a target's manifest after a change."""
    emission, _, _ = emitted(name)
    (first, *rest) = documents(emission)
    change(first)
    text = "---\n".join(yaml.safe_dump(one, sort_keys=False, width=10**6) for one in (first, *rest))
    return {one.code for one in explain_text(text, "f").notices}


def test_trap_a_kserve_has_no_workload_field() -> None:
    def change(service: dict[str, Any]) -> None:
        service["spec"]["workload"] = {"kvCacheOffloading": service["spec"].pop("kvCacheOffloading")}

    assert "unknown_field" in edited("kserve", change)


def test_trap_b_the_first_version_has_no_offloading() -> None:
    assert "api_version" in edited("kserve", lambda service: service.update(apiVersion="serving.kserve.io/v1alpha1"))


def test_trap_c_the_templates_shm_is_too_small_for_the_tier() -> None:
    assert "shm_too_small" in edited("kserve", lambda service: service["spec"]["template"].pop("volumes"))


def test_trap_d_the_limit_covers_weights_and_tier() -> None:
    def change(patch: dict[str, Any]) -> None:
        patch["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"] = "64Gi"

    assert "memory_limit" in edited("llm-d", change)


def test_trap_e_a_file_tier_needs_a_volume() -> None:
    emission, placement, _ = emitted("llm-d")
    patch, claim, _ = documents(emission)
    assert claim["spec"]["resources"]["requests"]["storage"] == f"{placement.disk_bytes // GiB}Gi"
    assert "no_volume" in {one.code for one in explain_text(yaml.safe_dump(patch, width=10**6), "f").notices}


def test_trap_f_fs_python_is_no_tier() -> None:
    text = emitted("llm-d")[0].text
    assert '\\"type\\": \\"fs\\"' in text
    assert "unknown_tier" in {one.code for one in explain_text(text.replace('\\"fs\\"', '\\"fs_python\\"'), "f").notices}


def test_trap_g_each_target_counts_in_its_own_unit() -> None:
    def object_of(name: str) -> dict[str, Any]:
        return next(documents(emitted(name)[0]))

    assert object_of("kserve")["spec"]["kvCacheOffloading"]["cpu"] == "64Gi"
    assert object_of("production-stack")["servingEngineSpec"]["modelSpec"][0]["lmcacheConfig"]["cpuOffloadingBufferSize"] == "64"
    assert object_of("lmcache-operator")["spec"]["l1"]["sizeGB"] == 64
    worker = object_of("dynamo-k8s")["spec"]["components"][1]
    (size,) = [one["value"] for one in worker["podTemplate"]["spec"]["containers"][0]["env"] if one["name"] == "DYN_KVBM_CPU_CACHE_GB"]
    assert float(size) == pytest.approx(64 * GiB / 1e9)
    assert f'"cpu_bytes_to_use\\": {64 * GiB}' in emitted("llm-d")[0].text


def test_the_router_is_told_the_blocks_of_each_tier() -> None:
    emission, placement, deployment = emitted("llm-d")
    blocks = {one.tier: one for one in emission.router}
    # 64 GiB / (128 KiB a token x 16) = 32,768 blocks; 500 GiB: 256,000
    assert (blocks["cpu"].blocks, blocks["cpu"].block_tokens) == (32_768, 16)
    assert blocks["disk"].blocks == 256_000
    assert blocks["gpu"].tokens == pytest.approx(emission.pool_tokens, rel=0.001)
    values = next(one for one in documents(emission) if "router" in one)
    config = yaml.safe_load(values["router"]["epp"]["pluginsCustomConfig"]["kvplan.yaml"])
    assert faults(config, PICKER) == []
    told_to_it = {one["name"]: one["parameters"]["lruCapacityPerServer"] for one in config["plugins"] if "producer" in one["type"]}
    assert told_to_it == {f"{one.tier}-prefix-cache-producer": one.blocks for one in emission.router}


def test_a_router_counts_a_swept_tier_as_full_as_it_gets() -> None:
    emission, placement, _ = emitted("lmcache-mp", disk=False)
    (cpu,) = [one for one in emission.router if one.tier == "cpu"]
    # LMCache's server sweeps at 0.8: 64 GiB x 0.8 / 128 KiB a token = 419,430 tokens, in chunks of 256.
    assert (cpu.blocks, cpu.block_tokens) == (419_430 // 256, 256)
    assert placement.cpu_bytes == 64 * GiB


def test_the_served_length_never_exceeds_the_pool() -> None:
    # The L4's pool of 3.1 GiB holds 25,392 tokens; the model's length is 131,072.
    placement, deployment = placed("vllm", pool=3 * GiB, longest=1_000_000)
    assert placement.max_context_tokens == 24_576 - 1024  # one block is the engine's own
    blocks = layout(deployment).blocks(3 * GiB) - 1
    assert layout(deployment).request_blocks(placement.max_context_tokens) <= blocks
    assert longest_context(deployment, 100 * GiB) == 131_072
    short, _ = placed("vllm", longest=5000)
    assert short.max_context_tokens == 5120
    assert short.gpu_kv_bytes == 0  # left to the share of the GPU


def test_an_emitted_command_started_with_the_pool_that_was_said() -> None:
    """vLLM 0.24 on one H200, started with the command of this plan: `GPU KV cache size: 919,824 tokens`."""
    deployment = deployment_for("vllm").changed(machine=catalog.machine("h200-sxm"))
    placement = served(Placement(model="", store_generated=False), deployment, 8192)
    assert emit(placement, "vllm", deployment.engine, deployment).pool_tokens == pytest.approx(919_824, rel=0.01)


def test_an_engine_told_fewer_sequences_leaves_more_for_kv() -> None:
    placement, deployment = placed("vllm")
    assert pool_bytes(told(deployment, placement), placement) > pool_bytes(deployment, placement)


def test_what_is_not_written_is_refused_with_the_reason() -> None:
    with pytest.raises(InputError, match="own builds of vLLM"):
        engine_for("aibrix")
    with pytest.raises(InputError, match="no engine to configure is named 'vlm'"):
        engine_for("vlm")


def test_a_manifest_needs_to_know_what_is_served() -> None:
    with pytest.raises(InputError, match="the memory limit of its container"):
        emit(Placement(model="m", cpu_bytes=TiB, store_generated=False), "kserve")


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("vllm serve meta-llama/Meta-Llama-3.1-8B --kv-offloading-size 8", "will_not_start", "131,072"),
        ("vllm serve meta-llama/Meta-Llama-3.1-8B --max-model-len 8192 --kv-offloading-size 400", "host_exhausted", "can be used"),
        ("vllm serve meta-llama/Meta-Llama-3.1-8B --max-model-len 8192 --kv-offloading-size 10", "host_memory", "takes 16.0 GiB"),
        ("vllm serve meta-llama/Meta-Llama-3.1-8B --max-model-len 8192 -tp 3", "will_not_start", "cannot be split"),
    ],
)
def test_a_command_is_held_against_its_model_and_machine(text: str, code: str, said: str) -> None:
    read = explain_text(text, "f", machine=catalog.machine("l4"))
    assert any(one.code == code and said in one.sentence for one in read.notices), read.notices


SPREADS = [
    ("deepseek-v3", Parallel(tp=1, dp=8, ep=8)),
    ("deepseek-v3", Parallel(tp=2, dp=4, ep=8)),
    ("deepseek-v3", Parallel(tp=4, dp=2)),
    ("llama-3.1-8b", Parallel(tp=2, pp=2)),
    ("llama-3.1-8b", Parallel(tp=2, dp=4)),
    ("llama-3.1-70b", Parallel(tp=4, pp=2)),
]
"""Models and the ways that one replica of them is spread over eight GPUs or fewer."""


@pytest.mark.parametrize(("model", "parallel"), SPREADS)
@pytest.mark.parametrize("name", ["vllm", "sglang", "llm-d", "lmcache"])
@pytest.mark.parametrize("pool", [0, 32 * GiB])
def test_every_kind_of_parallelism_reads_back_to_the_same_numbers(name: str, model: str, parallel: Parallel, pool: int) -> None:
    machine = catalog.machine("b200")
    deployment = msgspec.structs.replace(deployment_for(name, pool=pool), model=catalog.model(model), server=machine, parallel=parallel)
    engine = deployment.engine
    rules = {field: getattr(engine.offload, field) for field in RULES}
    size = 32 * (engine.abilities.cpu_step_bytes or GiB) * parallel.gpus
    ranks = {kind: getattr(parallel, kind) for kind in ("tp", "pp", "dp", "ep")}
    placement = served(Placement(model="", cpu_bytes=size, **ranks, **rules), deployment, 30_000)
    emission = emit(placement, name, engine, deployment)
    read = explain_text(emission.text, "f", machine=machine)
    assert [one for one in read.notices if one.level == "error"] == []
    for field in (*SAME, "pp", "dp", "ep", *(["gpu_kv_bytes"] if name != "sglang" else [])):
        assert getattr(read.placement, field) == getattr(placement, field), field
    assert read.pool_tokens == emission.pool_tokens
    assert read.host == emission.host
    program = "sglang" if name == "sglang" else "vllm"
    config = parse_config(emission.text, "f")
    quantities_of(config, "f")
    assert unknown_options(config.flags, program, engine.version if program == name else "") == []


def test_a_pod_of_data_parallel_ranks_has_memory_for_all_of_them() -> None:
    def limit(dp: int) -> int:
        deployment = msgspec.structs.replace(deployment_for("llm-d"), parallel=Parallel(dp=dp))
        rules = {field: getattr(deployment.engine.offload, field) for field in RULES}
        placement = served(Placement(model="", dp=dp, cpu_bytes=64 * GiB, **rules), deployment, 8000)
        host = emit(placement, "llm-d", deployment.engine, deployment).host
        assert host is not None and host.asked_bytes == 64 * GiB * dp
        return host.limit_bytes

    # Each rank has its own tier, weights (15 GiB) and processes (4 + 4 GiB).
    assert limit(4) == pytest.approx(4 * limit(1), abs=8 * GiB)


def test_attention_groups_share_ranks_requests_and_steps() -> None:
    new = (
        "python -m sglang.launch_server --model-path m --tp-size 8 --attn-dp-size 4 --max-running-requests 256 --chunked-prefill-size 8192"
    )
    old = new.replace("--attn-dp-size 4", "--dp-size 4 --enable-dp-attention")
    for text in (new, old):
        seen = explain_text(text, "f").placement
        assert (seen.tp, seen.dp, seen.gpus) == (2, 4, 8)
        assert (seen.max_batch, seen.step_tokens) == (64, 8192)
    assert "deprecated" in {one.code for one in explain_text(old, "f").notices}
    apart = explain_text(new.replace("--attn-dp-size 4", "--dp-size 4"), "f").placement  # copies of the whole model
    assert (apart.tp, apart.dp, apart.gpus, apart.max_batch) == (8, 4, 32, 256)
    assert "groups_uneven" in {one.code for one in explain_text(new.replace("size 4", "size 3"), "f").notices}
    assert "experts_uneven" in {one.code for one in explain_text(new + " --ep-size 4", "f").notices}


def test_every_kind_of_parallelism_is_written_or_refused() -> None:
    spread = Placement(model="deepseek-ai/DeepSeek-V3", tp=1, dp=8, ep=8, cpu_bytes=64 * GiB)
    vllm, sglang = (emit(spread, name).text for name in ("vllm", "sglang"))
    assert "--data-parallel-size 8" in vllm and "--enable-expert-parallel" in vllm
    assert all(option in sglang for option in ("--tp-size 8", "--attn-dp-size 8", "--ep-size 8"))
    assert "--pipeline-parallel-size 2" in emit(Placement(model="m", tp=4, pp=2), "vllm").text
    assert "parallel-size 1" not in emit(Placement(model="m", tp=4), "vllm").text
    with pytest.raises(InputError, match="expert parallelism"):
        emit(spread, "trtllm")


def test_settings_and_tiers_belong_to_a_version() -> None:
    def codes(version: str, extra: str, kind: str) -> set[str]:
        config = '{"kv_connector":"OffloadingConnector","kv_role":"kv_both","kv_connector_extra_config":{"cpu_bytes_to_use":68719476736,'
        config += f'"spec_name":"TieringOffloadingSpec","{extra}":1,"secondary_tiers":[{{"type":"{kind}"}}]}}}}'
        return {one.code for one in explain_text(f"vllm serve m --kv-transfer-config '{config}'", "f", engine_version=version).notices}

    assert {"unknown_key", "unknown_tier"} <= codes("0.24.0", "blocks_per_chunk", "p2p")
    assert not codes("0.26.0", "blocks_per_chunk", "p2p") & {"unknown_key", "unknown_tier"}
    assert {"unknown_key", "unknown_tier"} <= codes("0.26.0", "sync_load_budget_bytes", "kvcr")
    assert not codes("0.33.0", "sync_load_budget_bytes", "kvcr") & {"unknown_key", "unknown_tier"}


@pytest.mark.parametrize(
    ("extra", "version", "cpu", "disk"),
    [
        (None, "0.24.0", 10 * GiB, 0),  # by its switch and the short flag
        ({}, "0.24.0", 8 * GiB, 0),
        ({"cpu_bytes_to_use_per_rank": 4 * GiB}, "0.24.0", 8 * GiB, 0),
        ({"kv_offload_backend": "disk", "disk_path": "/d"}, "0.33.0", 0, 100 * GiB),
    ],
)
def test_the_simple_connector_of_vllm(extra: dict[str, Any] | None, version: str, cpu: int, disk: int) -> None:
    connector = {"kv_connector": "SimpleCPUOffloadConnector", "kv_role": "kv_both", "kv_connector_extra_config": extra}
    text = f"vllm serve m -tp 2 --kv-transfer-config '{json.dumps(connector)}'"
    if extra is None:
        text = "VLLM_USE_SIMPLE_KV_OFFLOAD=1 vllm serve m -tp 2 --kv-offloading-size 10"
    read = explain_text(text, "f", model=catalog.model("llama-3.1-8b"), engine_version=version)
    assert (read.placement.cpu_bytes, read.placement.disk_bytes) == (cpu, disk)
    assert read.placement.store_generated
    assert read.host is not None and read.host.taken_bytes == cpu  # pinned exactly: OffloadingConnector takes 16 GiB for 10
    assert "not_simulated" in {one.code for one in read.notices}


def test_what_a_target_cannot_spread_is_refused_before_anything_is_simulated() -> None:
    def never(_: Scenario) -> PlanResult:
        raise AssertionError

    ranks = kvplan.scenario_of("chat", machine="h100-sxm", sets={"parallel.tp": 2, "parallel.pp": 2})
    with pytest.raises(InputError, match="pipeline stages"):
        planned(ranks, "trtllm", never)
    several = kvplan.scenario_of("chat", machine="h100-sxm", sets={"parallel.tp": 8, "parallel.dp": 2, "nodes": 2})
    with pytest.raises(InputError, match="16 GPUs takes several of h100-sxm"):
        planned(several, "vllm", never)


def test_a_target_of_tensor_parallel_ranks_keeps_the_search_to_them() -> None:
    assert engine_for("kserve").abilities.tensor_only
    assert not engine_for("vllm").abilities.tensor_only
    assert not catalog.engine("trtllm").abilities.tensor_only  # its engine is not the limit
