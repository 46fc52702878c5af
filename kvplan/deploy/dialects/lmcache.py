"""LMCache as vLLM's connector: its file and vLLM's command."""

from __future__ import annotations

import json
from typing import Any

from kvplan.deploy.command_line import command_line
from kvplan.deploy.dialect import VLLM_DTYPES, Dialect, SizeUnit
from kvplan.deploy.dialects.vllm import HASH_SEED, arguments_of, serve
from kvplan.deploy.reading import Reading
from kvplan.deploy.serving import Serving
from kvplan.deploy.write import Line, Written, connector, shell, yaml
from kvplan.units import GiB

DIALECT = Dialect(
    title="LMCache",
    unit=SizeUnit(word="GB", scale_bytes=GiB, per_rank=True, source="max_local_cpu_size x 1024^3, allocated by each worker"),
    dtypes=VLLM_DTYPES,
    stores={"write_through": ""},
    policies={"lru": "LRU", "lfu": "LFU", "fifo": "FIFO", "mru": "MRU"},
)


def write(serving: Serving) -> Written:
    placement = serving.placement
    policy = json.dumps(DIALECT.policies[placement.policy])
    generated = "stored" if placement.store_generated else "not stored"
    number, total = DIALECT.size(placement.cpu_bytes, placement.ranks)
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
        number, total = DIALECT.size(placement.disk_bytes, placement.ranks)
        lines.append((f"local_disk: {json.dumps('file://' + placement.disk_path)}", ["disk tier"]))
        lines.append((f"max_local_disk_size: {number}", [f"in each worker, in GB of 2^30 bytes: {total}"]))
    if placement.remote_url:
        lines.append((f"remote_url: {json.dumps(placement.remote_url)}", ["remote tier"]))
        lines.append(('remote_serde: "naive"', ["KV as it is, not compressed"]))
    arguments = arguments_of(serving)
    before: list[Line] = []
    if placement.offloads:
        handed = connector({"kv_connector": "LMCacheConnectorV1", "kv_role": "kv_both"})
        arguments.append((handed, ["vLLM hands its KV to LMCache"]))
        before.append(("export LMCACHE_CONFIG_FILE=lmcache.yaml", ["while set, other LMCACHE_ variables are ignored"]))
        before.append(HASH_SEED)
    script = shell(DIALECT, serving.version, serve(placement), arguments, before)
    return ([yaml(DIALECT, serving.version, "lmcache.yaml", lines)] if placement.offloads else []) + [script], []


def read(reading: Reading) -> None:
    command_line(reading)
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
    _lower_tiers(reading, settings)
    _rules(reading, settings)


def _lower_tiers(reading: Reading, settings: dict[str, Any]) -> None:
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


def _rules(reading: Reading, settings: dict[str, Any]) -> None:
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
    known = {theirs: ours for ours, theirs in DIALECT.policies.items()}
    if policy.upper() not in known:
        reading.fault("policy", f"cache_policy = {policy}: LMCache offers {', '.join(known)}.", key="cache_policy")
    reading.fields["policy"] = policy.lower()
    if settings.get("min_retrieve_tokens"):
        least = settings["min_retrieve_tokens"]
        reading.tokens("load_min_tokens", "min_retrieve_tokens", least, f"hits under {least} tokens are computed again")
