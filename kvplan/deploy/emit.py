"""A decision in an engine's own words: the flags, JSON, YAML or environment that carry it out, in the engine's unit."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping

from kvplan.deploy.dialects import TARGETS, check, refuse
from kvplan.results.deploy import Emission, Part
from kvplan.results.placement import Notice, Placement
from kvplan.units import format_bytes

Line = tuple[str, list[str]]  # what the engine reads, and which decisions it carries out
Written = tuple[list[Part], list[Notice]]

BESIDE = 60  # a longer line has its comments above it


def emit(placement: Placement, target: str) -> Emission:
    """The configuration of an engine that carries out a placement.

    Raises InputError when the target is unknown or when the engine cannot do what was decided.
    """
    check(placement, target)
    parts, notices = EMITTERS[target](placement)
    return Emission(target=target, version=TARGETS[target].version, parts=tuple(parts), notices=tuple(notices))


def _number(value: float) -> str:
    """A number as configurations write it: up to six decimals, none when whole."""
    return f"{value:.6f}".rstrip("0").rstrip(".")


def _size(engine: str, total_bytes: int, tp: int) -> tuple[str, str]:
    """The number for a tier in the engine's unit, and the words that say what it is in total."""
    unit = TARGETS[engine].unit
    total = format_bytes(total_bytes)
    ranks = f"{format_bytes(total_bytes / tp)} per rank x {tp} = {total}" if unit.per_rank else f"{total} over all ranks"
    return _number(unit.number(total_bytes, tp)), ranks


def _commented(lines: list[Line], indent: str = "") -> list[str]:
    """Lines with their comments: one short comment beside, more or longer ones above."""
    width = max((len(text) for text, _ in lines if len(text) <= BESIDE), default=0)
    shown = []
    for text, comments in lines:
        if len(comments) == 1 and len(text) <= BESIDE:
            shown.append(f"{indent}{text:<{width}}  # {comments[0]}")
        else:
            shown += [f"{indent}# {comment}" for comment in comments] + [indent + text]
    return shown


def _shell(engine: str, command: str, arguments: list[Line], before: list[Line]) -> Part:
    """A bash script: exports, an array of arguments with their comments, and the command."""
    lines = [
        _title(engine),
        *_commented(before),
        "args=(",
        *_commented(arguments, "  "),
        ")",
        f'{command} "${{args[@]}}"',
    ]
    return Part(name="serve.sh", format="shell", text="\n".join(lines) + "\n")


def _yaml(engine: str, name: str, lines: list[Line]) -> Part:
    return Part(name=name, format="yaml", text="\n".join([_title(engine), *_commented(lines)]) + "\n")


def _title(engine: str) -> str:
    return f"# written by kvplan for {TARGETS[engine].title} {TARGETS[engine].version}"


def _connector(config: Mapping[str, object]) -> str:
    return f"--kv-transfer-config {shlex.quote(json.dumps(config))}"


def _vllm_arguments(placement: Placement) -> list[Line]:
    """What vLLM is given whatever moves its KV."""
    arguments: list[Line] = [
        (f"--tensor-parallel-size {placement.tp}", ["ranks of the replica"]),
        (
            f"--gpu-memory-utilization {_number(placement.gpu_fraction)}",
            ["share of each GPU for weights, activations, KV"],
        ),
        (f"--kv-cache-dtype {TARGETS['vllm'].dtypes[placement.kv_dtype]}", ["KV dtype"]),
    ]
    if placement.block_tokens:
        arguments.append((f"--block-size {placement.block_tokens}", ["tokens of a GPU block"]))
    return arguments


def _vllm(placement: Placement) -> Written:
    arguments, notices = _vllm_arguments(placement), []
    if placement.cpu_bytes:
        arguments += _vllm_offload(placement)
    if placement.disk_bytes:
        sentence = (
            f"vLLM does not bound its disk tier: {placement.disk_path} grows past {format_bytes(placement.disk_bytes)} "
            "unless the file system stops it."
        )
        notices.append(Notice(code="disk_unbounded", sentence=sentence, hint="put it on a volume of that size"))
    return [_shell("vllm", f"vllm serve {shlex.quote(placement.model)}", arguments, [])], notices


