"""vLLM with its own offloading connector: its words, how a placement is written and how it is read."""

from __future__ import annotations

import shlex
from typing import Any

from kvplan.deploy.command_line import command_line
from kvplan.deploy.dialect import VLLM_DTYPES, Dialect, SizeUnit, plain_number
from kvplan.deploy.reading import Reading, transfer_config
from kvplan.deploy.write import Line, Written, connector, shell
from kvplan.results.placement import Notice, Placement
from kvplan.units import GiB, format_bytes

DIALECT = Dialect(
    title="vLLM",
    version="0.24",
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


def write(placement: Placement) -> Written:
    arguments, notices = arguments_of(placement), []
    if placement.cpu_bytes:
        arguments += _offload(placement)
    if placement.disk_bytes:
        sentence = (
            f"vLLM does not bound its disk tier: {placement.disk_path} grows past {format_bytes(placement.disk_bytes)} "
            "unless the file system stops it."
        )
        notices.append(Notice(code="disk_unbounded", sentence=sentence, hint="put it on a volume of that size"))
    return [shell(DIALECT, f"vllm serve {shlex.quote(placement.model)}", arguments, [])], notices


def arguments_of(placement: Placement) -> list[Line]:
    """What vLLM is given whatever moves its KV."""
    arguments: list[Line] = [
        (f"--tensor-parallel-size {placement.tp}", ["ranks of the replica"]),
        (
            f"--gpu-memory-utilization {plain_number(placement.gpu_fraction)}",
            ["share of each GPU for weights, activations, KV"],
        ),
        (f"--kv-cache-dtype {DIALECT.dtypes[placement.kv_dtype]}", ["KV dtype"]),
    ]
    if placement.block_tokens:
        arguments.append((f"--block-size {placement.block_tokens}", ["tokens of a GPU block"]))
    return arguments


def _offload(placement: Placement) -> list[Line]:
    """The short flag when it says everything, the connector's JSON otherwise."""
    selective = placement.store == "selective"
    own_chunk = placement.chunk_tokens not in (0, placement.block_tokens)
    number, total = DIALECT.size(placement.cpu_bytes, placement.tp)
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
    return [(connector(config), [f"{key}: {why}" for key, _, why in settings])]


def read(reading: Reading) -> None:
    flags = reading.config.flags
    command_line(reading)
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
        _connector(reading, connector)


def _connector(reading: Reading, connector: dict[str, Any]) -> None:
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
        elif kind in ("obj", "p2p"):
            reading.mean("secondary_tiers", kind, "remote tier")
        else:
            reading.fault("unknown_tier", f"{kind!r} is not a tier: fs, obj and p2p are.", key="secondary_tiers")
