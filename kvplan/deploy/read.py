"""How each engine's configuration is read: one function an engine, which fills a Reading."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from kvplan.deploy.dialects import TARGETS
from kvplan.deploy.reading import Reading, transfer_config
from kvplan.errors import InputError
from kvplan.units import parse_bytes


def _command_line(reading: Reading) -> None:
    """What a command line says whatever moves the KV: model, ranks, share of the GPU, dtype, block, prefix caching."""
    flags, words = reading.config.flags, reading.config.words
    for word, following in itertools.pairwise(words):
        if word in ("serve", "trtllm-serve"):
            reading.fields["model"] = following
    for name in ("--model", "--model-path"):
        reading.fields["model"] = flags.get(name) or reading.fields["model"]
    for name in ("--tensor-parallel-size", "-tp", "--tp", "--tp-size"):
        if name in flags:
            reading.ranks(name, flags[name])
    for name in ("--gpu-memory-utilization", "--mem-fraction-static"):
        if name in flags and (share := reading.number(name, flags[name])) is not None:
            reading.fields["gpu_fraction"] = share
            reading.mean(name, flags[name], f"{share:.0%} of each GPU's memory for the engine")
    if "--kv-cache-dtype" in flags:
        reading.dtype("--kv-cache-dtype", flags["--kv-cache-dtype"])
    for name in ("--block-size", "--page-size"):
        if name in flags:
            reading.tokens("block_tokens", name, flags[name], f"blocks of {flags[name]} tokens")
    for name in ("--no-enable-prefix-caching", "--disable-radix-cache"):
        if name in flags:
            sentence = f"{name} turns the prefix cache off: nothing that is offloaded is found again."
            reading.fault("no_prefix_cache", sentence, key=name)


def _vllm(reading: Reading) -> None:
    flags = reading.config.flags
    _command_line(reading)
    reading.unknown([name for name in flags if name.startswith("--kv-")], "flags")
    connector = transfer_config(reading.config)
    if "--kv-transfer-config" in flags and not connector:
        reading.fault("not_json", "The value of --kv-transfer-config is not a JSON object.", key="--kv-transfer-config")
    if "--kv-offloading-size" in flags:
        reading.tier("cpu", "--kv-offloading-size", flags["--kv-offloading-size"])
        reading.fields["store_generated"] = False
        reading.mean("(default)", "", "full prompt blocks are stored as they fill; generated tokens are not; LRU")
        if connector:
            sentence = "--kv-offloading-size and --kv-transfer-config both choose a connector."
            reading.fault("two_connectors", sentence, hint="keep one of them", level="warning")
    elif flags.get("--kv-offloading-backend"):
        sentence = "--kv-offloading-backend has no effect without --kv-offloading-size."
        reading.fault("no_effect", sentence, key="--kv-offloading-backend", level="warning")
    if connector:
        _vllm_connector(reading, connector)


def _vllm_connector(reading: Reading, connector: dict[str, Any]) -> None:
    reading.unknown(connector, "connector")
    name = connector.get("kv_connector", "")
    if name != "OffloadingConnector":
        sentence = f"The connector {name!r} is not one that kvplan can explain."
        reading.fault("unknown_connector", sentence, key="kv_connector", hint="OffloadingConnector is vLLM's own", level="warning")
        return
    if connector.get("kv_role") != "kv_both":
        reading.fault("role", 'OffloadingConnector needs "kv_role": "kv_both".', key="kv_role")
    extra = reading.mapping("kv_connector_extra_config", connector)
    reading.unknown(extra, "extra")
    if "cpu_bytes_to_use" in extra:
        reading.tier("cpu", "cpu_bytes_to_use", extra["cpu_bytes_to_use"], scale_bytes=1)
    else:
        reading.fault("no_size", "cpu_bytes_to_use is missing: vLLM refuses to start.", key="cpu_bytes_to_use")
    if "eviction_policy" in extra:
        reading.fields["policy"] = str(extra["eviction_policy"])
        reading.mean("eviction_policy", extra["eviction_policy"], f"CPU tier evicts by {extra['eviction_policy']}")
    stored = extra.get("offload_prompt_only", True) is not True
    reading.fields["store_generated"] = stored
    reading.mean("offload_prompt_only", not stored, f"generated tokens are {'' if stored else 'not '}stored")
    if "block_size" in extra:
        reading.tokens("chunk_tokens", "block_size", extra["block_size"], f"chunks of {extra['block_size']} tokens below the GPU")
        if "blocks_per_chunk" in extra:
            reading.fault("exclusive", "block_size and blocks_per_chunk exclude each other.", key="blocks_per_chunk")
    _vllm_lower_tiers(reading, extra)


def _vllm_lower_tiers(reading: Reading, extra: dict[str, Any]) -> None:
    tiering = extra.get("spec_name") == "TieringOffloadingSpec"
    threshold = int(reading.number("store_threshold", extra.get("store_threshold", 0)) or 0)
    if threshold >= 2:
        reading.fields.update(store="selective", store_after_lookups=threshold)
        reading.mean("store_threshold", threshold, f"a block is stored from its lookup {threshold} on")
        if tiering:
            sentence = "TieringOffloadingSpec rejects a store_threshold of 2 or more."
            reading.fault("threshold_with_tiers", sentence, key="store_threshold", hint="drop it, or the lower tiers")
    tiers = extra.get("secondary_tiers", [])
    if tiers and not tiering:
        sentence = 'secondary_tiers has no effect without "spec_name": "TieringOffloadingSpec".'
        reading.fault("no_effect", sentence, key="secondary_tiers")
    for tier in tiers if isinstance(tiers, list) else []:
        kind = tier.get("type") if isinstance(tier, dict) else None
        if kind == "fs":
            path = str(tier.get("root_dir", ""))
            reading.fields["disk_path"] = path
            reading.mean("secondary_tiers", path, f"disk tier in {path}, without a bound")
            sentence = f"vLLM does not bound the disk tier in {path}: it grows until the disk is full."
            hint = "put it on a volume of its size"
            reading.fault("disk_unbounded", sentence, key="secondary_tiers", hint=hint, level="warning")
        elif kind in ("obj", "p2p"):
            reading.mean("secondary_tiers", kind, "remote tier")
        else:
            reading.fault("unknown_tier", f"{kind!r} is not a tier: fs, obj and p2p are.", key="secondary_tiers")


def _lmcache(reading: Reading) -> None:
    _command_line(reading)
    document, environment = reading.config.document, reading.config.environment
    settings = {name[8:].lower(): value for name, value in environment.items() if name.startswith("LMCACHE_")}
    file = settings.pop("config_file", "")
    if document and settings:
        sentence = f"LMCache reads its file and ignores {', '.join(sorted('LMCACHE_' + key.upper() for key in settings))}."
        reading.fault("ignored", sentence, hint="write them into the file", level="warning")
    elif file and not document:
        reading.fault("elsewhere", f"The settings are in {file}, which was not given.", hint=f"explain {file}", level="note")
    settings = dict(document) or settings
    reading.unknown(settings, "file", level="warning")
    if not (reading.tp_given or {"--tensor-parallel-size", "-tp"} & set(reading.config.flags)):
        sentence = "The file does not say how many ranks there are; one is assumed, and sizes are per worker."
        reading.fault("tp_unknown", sentence, hint="give the tensor-parallel size beside the file", level="note")
    size = settings.get("max_local_cpu_size", 5.0)
    reading.tier("cpu", "max_local_cpu_size", size)
    if not reading.fields.get("cpu_bytes"):
        sentence = "LMCache moves all KV through its CPU buffer: max_local_cpu_size must be above 0."
        reading.fault("no_cpu_buffer", sentence, key="max_local_cpu_size")
    _lmcache_lower_tiers(reading, settings)
    _lmcache_rules(reading, settings)


def _lmcache_lower_tiers(reading: Reading, settings: dict[str, Any]) -> None:
    disk, size = settings.get("local_disk"), settings.get("max_local_disk_size", 0)
    if disk:
        reading.fields["disk_path"] = str(disk).removeprefix("file://")
        reading.tier("disk", "max_local_disk_size", size, where=str(disk))
        if not str(disk).startswith("file://"):
            reading.fault("path_form", f"local_disk = {disk} is not of the form file:///path.", key="local_disk")
        if not reading.fields.get("disk_bytes"):
            sentence = "The disk tier has no size: max_local_disk_size is 0 unless it is set."
            reading.fault("no_size", sentence, key="max_local_disk_size")
    elif size:
        reading.fault("no_effect", "max_local_disk_size has no effect without local_disk.", key="max_local_disk_size")
    if settings.get("remote_url"):
        reading.fields["remote_url"] = str(settings["remote_url"])
        reading.mean("remote_url", settings["remote_url"], "remote tier")


def _lmcache_rules(reading: Reading, settings: dict[str, Any]) -> None:
    chunk = settings.get("chunk_size", 256)
    reading.tokens("chunk_tokens", "chunk_size", chunk, f"chunks of {chunk} tokens; a part of a chunk is not stored")
    stored = str(settings.get("save_decode_cache", False)).lower() == "true"
    reading.fields["store_generated"] = stored
    reading.mean(
        "save_decode_cache",
        settings.get("save_decode_cache", False),
        f"generated tokens are {'' if stored else 'not '}stored",
    )
    policy = str(settings.get("cache_policy", "LRU"))
    known = {theirs: ours for ours, theirs in TARGETS["lmcache"].policies.items()}
    if policy.upper() not in known:
        reading.fault("policy", f"cache_policy = {policy}: LMCache offers {', '.join(known)}.", key="cache_policy")
    reading.fields["policy"] = policy.lower()
    if settings.get("min_retrieve_tokens"):
        least = settings["min_retrieve_tokens"]
        reading.tokens("load_min_tokens", "min_retrieve_tokens", least, f"hits under {least} tokens are computed again")


def _sglang(reading: Reading) -> None:
    flags, environment = reading.config.flags, reading.config.environment
    _command_line(reading)
    named = [name for name in flags if name.startswith("--hicache") or "hierarchical" in name]
    reading.unknown(named, "flags")
    if named and "--enable-hierarchical-cache" not in flags:
        sentence = "--hicache- flags have no effect without --enable-hierarchical-cache."
        reading.fault("no_effect", sentence, key="--enable-hierarchical-cache")
    if "--enable-hierarchical-cache" in flags:
        _hicache_size(reading, flags)
        words = {theirs: ours for ours, theirs in TARGETS["sglang"].stores.items()}
        rule = flags.get("--hicache-write-policy", "write_through")
        if rule in words:
            reading.fields["store"] = words[rule]
            reading.mean("--hicache-write-policy", rule, f"pages are stored by the rule {words[rule]}")
        else:
            sentence = f"--hicache-write-policy {rule}: SGLang offers {', '.join(words)}."
            reading.fault("policy", sentence, key="--hicache-write-policy")
    if flags.get("--hicache-mem-layout") == "page_first" and flags.get("--hicache-io-backend") == "direct":
        sentence = "page_first works with the kernel backend only; with direct SGLang falls back to layer_first."
        reading.fault("layout", sentence, key="--hicache-mem-layout", hint="page_first_direct", level="warning")
    backend = flags.get("--hicache-storage-backend", "")
    if backend == "file":
        path = environment.get("SGLANG_HICACHE_FILE_BACKEND_STORAGE_DIR", "")
        reading.fields["disk_path"] = path
        key = "SGLANG_HICACHE_FILE_BACKEND_MAX_SIZE"
        if size := _suffixed_bytes(environment.get(key, "0")):
            reading.tier("disk", key, size, where=path, scale_bytes=1)
        else:
            reading.mean("--hicache-storage-backend", backend, f"disk tier in {path or 'the default directory'}")
            sentence = f"The disk tier in {path or 'the default directory'} has no bound in bytes."
            hint = "set SGLANG_HICACHE_FILE_BACKEND_MAX_SIZE, per rank"
            reading.fault("disk_unbounded", sentence, key="--hicache-storage-backend", hint=hint, level="warning")
    elif backend:
        reading.mean("--hicache-storage-backend", backend, f"lower tier kept by {backend}")


def _suffixed_bytes(text: str) -> int:
    """Bytes from SGLang's `64Gi`, `200G` or a plain number; 0 when it is none of them."""
    try:
        return parse_bytes(text + "B" if text[-1:].isalpha() and not text.endswith("B") else text)
    except InputError:
        return 0