def _vllm_offload(placement: Placement) -> list[Line]:
    """The short flag when it says everything, the connector's JSON otherwise."""
    selective = placement.store == "selective"
    if selective and placement.disk_bytes:
        raise refuse("vllm", "store selectively with a disk tier", "its tiering spec rejects a store_threshold of 2 or more")
    own_chunk = placement.chunk_tokens not in (0, placement.block_tokens)
    number, total = _size("vllm", placement.cpu_bytes, placement.tp)
    if not (selective or placement.disk_bytes or placement.store_generated or own_chunk or placement.policy != "lru"):
        return [
            (f"--kv-offloading-size {number}", [f"CPU tier in GiB: {total}"]),
            ("--kv-offloading-backend native", ["prompt blocks are stored as they fill and evicted LRU"]),
        ]
    generated = "stored" if placement.store_generated else "not stored"
    settings: list[tuple[str, object, str]] = [
        ("cpu_bytes_to_use", placement.cpu_bytes, f"CPU tier in bytes, {total}"),
        ("eviction_policy", placement.policy, "of the CPU tier"),
        ("offload_prompt_only", not placement.store_generated, f"generated tokens are {generated}"),
    ]
    if own_chunk:
        settings.append(("block_size", placement.chunk_tokens, "tokens of a chunk below the GPU"))
    if selective:
        settings.append(("store_threshold", placement.store_after_lookups, "lookups before a block is stored"))
    if placement.disk_bytes:
        disk = [{"type": "fs", "root_dir": placement.disk_path}]
        settings.append(("spec_name", "TieringOffloadingSpec", "a tier below the CPU"))
        settings.append(("secondary_tiers", disk, f"disk tier, {format_bytes(placement.disk_bytes)} decided, not enforced"))
    extra = {key: value for key, value, _ in settings}
    config = {"kv_connector": "OffloadingConnector", "kv_role": "kv_both", "kv_connector_extra_config": extra}
    return [(_connector(config), [f"{key}: {why}" for key, _, why in settings])]


def _lmcache(placement: Placement) -> Written:
    policy = json.dumps(TARGETS["lmcache"].policies[placement.policy])
    generated = "stored" if placement.store_generated else "not stored"
    number, total = _size("lmcache", placement.cpu_bytes, placement.tp)
    lines: list[Line] = [
        (f"chunk_size: {placement.chunk_tokens or 256}", ["tokens stored and looked up together"]),
        ("local_cpu: true", ["CPU tier"]),
        (f"max_local_cpu_size: {number}", [f"in each worker, in GB of 2^30 bytes: {total}"]),
        (f"cache_policy: {policy}", ["eviction"]),
        (f"save_decode_cache: {json.dumps(placement.store_generated)}", [f"generated tokens are {generated}"]),
    ]
    if placement.load_min_tokens:
        lines.append((f"min_retrieve_tokens: {placement.load_min_tokens}", ["a shorter hit is computed again"]))
    if placement.disk_bytes:
        number, total = _size("lmcache", placement.disk_bytes, placement.tp)
        lines.append((f"local_disk: {json.dumps('file://' + placement.disk_path)}", ["disk tier"]))
        lines.append((f"max_local_disk_size: {number}", [f"in each worker, in GB of 2^30 bytes: {total}"]))
    if placement.remote_url:
        lines.append((f"remote_url: {json.dumps(placement.remote_url)}", ["remote tier"]))
        lines.append(('remote_serde: "naive"', ["KV as it is, not compressed"]))
    arguments = _vllm_arguments(placement)
    before: list[Line] = []
    if placement.offloads:
        connector = _connector({"kv_connector": "LMCacheConnectorV1", "kv_role": "kv_both"})
        arguments.append((connector, ["vLLM hands its KV to LMCache"]))
        before.append(("export LMCACHE_CONFIG_FILE=lmcache.yaml", ["while set, other LMCACHE_ variables are ignored"]))
    script = _shell("lmcache", f"vllm serve {shlex.quote(placement.model)}", arguments, before)
    return ([_yaml("lmcache", "lmcache.yaml", lines)] if placement.offloads else []) + [script], []


def _sglang(placement: Placement) -> Written:
    arguments: list[Line] = [
        (f"--tp-size {placement.tp}", ["ranks of the replica"]),
        (f"--mem-fraction-static {_number(placement.gpu_fraction)}", ["share of each GPU for weights and KV only"]),
        (f"--kv-cache-dtype {TARGETS['sglang'].dtypes[placement.kv_dtype]}", ["KV dtype"]),
    ]
    if placement.block_tokens:
        arguments.append((f"--page-size {placement.block_tokens}", ["tokens of a page, on the GPU and below it"]))
    if placement.cpu_bytes:
        arguments += _hicache(placement)
    before: list[Line] = []
    if placement.disk_bytes:
        per_rank = placement.disk_bytes // placement.tp
        total = _size("sglang", placement.disk_bytes, placement.tp)[1]
        place = shlex.quote(placement.disk_path)
        arguments.append(("--hicache-storage-backend file", ["disk tier"]))
        before.append((f"export SGLANG_HICACHE_FILE_BACKEND_STORAGE_DIR={place}", ["where the disk tier lives"]))
        before.append((f"export SGLANG_HICACHE_FILE_BACKEND_MAX_SIZE={per_rank}", [f"in bytes in each rank: {total}"]))
    command = f"python -m sglang.launch_server --model-path {shlex.quote(placement.model)}"
    return [_shell("sglang", command, arguments, before)], []


