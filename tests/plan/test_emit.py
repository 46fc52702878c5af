"""The emitted configuration, read back by the engine's own kind of reader, says what was decided."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Mapping

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kvplan.deploy.emit import emit, engine_for
from kvplan.deploy.targets import TARGETS
from kvplan.errors import InputError
from kvplan.results.deploy import Emission
from kvplan.results.placement import Placement
from kvplan.units import GiB, TiB

PLAIN = ["vllm", "lmcache", "sglang", "trtllm", "dynamo"]
"""Targets that are files and commands, without a cluster."""

BASE = Placement(model="Qwen/Qwen2.5-32B", tp=8, gpu_fraction=0.9, block_tokens=64, cpu_bytes=800 * GiB)


def change(**fields: object) -> Placement:
    return msgspec.structs.replace(BASE, **fields)


def script(emission: Emission) -> tuple[dict[str, str], dict[str, str]]:
    """The environment and the flags that a shell hands to the engine, as bash itself expands them."""
    (text,) = [part.text for part in emission.parts if part.format == "shell"]
    body, _, command = text.rstrip().rpartition("\n")
    assert command.startswith("exec ") and command.endswith('"${args[@]}"')
    done = subprocess.run(["bash", "-euc", body + '\nprintf "%s\\0" "${args[@]}"'], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    words = done.stdout.split("\0")[:-1]
    flags: dict[str, str] = {}
    for word in words:
        if word.startswith("--"):
            flags[last := word] = ""
        else:
            flags[last] = word
    # The same text through Python's shell lexer: comments and all, nothing is misread.
    lexed = shlex.split(body, comments=True)
    assert lexed[lexed.index("args=(") + 1 : -1] == words
    exports = dict(word.split("=", 1) for word in lexed if re.match(r"[A-Z_]+=", word))
    return exports, flags


def document(emission: Emission) -> dict:
    (text,) = [part.text for part in emission.parts if part.format == "yaml"]
    return yaml.safe_load(text)


def test_the_same_800_gib_is_a_different_number_for_each_engine() -> None:
    # 800 GiB over 8 ranks = 100 GiB per rank = 107,374,182,400 bytes; 800 GiB = 858,993,459,200 bytes.
    _, vllm = script(emit(change(store_generated=False), "vllm"))
    assert vllm["--kv-offloading-size"] == "800"
    assert document(emit(BASE, "lmcache"))["max_local_cpu_size"] == 100
    _, sglang = script(emit(BASE, "sglang"))
    assert sglang["--hicache-size"] == "107"  # whole GB of 10^9, rounded down
    assert document(emit(change(store="on_evict"), "trtllm"))["kv_cache_config"]["host_cache_size"] == 107_374_182_400
    exports, _ = script(emit(change(store_generated=False), "dynamo"))
    assert exports["DYN_KVBM_CPU_CACHE_GB"] == "858.9934592"


def test_vllm_connector_says_what_the_short_flag_cannot() -> None:
    placement = change(chunk_tokens=256, policy="arc", store="selective", store_after_lookups=3)
    _, flags = script(emit(placement, "vllm"))
    assert json.loads(flags["--kv-transfer-config"]) == {
        "kv_connector": "OffloadingConnector",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {
            "cpu_bytes_to_use": 858_993_459_200,  # all workers together
            "eviction_policy": "arc",
            "offload_prompt_only": False,
            "block_size": 256,
            "store_threshold": 3,
        },
    }
    assert "--kv-offloading-size" not in flags
    assert flags["--tensor-parallel-size"] == "8"
    assert flags["--gpu-memory-utilization"] == "0.9"


def test_vllm_disk_tier_lies_below_the_cpu_tier_and_is_not_bounded() -> None:
    emission = emit(change(disk_bytes=2 * TiB, disk_path="/mnt/kv cache"), "vllm")
    _, flags = script(emission)
    extra = json.loads(flags["--kv-transfer-config"])["kv_connector_extra_config"]
    assert extra["spec_name"] == "TieringOffloadingSpec"
    assert extra["secondary_tiers"] == [{"type": "fs", "root_dir": "/mnt/kv cache"}]
    assert "disk_unbounded" in [notice.code for notice in emission.notices]


def test_the_unit_of_a_tier_over_several_ranks_is_said() -> None:
    placement = change(cpu_bytes=100 * GiB, tp=4)
    (notice,) = [notice for notice in emit(placement, "lmcache").notices if notice.code == "per_rank_unit"]
    # 100 GiB over 4 workers: LMCache is given 25.
    assert "25 is 100.0 GiB in all, 25.0 GiB per rank" in notice.sentence
    assert not emit(msgspec.structs.replace(placement, tp=1), "lmcache").notices


def test_lmcache_file_with_all_tiers() -> None:
    placement = change(chunk_tokens=256, disk_bytes=8 * TiB, disk_path="/mnt/kv", remote_url="redis://cache:6379", load_min_tokens=512)
    emission = emit(placement, "lmcache")
    assert document(emission) == {
        "chunk_size": 256,
        "local_cpu": True,
        "max_local_cpu_size": 100,
        "cache_policy": "LRU",
        "save_decode_cache": True,
        "min_retrieve_tokens": 512,
        "local_disk": "file:///mnt/kv",
        "max_local_disk_size": 1024,  # 8 TiB / 8 workers = 1 TiB = 1024 "GB" of 2^30
        "remote_url": "redis://cache:6379",
        "remote_serde": "naive",
    }
    exports, flags = script(emission)
    assert exports == {"LMCACHE_CONFIG_FILE": "lmcache.yaml", "PYTHONHASHSEED": "0"}
    assert json.loads(flags["--kv-transfer-config"]) == {"kv_connector": "LMCacheConnectorV1", "kv_role": "kv_both"}


def test_sglang_flags_and_its_disk_per_rank() -> None:
    exports, flags = script(emit(change(disk_bytes=8 * 10**12, disk_path="/mnt/kv", store="on_evict", kv_dtype="fp8"), "sglang"))
    assert exports == {
        "SGLANG_HICACHE_FILE_BACKEND_STORAGE_DIR": "/mnt/kv",
        "SGLANG_HICACHE_FILE_BACKEND_MAX_SIZE": "1000000000000",
    }
    assert flags["--hicache-write-policy"] == "write_back"
    assert flags["--hicache-storage-backend"] == "file"
    assert flags["--page-size"] == "64"
    assert flags["--kv-cache-dtype"] == "fp8_e4m3"
    assert "--enable-hierarchical-cache" in flags


def test_trtllm_without_offload_says_so() -> None:
    config = document(emit(change(cpu_bytes=0, kv_dtype="fp8"), "trtllm"))
    assert config["kv_cache_config"]["host_cache_size"] == 0  # left out, newer versions size a host tier by themselves
    assert config["kv_cache_config"]["dtype"] == "fp8"
    assert config["tensor_parallel_size"] == 8


def test_dynamo_tiers_and_connector() -> None:
    exports, flags = script(emit(change(disk_bytes=2 * 10**12, disk_path="/mnt/kv", store_generated=False), "dynamo"))
    assert exports["DYN_KVBM_DISK_CACHE_GB"] == "2000"
    assert exports["DYN_KVBM_DISK_CACHE_DIR"] == "/mnt/kv"
    assert json.loads(flags["--kv-transfer-config"])["kv_connector"] == "DynamoConnector"


@pytest.mark.parametrize("name", PLAIN)
def test_each_line_says_which_decision_it_is_and_for_which_version(name: str) -> None:
    store = "on_evict" if name == "trtllm" else "write_through"
    for part in emit(change(store=store, store_generated=name != "dynamo"), name).parts:
        first, *lines = [line for line in part.text.splitlines() if not line.startswith("#!")]
        assert f"{TARGETS[name].dialect.title} {engine_for(name).version}" in first
        for before, line in zip([first, *lines], lines, strict=False):
            structure = line in ("args=(", ")", "kv_cache_config:") or line.endswith('"${args[@]}"')
            assert structure or "#" in line or before.lstrip().startswith("#"), line


@pytest.mark.parametrize("name", PLAIN)
def test_no_tier_means_no_offload_setting(name: str) -> None:
    text = emit(change(cpu_bytes=0), name).text
    assert not re.search(r"kv-offloading|kv-transfer|hicache|LMCACHE_CONFIG|DYN_KVBM|host_cache_size: [1-9]", text)


@pytest.mark.parametrize(
    ("name", "fields", "said"),
    [
        ("vllm", {"store": "on_evict"}, "cannot store by the rule on_evict"),
        ("vllm", {"cpu_bytes": 0, "disk_bytes": 1, "disk_path": "/d"}, "lower tier without CPU memory"),
        ("vllm", {"store": "selective", "disk_bytes": 1, "disk_path": "/d"}, "store selectively with a disk tier"),
        ("vllm", {"policy": "lfu"}, "cannot evict by the rule lfu"),
        ("vllm", {"load_min_tokens": 100}, "leave short hits unloaded"),
        ("vllm", {"kv_dtype": "int4"}, "cannot keep KV as int4"),
        ("vllm", {"remote_url": "redis://h"}, "remote tier"),
        ("lmcache", {"cpu_bytes": 0, "disk_bytes": 1, "disk_path": "/d"}, "lower tier without CPU memory"),
        ("lmcache", {"store": "selective"}, "cannot store by the rule selective"),
        ("sglang", {"cpu_bytes": 10**9}, "so small a CPU tier"),  # 1 GB over 8 ranks
        ("sglang", {"store": "selective", "store_after_lookups": 5}, "choose the lookup"),
        ("sglang", {"store_generated": False}, "leave generated tokens out"),
        ("sglang", {"chunk_tokens": 256}, "chunks that differ from its blocks"),
        ("trtllm", {"store": "on_evict", "disk_bytes": 1, "disk_path": "/d"}, "keep KV on disk"),
        ("trtllm", {}, "cannot store by the rule write_through"),
        ("dynamo", {"store": "selective"}, "cannot store by the rule selective"),
        ("dynamo", {}, "cannot store generated tokens"),
        ("vllm", {"disk_bytes": 1}, "both a size and a directory"),
        ("vlm", {}, "no engine to configure is named 'vlm'"),
    ],
)
def test_what_an_engine_cannot_do_is_refused(name: str, fields: Mapping[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        emit(change(**fields), name)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("fields", "said"),
    [({"tp": 0}, "at least one rank"), ({"gpu_fraction": 1.5}, "at most 1"), ({"cpu_bytes": -1}, "negative size")],
)
def test_a_placement_that_makes_no_sense_is_refused(fields: Mapping[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        emit(change(**fields), "vllm")


@given(total=st.integers(1, 2**45), tp=st.sampled_from([1, 2, 3, 4, 8, 16]), name=st.sampled_from(sorted(TARGETS)))
def test_units_there_and_back(total: int, tp: int, name: str) -> None:
    unit = TARGETS[name].dialect.unit
    assert unit.total_bytes(unit.number(total, tp), tp) == pytest.approx(total, abs=1)


@given(
    path=st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1, max_size=20),
    model=st.sampled_from(["a/b", "my model", "x'y"]),
)
def test_odd_paths_and_names_survive_the_shell(path: str, model: str) -> None:
    emission = emit(change(disk_bytes=1, disk_path=path, model=model), "vllm")
    lexed = shlex.split(emission.parts[0].text, comments=True)
    extra = json.loads(lexed[lexed.index("--kv-transfer-config") + 1])["kv_connector_extra_config"]
    assert extra["secondary_tiers"][0]["root_dir"] == path
    assert model in lexed