def _hicache_size(reading: Reading, flags: dict[str, str]) -> None:
    """A size in GB per rank counts when it is above 0; a multiple of the GPU's pool otherwise."""
    size = reading.number("--hicache-size", flags.get("--hicache-size", 0)) or 0
    if size:
        reading.tier("cpu", "--hicache-size", flags["--hicache-size"])
        if "--hicache-ratio" in flags:
            reading.fault("no_effect", "--hicache-size counts; --hicache-ratio is ignored.", key="--hicache-ratio", level="note")
        return
    text = flags.get("--hicache-ratio", 2.0)
    ratio = reading.number("--hicache-ratio", text)
    if ratio is None:
        return
    if ratio <= 1:
        sentence = f"--hicache-ratio {text} is not above 1: the host tier would hold no more than the GPU's pool."
        reading.fault("ratio", sentence, key="--hicache-ratio", hint="2 or more")
    if reading.pool_bytes:
        reading.tier_of("cpu", "--hicache-ratio", text, round(ratio * reading.pool_bytes))
    else:
        reading.mean("--hicache-ratio", text, f"CPU tier of {text} times the GPU's KV pool, in each rank")


def _trtllm(reading: Reading) -> None:
    _command_line(reading)
    document = reading.config.document
    if "tensor_parallel_size" in document:
        reading.ranks("tensor_parallel_size", document["tensor_parallel_size"])
    cache = reading.mapping("kv_cache_config", document)
    reading.unknown(cache, "kv_cache_config")
    reading.fields["store"] = "on_evict"
    if "free_gpu_memory_fraction" in cache:
        share = reading.number("free_gpu_memory_fraction", cache["free_gpu_memory_fraction"])
        if share is not None:
            reading.fields["gpu_fraction"] = share
            reading.mean("free_gpu_memory_fraction", share, f"{share:.0%} of what the weights leave free on each GPU is for KV")
    if "dtype" in cache:
        reading.dtype("dtype", str(cache["dtype"]))
    if "tokens_per_block" in cache:
        tokens = cache["tokens_per_block"]
        reading.tokens("block_tokens", "tokens_per_block", tokens, f"blocks of {tokens} tokens")
    if "host_cache_size" in cache:
        reading.tier("cpu", "host_cache_size", cache["host_cache_size"])
        reading.mean("(always)", "", "a block is copied to the host when it is evicted from the GPU, and back before reuse")
        if cache.get("enable_block_reuse", True) is False and reading.fields.get("cpu_bytes"):
            sentence = "enable_block_reuse: false turns reuse off: nothing that is offloaded is found again."
            reading.fault("no_prefix_cache", sentence, key="enable_block_reuse")