def _hicache(placement: Placement) -> list[Line]:
    """SGLang takes whole GB per rank: the size is rounded down."""
    if placement.store == "selective" and placement.store_after_lookups != 2:
        raise refuse("sglang", f"store from lookup {placement.store_after_lookups} on", "its selective rule is the second")
    engine = TARGETS["sglang"]
    size = int(engine.unit.number(placement.cpu_bytes, placement.tp))
    if size < 1:
        raise refuse("sglang", "use a host tier below 1 GB per rank", "--hicache-size takes whole GB per rank")
    total = _size("sglang", placement.cpu_bytes, placement.tp)[1]
    arguments: list[Line] = [
        ("--enable-hierarchical-cache", ["CPU tier on"]),
        (f"--hicache-size {size}", [f"in each rank, in whole GB of 10^9 bytes: {total}"]),
        (f"--hicache-write-policy {engine.stores[placement.store]}", ["when a page is stored below the GPU"]),
    ]
    if placement.policy != "lru":
        arguments.append((f"--radix-eviction-policy {engine.policies[placement.policy]}", ["eviction"]))
    return arguments


def _trtllm(placement: Placement) -> Written:
    number, total = _size("trtllm", placement.cpu_bytes, placement.tp)
    lines: list[Line] = [
        (f"tensor_parallel_size: {placement.tp}", ["ranks of the replica"]),
        ("kv_cache_config:", []),
        ("  enable_block_reuse: true", ["prefix cache"]),
        (f"  free_gpu_memory_fraction: {_number(placement.gpu_fraction)}", ["share of what the weights leave free"]),
        (f"  dtype: {TARGETS['trtllm'].dtypes[placement.kv_dtype]}", ["KV dtype"]),
        (f"  host_cache_size: {int(float(number))}", [f"CPU tier in bytes in each rank: {total}"]),
    ]
    if placement.block_tokens:
        lines.append((f"  tokens_per_block: {placement.block_tokens}", ["tokens of a block"]))
    arguments: list[Line] = [("--config trtllm.yaml", ["the settings of the other file"])]
    script = _shell("trtllm", f"trtllm-serve {shlex.quote(placement.model)}", arguments, [])
    return [_yaml("trtllm", "trtllm.yaml", lines), script], []


def _dynamo(placement: Placement) -> Written:
    before: list[Line] = []
    notices = []
    if placement.cpu_bytes:
        number, total = _size("dynamo", placement.cpu_bytes, placement.tp)
        before.append((f"export DYN_KVBM_CPU_CACHE_GB={number}", [f"CPU tier in GB of 10^9 bytes: {total}"]))
    if placement.disk_bytes:
        number, total = _size("dynamo", placement.disk_bytes, placement.tp)
        before.append((f"export DYN_KVBM_DISK_CACHE_GB={number}", [f"disk tier in GB of 10^9 bytes: {total}"]))
        before.append((f"export DYN_KVBM_DISK_CACHE_DIR={shlex.quote(placement.disk_path)}", ["where the disk tier lives"]))
        before.append(("export DYN_KVBM_DISABLE_DISK_OFFLOAD_FILTER=true", ["store every block, not only those seen twice"]))
        if not placement.cpu_bytes:
            sentence = "KVBM calls a disk tier without a CPU tier experimental."
            notices.append(Notice(code="disk_without_cpu", sentence=sentence, hint="add a CPU tier larger than the GPU's KV"))
    arguments = _vllm_arguments(placement)
    if placement.offloads:
        module = "kvbm.vllm_integration.connector"
        config = {"kv_connector": "DynamoConnector", "kv_role": "kv_both", "kv_connector_module_path": module}
        connector = _connector(config)
        arguments.append((connector, ["vLLM hands its KV to KVBM"]))
    return [_shell("dynamo", f"vllm serve {shlex.quote(placement.model)}", arguments, before)], notices


EMITTERS: dict[str, Callable[[Placement], Written]] = {
    "vllm": _vllm,
    "lmcache": _lmcache,
    "sglang": _sglang,
    "trtllm": _trtllm,
    "dynamo": _dynamo,
}
"""Target -> what writes its configuration. Each has an entry in TARGETS."""
