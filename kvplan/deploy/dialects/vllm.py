"""vLLM with its own offloading connector: its words, how a placement is written and how it is read."""

from __future__ import annotations

import shlex
from typing import Any

from kvplan.deploy.command_line import command_line
from kvplan.deploy.dialect import VLLM_DTYPES, Dialect, SizeUnit, plain_number
from kvplan.deploy.reading import Reading, settings_of, transfer_config
from kvplan.deploy.serving import Serving
from kvplan.deploy.write import Line, Written, connector, shell
from kvplan.engine.spec import HostPool
from kvplan.results.placement import Notice, Placement
from kvplan.units import GiB, format_bytes

DIALECT = Dialect(
    title="vLLM",
    unit=SizeUnit(
        word="GiB",
        scale_bytes=GiB,
        per_rank=False,
        source="kv_offloading_size x 2^30 = cpu_bytes_to_use, which is shared by all workers (KV offloading guide)",
    ),
    dtypes=VLLM_DTYPES,
    stores={"write_through": "", "selective": "store_threshold"},
    policies={"lru": "lru", "arc": "arc"},
)


def write(serving: Serving) -> Written:
    placement = serving.placement
    arguments, before, notices = arguments_of(serving), [], []
    if placement.cpu_bytes:
        arguments += offload_lines(serving)
    if placement.disk_bytes:
        before.append(HASH_SEED)
        notices.append(unbounded(placement))
    return [shell(DIALECT, serving.version, serve(placement), arguments, before)], notices


HASH_SEED: Line = ("export PYTHONHASHSEED=0", ["the same names for the same content after a restart"])


def serve(placement: Placement) -> str:
    """The command that all of vLLM's arguments follow."""
    return f"vllm serve {shlex.quote(placement.model)}"


def unbounded(placement: Placement) -> Notice:
    """No release of vLLM bounds its file tier."""
    sentence = (
        f"vLLM does not bound its disk tier: {placement.disk_path} grows past {format_bytes(placement.disk_bytes)} "
        "unless the file system stops it."
    )
    return Notice(code="disk_unbounded", sentence=sentence, hint="put it on a volume of that size")


def arguments_of(serving: Serving) -> list[Line]:
    """What vLLM is given whatever moves its KV."""
    placement = serving.placement
    wanted: list[tuple[object, Line]] = [
        (placement.max_context_tokens, (f"--max-model-len {placement.max_context_tokens}", ["tokens of the longest request"])),
        (placement.max_batch, (f"--max-num-seqs {placement.max_batch}", ["sequences at once, as simulated"])),
        (placement.step_tokens, (f"--max-num-batched-tokens {placement.step_tokens}", ["tokens of a step, as simulated"])),
        (True, (f"--tensor-parallel-size {placement.tp}", ["ranks of the replica"])),
        (placement.pp > 1, (f"--pipeline-parallel-size {placement.pp}", ["stages of the replica"])),
        (placement.dp > 1, (f"--data-parallel-size {placement.dp}", ["data-parallel ranks, each with its own pool and tiers"])),
        (placement.ep, ("--enable-expert-parallel", [f"whole experts on {placement.ep} ranks"])),
        (True, (f"--gpu-memory-utilization {plain_number(placement.gpu_fraction)}", [_share(serving)])),
        (
            placement.gpu_kv_bytes,
            (f"--kv-cache-memory-bytes {placement.gpu_kv_bytes // placement.ranks}", [_pool(serving)]),
        ),
        (True, (f"--kv-cache-dtype {DIALECT.dtypes[placement.kv_dtype]}", ["KV dtype"])),
        (placement.block_tokens, (f"--block-size {placement.block_tokens}", ["tokens of a GPU block"])),
    ]
    return [line for condition, line in wanted if condition]


def _share(serving: Serving) -> str:
    if serving.placement.gpu_kv_bytes:
        return "share of each GPU that must be free at the start"
    return "share of each GPU" + (f"; leaves a pool of {serving.pool_tokens:,} tokens" if serving.pool_tokens else "")


def _pool(serving: Serving) -> str:
    return "KV pool of each rank" + (f": {serving.pool_tokens:,} tokens" if serving.pool_tokens else "")


def offload_lines(serving: Serving) -> list[Line]:
    """The short flag when it says everything, the connector's JSON otherwise."""
    placement = serving.placement
    number, total = DIALECT.size(placement.cpu_bytes, placement.ranks)
    settings = connector_settings(serving)
    if {name for name, _, _ in settings} == {"cpu_bytes_to_use", "eviction_policy", "offload_prompt_only"}:
        plain = placement.policy == "lru" and not placement.store_generated
        if plain and float(number) * GiB == placement.cpu_bytes:
            return [
                (f"--kv-offloading-size {number}", [f"CPU tier in GiB: {total}"]),
                ("--kv-offloading-backend native", ["prompt blocks are stored as they fill and evicted LRU"]),
            ]
    return [(connector(connector_config(serving)), [f"{key}: {why}" for key, _, why in settings])]