def _dynamo(reading: Reading) -> None:
    _command_line(reading)
    environment = reading.config.environment
    reading.unknown([name for name in environment if name.startswith("DYN_KVBM")], "variables", level="warning")
    if "DYN_KVBM_CPU_CACHE_GB" in environment:
        reading.tier("cpu", "DYN_KVBM_CPU_CACHE_GB", environment["DYN_KVBM_CPU_CACHE_GB"])
    if "DYN_KVBM_DISK_CACHE_GB" in environment:
        path = environment.get("DYN_KVBM_DISK_CACHE_DIR", "")
        reading.fields["disk_path"] = path
        reading.tier("disk", "DYN_KVBM_DISK_CACHE_GB", environment["DYN_KVBM_DISK_CACHE_GB"], where=path)
        filtered = environment.get("DYN_KVBM_DISABLE_DISK_OFFLOAD_FILTER", "").lower() != "true"
        rule = "only blocks seen at least twice reach the disk" if filtered else "every block reaches the disk"
        reading.mean("DYN_KVBM_DISABLE_DISK_OFFLOAD_FILTER", not filtered, rule)
    for tier in ("CPU", "DISK"):
        key = f"DYN_KVBM_{tier}_CACHE_OVERRIDE_NUM_BLOCKS"
        if key in environment:
            reading.mean(key, environment[key], f"{tier} tier of {environment[key]} blocks, whatever its GB")
    if not any(name.endswith(("_CACHE_GB", "_NUM_BLOCKS")) for name in environment):
        reading.fault("no_size", "Neither a CPU nor a disk tier is given: KVBM refuses to start.", hint="DYN_KVBM_CPU_CACHE_GB")
    cache = reading.mapping("kv_cache_config", reading.config.document)
    if cache and cache.get("enable_partial_reuse", True) is not False:
        sentence = "With KVBM under TensorRT-LLM partial reuse lowers the hits from its tiers."
        reading.fault("partial_reuse", sentence, key="enable_partial_reuse", hint="enable_partial_reuse: false", level="warning")


READERS: dict[str, Callable[[Reading], None]] = {
    "vllm": _vllm,
    "lmcache": _lmcache,
    "sglang": _sglang,
    "trtllm": _trtllm,
    "dynamo": _dynamo,
}
"""Engine -> what reads its configuration. Each has an entry in TARGETS."""
