"""What a configuration means: emitted ones say again what was decided, and each trap is found."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvplan import catalog
from kvplan.deploy.emit import emit
from kvplan.deploy.explain import explain_config, explain_text
from kvplan.deploy.reading import known_settings
from kvplan.deploy.targets import TARGETS
from kvplan.errors import InputError
from kvplan.hardware.spec import Host
from kvplan.results.deploy import Explanation
from kvplan.results.placement import Placement
from kvplan.units import GiB, TiB

CONNECTOR = '{"kv_connector":"OffloadingConnector","kv_role":"kv_both","kv_connector_extra_config":%s}'


def explain(text: str, **context: object) -> Explanation:
    return explain_text(text, "f", **context)  # type: ignore[arg-type]


def codes(explanation: Explanation) -> set[str]:
    return {notice.code for notice in explanation.notices}


PLAIN = ["vllm", "lmcache", "sglang", "trtllm", "dynamo"]


def test_every_engine_has_a_vocabulary() -> None:
    assert {target.engine for target in TARGETS.values()} - {"lmcache-mp"} == set(known_settings())


placements = st.builds(
    Placement,
    model=st.sampled_from(["Qwen/Qwen3-32B", "/models/my model"]),
    tp=st.sampled_from([1, 2, 8]),
    gpu_fraction=st.sampled_from([0.5, 0.9, 0.92]),
    kv_dtype=st.sampled_from(["auto", "fp8"]),
    block_tokens=st.sampled_from([16, 64]),
    cpu_bytes=st.integers(8 * 10**9, 2 * TiB),
    disk_bytes=st.just(3 * TiB),
    disk_path=st.sampled_from(["/mnt/kv", "/mnt/kv cache"]),
)


@settings(deadline=None)  # the first example reads the catalog
@given(placement=placements, name=st.sampled_from(PLAIN))
def test_an_emitted_configuration_means_what_was_decided(placement: Placement, name: str) -> None:
    placement = msgspec.structs.replace(placement, store_generated=name != "dynamo")
    if name == "trtllm":
        placement = msgspec.structs.replace(placement, store="on_evict", disk_bytes=0, disk_path="")
    read = explain(emit(placement, name).text)
    assert read.engine == name
    assert not [notice for notice in read.notices if notice.level == "error"]
    for field in ("tp", "gpu_fraction", "block_tokens", "model", "disk_path", "store", "store_generated"):
        assert getattr(read.placement, field) == getattr(placement, field), field
    assert TARGETS[name].dialect.dtypes[read.placement.kv_dtype] == TARGETS[name].dialect.dtypes[placement.kv_dtype]
    # Six decimals of a GB per rank; SGLang rounds down to whole GB per rank.
    slack = 10**9 * placement.tp if name == "sglang" else 2**10 * placement.tp
    assert abs(read.placement.cpu_bytes - placement.cpu_bytes) <= slack
    if name in ("lmcache", "dynamo", "sglang"):
        assert abs(read.placement.disk_bytes - placement.disk_bytes) <= 2**10 * placement.tp


@pytest.mark.parametrize(
    ("text", "per_rank", "total"),
    [
        # The same 100 over 8 ranks: 100 GiB in all; 8 x 100 GiB; 8 x 100 GB; 8 x 100 bytes; 100 GB in all.
        ("vllm serve m -tp 8 --kv-offloading-size 100", 100 * GiB // 8, 100 * GiB),
        ("max_local_cpu_size: 100", 100 * GiB, 800 * GiB),
        (
            "python -m sglang.launch_server --tp 8 --enable-hierarchical-cache --hicache-size 100",
            100 * 10**9,
            800 * 10**9,
        ),
        ("tensor_parallel_size: 8\nkv_cache_config:\n  host_cache_size: 100", 100, 800),
        ("export DYN_KVBM_CPU_CACHE_GB=100", 100 * 10**9 // 8, 100 * 10**9),
    ],
)
def test_the_same_number_is_another_size_for_each_engine(text: str, per_rank: int, total: int) -> None:
    (tier,) = explain(text, tp=8).tiers
    assert (tier.bytes_per_rank, tier.bytes_total) == (per_rank, total)


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("vllm serve m --kv-offload-size 100", "unknown_option", "--kv-offloading-size"),
        ("vllm serve m --block-size 7", "block_size", "multiples of 16"),
        ("vllm serve m --cpu-offload-gb 20", "not_kv_offload", "moves weights"),
        ("vllm serve m --swap-space 16", "unknown_option", "refuses to start"),
        ("vllm serve m --swap-space 16", "not_kv_offload", "keeps no KV"),
        ("vllm serve m --gpu-memory-utilization 0.99", "gpu_full", "1%"),
        ("vllm serve m --kv-offloading-size 100 --kv-offloading-backend lmcache", "size_ignored", "--l1-size-gb"),
        ("lmcache server --l1-size 60", "unknown_option", "refuses to start"),
        ("DYN_KVBM_DISK_CACHE_GB=900\nDYN_KVBM_DISABLE_DISK_OFFLOAD_FILTER=true", "filter_off", "wears the drive"),
        ("vllm serve m --kv-offloading-size 107374182400", "unit_trap", "counts it in GiB"),
        ("vllm serve m --kv-offloading-size lots", "not_a_number", "'lots' is not a number"),
        ("vllm serve m --kv-offloading-backend native", "no_effect", "--kv-offloading-size"),
        ("vllm serve m --kv-offloading-size 9 --no-enable-prefix-caching", "no_prefix_cache", "prefix cache off"),
        ("vllm serve m --kv-transfer-config '{oops'", "not_json", "not a JSON object"),
        (CONNECTOR % '{"cpu_bytes_to_use": 100}', "unit_trap", "counts it in bytes"),
        (CONNECTOR % '{"cpu_byte_to_use": 107374182400}', "unknown_key", "cpu_bytes_to_use"),
        (CONNECTOR % "{}", "no_size", "refuses to start"),
        (
            CONNECTOR % '{"cpu_bytes_to_use": 1e11, "secondary_tiers": [{"type": "fs"}]}',
            "no_effect",
            "TieringOffloadingSpec",
        ),
        (
            CONNECTOR % '{"cpu_bytes_to_use": 1e11, "spec_name": "TieringOffloadingSpec", "store_threshold": 2}',
            "threshold_with_tiers",
            "rejects a store_threshold",
        ),
        (CONNECTOR % '{"cpu_bytes_to_use": 1e11, "block_size": 64, "blocks_per_chunk": 4}', "exclusive", "exclude"),
        ("chunk_sizes: 256\nlocal_cpu: true", "unknown_key", "chunk_size"),
        ("local_disk: file:///kv\nmax_local_disk_size: 50\nmax_local_cpu_size: 0", "no_cpu_buffer", "CPU buffer"),
        ("local_disk: file:///kv\nmax_local_cpu_size: 20", "no_size", "disk tier has no size"),
        ("max_local_disk_size: 50\nchunk_size: 256", "no_effect", "without local_disk"),
        ("local_disk: /kv\nmax_local_disk_size: 50", "path_form", "file:///path"),
        ("max_local_cpu_size: 20", "tp_unknown", "does not say how many ranks"),
        (
            "LMCACHE_CHUNK_SIZE=1\nLMCACHE_CONFIG_FILE=l.yaml\n# --- l.yaml\nchunk_size: 256",
            "ignored",
            "LMCACHE_CHUNK_SIZE",
        ),
        ("sglang --hicache-size 100", "no_effect", "--enable-hierarchical-cache"),
        ("sglang --enable-hierarchical-cache --hicache-ratio 1", "ratio", "not above 1"),
        ("sglang --enable-hierarchical-cache --hicache-write-policy lazy", "policy", "write_through_selective"),
        ("sglang --enable-hierarchical-cache --hicache-sizes 3", "unknown_key", "--hicache-size"),
        (
            "sglang --enable-hierarchical-cache --hicache-mem-layout page_first --hicache-io-backend direct",
            "layout",
            "layer_first",
        ),
        ("sglang --enable-hierarchical-cache --hicache-storage-backend file", "disk_unbounded", "no bound"),
        ("kv_cache_config:\n  host_cache: 100", "unknown_key", "host_cache_size"),
        (
            "kv_cache_config:\n  enable_block_reuse: false\n  host_cache_size: 45000000000",
            "no_prefix_cache",
            "reuse off",
        ),
        ("DYN_KVBM_CPU_CACHE_GBS=9", "unknown_key", "DYN_KVBM_CPU_CACHE_GB"),
        ("DYN_KVBM_DISK_CACHE_GB=900", "disk_without_cpu", "experimental"),
        ("DYN_KVBM_CPU_CACHE_GB=900\nDYN_KVBM_DISK_CACHE_GB=100", "disk_under_cpu", "smaller than the CPU tier"),
    ],
)
def test_each_trap_is_found(text: str, code: str, said: str) -> None:
    found = [notice for notice in explain(text).notices if notice.code == code]
    assert found, explain(text).notices
    assert any(said in notice.sentence + notice.hint for notice in found), found


@pytest.mark.parametrize(
    "text",
    [
        "DYN_KVBM_CPU_CACHE_GB=1e308",
        "max_local_cpu_size: 1e308",
        "vllm serve m --kv-offloading-size 1e308",
        "vllm serve m -tp 99999999999999999999 --kv-offloading-size 3",
        "kv_cache_config:\n  host_cache_size: 1e400",
    ],
)
def test_numbers_beyond_reason_are_faults(text: str) -> None:
    assert "not_a_number" in codes(explain(text, machine=catalog.machine("h100-sxm")))


def test_a_pool_that_the_gpu_does_not_have() -> None:
    text = "vllm serve meta-llama/Meta-Llama-3.1-8B --max-model-len 8192 --kv-cache-memory-bytes "
    fits = explain(text + str(50 * GiB), machine=catalog.machine("h100-sxm"))
    assert "will_not_start" not in codes(fits)
    beyond = explain(text + str(70 * GiB), machine=catalog.machine("h100-sxm"))  # beside 15 GiB of weights in 79.6
    assert "will_not_start" in codes(beyond)


@pytest.mark.parametrize(
    ("text", "engine"),
    [
        ("python -m sglang.launch_server --model-path m", "sglang"),
        ("python3 -m vllm.entrypoints.openai.api_server --model m", "vllm"),
    ],
)
def test_a_module_names_its_engine(text: str, engine: str) -> None:
    read = explain(text)
    assert (read.engine, read.placement.model) == (engine, "m")


def test_a_sound_configuration_has_no_fault() -> None:
    text = "vllm serve m --tensor-parallel-size 2 --kv-offloading-size 400 --gpu-memory-utilization 0.92"
    explanation = explain(text, pool_bytes=100 * GiB, host=Host(memory_bytes=TiB))
    assert {notice.level for notice in explanation.notices} == {"note"}
    assert [tier.name for tier in explanation.tiers] == ["gpu", "cpu"]


def test_checks_that_need_the_pool_and_the_host() -> None:
    text = "vllm serve m --kv-offloading-size 64"
    assert "tier_adds_nothing" in codes(explain(text, pool_bytes=80 * GiB))
    assert "small_tier" in codes(explain(text, pool_bytes=40 * GiB))
    assert not codes(explain(text, pool_bytes=32 * GiB)) & {"small_tier", "tier_adds_nothing"}
    # 64 GiB x 2 replicas = 128 GiB, more than 0.8 x 128 GiB.
    assert "host_exhausted" in codes(explain(text, host=Host(memory_bytes=128 * GiB), replicas=2))
    assert "host_exhausted" not in codes(explain(text, host=Host(memory_bytes=128 * GiB)))


def test_a_ratio_is_a_size_once_the_pool_is_known() -> None:
    text = "sglang --tp 4 --enable-hierarchical-cache --hicache-ratio 2.5"
    tiers = {tier.name: tier for tier in explain(text, pool_bytes=100 * GiB).tiers}
    assert tiers["cpu"].bytes_total == 250 * GiB
    assert tiers["cpu"].bytes_per_rank == 250 * GiB // 4
    assert not explain(text).tiers


@pytest.mark.parametrize(("size", "total"), [("64Gi", 128 * GiB), ("200G", 400 * 10**9), ("1073741824", 2 * GiB)])
def test_the_bound_of_sglangs_disk_is_per_rank(size: str, total: int) -> None:
    flags = "sglang --tp 2 --enable-hierarchical-cache --hicache-size 50 --hicache-storage-backend file"
    explanation = explain(f"export SGLANG_HICACHE_FILE_BACKEND_MAX_SIZE={size}\n{flags}")
    assert explanation.placement.disk_bytes == total
    assert "disk_unbounded" not in codes(explanation)


def test_a_file_and_its_refusals(tmp_path: Path) -> None:
    file = tmp_path / "lmcache.yaml"
    file.write_text("chunk_size: 256\r\nmax_local_cpu_size: 20.0  # GB\r\n")
    explanation = explain_config(file, tp=2)
    assert explanation.placement.cpu_bytes == 40 * GiB
    assert explanation.source == str(file)
    file.write_text("replicas: 3\nimage: web\n")
    with pytest.raises(InputError, match="not a configuration of an engine that kvplan knows"):
        explain_config(file)
    with pytest.raises(InputError, match="no such file"):
        explain_config(tmp_path / "none")


@given(text=st.text(max_size=60) | st.sampled_from(["a: 1\n b: 2\n", "vllm --kv-x", "kv_cache_config: 3", "sglang --hicache-size -1"]))
def test_any_text_is_explained_or_refused_with_a_sentence(text: str) -> None:
    try:
        assert explain(text).engine in TARGETS
    except InputError as error:
        assert error.message


def test_the_json_document_keeps_its_keys() -> None:
    document = msgspec.json.decode(msgspec.json.encode(explain("DYN_KVBM_DISK_CACHE_GB=900")))
    assert document["schema"] == "kvplan.explain/1"
    assert set(document) == set(Explanation.__struct_fields__)
    assert document["notices"][0]["level"] == "warning"


def test_a_ratio_that_nobody_asked_for_is_lowered_to_the_host() -> None:
    # 640 GB of KV over 8 ranks, 1 TB of host memory: 0.76 x (1,000 - 10.74) GB / 640 GB = 1.175, where SGLang would take 2.
    text = "sglang --tp 8 --enable-hierarchical-cache"
    found = explain(text, pool_bytes=640 * 10**9, host=Host(memory_bytes=10**12))
    assert next(tier for tier in found.tiers if tier.name == "cpu").bytes_total == pytest.approx(752e9, rel=0.01)
    assert "ratio_lowered" in codes(found)
    wide = explain(text, pool_bytes=64 * 10**9, host=Host(memory_bytes=10**12))
    assert next(tier for tier in wide.tiers if tier.name == "cpu").bytes_total == 128 * 10**9