def connector_config(serving: Serving) -> dict[str, object]:
    """The value of --kv-transfer-config."""
    extra = {key: value for key, value, _ in connector_settings(serving)}
    return {"kv_connector": "OffloadingConnector", "kv_role": "kv_both", "kv_connector_extra_config": extra}


def connector_settings(serving: Serving) -> list[tuple[str, object, str]]:
    """Keys, values and meanings of the connector's extra configuration."""
    placement = serving.placement
    total = DIALECT.size(placement.cpu_bytes, placement.ranks)[1]
    generated = "stored" if placement.store_generated else "not stored"
    settings: list[tuple[str, object, str]] = [
        ("cpu_bytes_to_use", placement.cpu_bytes, f"CPU tier in bytes, {total}"),
        ("eviction_policy", placement.policy, "of the CPU tier"),
        ("offload_prompt_only", not placement.store_generated, f"generated tokens are {generated}"),
    ]
    if placement.chunk_tokens not in (0, placement.block_tokens or serving.block_tokens):
        settings.append(("block_size", placement.chunk_tokens, "tokens of a chunk below the GPU"))
    if placement.store == "selective":
        settings.append(("store_threshold", placement.store_after_lookups, "lookups before a block is stored"))
    if placement.disk_bytes:
        disk = [{"type": "fs", "root_dir": placement.disk_path}]
        settings.append(("spec_name", "TieringOffloadingSpec", "a tier below the CPU"))
        settings.append(("secondary_tiers", disk, f"disk tier, {format_bytes(placement.disk_bytes)} decided, not enforced"))
    return settings


def read(reading: Reading) -> None:
    flags = reading.config.flags
    command_line(reading)
    connector = transfer_config(reading.config)
    if "--kv-transfer-config" in flags and not connector:
        reading.fault("not_json", "The value of --kv-transfer-config is not a JSON object.", key="--kv-transfer-config")
    simple = reading.config.environment.get(SIMPLE_SWITCH, "0") == "1"
    if "--kv-offloading-size" in flags and simple:
        reading.tier("cpu", "--kv-offloading-size", flags["--kv-offloading-size"])
        _simple(reading, {})
    elif "--kv-offloading-size" in flags:
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
        _connector(reading, connector)


def _connector(reading: Reading, connector: dict[str, Any]) -> None:
    reading.unknown(connector, "connector")
    name = connector.get("kv_connector", "")
    if name == "SimpleCPUOffloadConnector":
        _simple(reading, reading.mapping("kv_connector_extra_config", connector))
        return
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
    _lower_tiers(reading, extra)


def _lower_tiers(reading: Reading, extra: dict[str, Any]) -> None:
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
        elif kind in (known := settings_of("vllm", "tiers", reading.version)):
            reading.mean("secondary_tiers", kind, "remote tier")
        else:
            sentence = f"{kind!r} is not a tier of vLLM {reading.version}: {', '.join(known)} are."
            reading.fault("unknown_tier", sentence, key="secondary_tiers")


SIMPLE_SWITCH = "VLLM_USE_SIMPLE_KV_OFFLOAD"

SIMPLE_BYTES = 8 * GiB
"""Of SimpleCPUOffloadConnector over all ranks where no size is given (vLLM, v1/simple_kv_offload)."""


def _simple(reading: Reading, extra: dict[str, Any]) -> None:
    """vLLM's other connector: a second pool of its own blocks, pinned exactly; from 0.33 on a bounded file instead of host memory."""
    reading.unknown(extra, "simple")
    reading.host_pool = HostPool(rounding="exact", shared="never")
    reading.fields["store_generated"] = True
    sentence = "SimpleCPUOffloadConnector is not simulated: figures of kvplan are those of OffloadingConnector."
    reading.fault("not_simulated", sentence, key="kv_connector", level="note")
    if extra.get("kv_offload_backend") == "disk":
        path = str(extra.get("disk_path", ""))
        reading.fields["disk_path"] = path
        reading.tier("disk", "disk_capacity_bytes", extra.get("disk_capacity_bytes", 100 * GiB), where=path, scale_bytes=1)
    elif "cpu_bytes_to_use_per_rank" in extra:
        each = reading.whole("cpu_bytes_to_use_per_rank", extra["cpu_bytes_to_use_per_rank"]) or 0
        reading.tier_of("cpu", "cpu_bytes_to_use_per_rank", each, each * reading.pool_ranks)
    elif "--kv-offloading-size" not in reading.config.flags:
        reading.tier("cpu", "cpu_bytes_to_use", extra.get("cpu_bytes_to_use", SIMPLE_BYTES), scale_bytes=1)
    reading.mean("(always)", "", "full blocks are stored once they are confirmed, generated ones too; LRU")
