"""LMCache as a server on each node (multi-process mode): its command and vLLM's."""

from __future__ import annotations

import json

from kvplan.deploy.command_line import command_line
from kvplan.deploy.dialect import VLLM_DTYPES, Dialect, SizeUnit
from kvplan.deploy.dialects.vllm import HASH_SEED, arguments_of, serve
from kvplan.deploy.options import unknown_options
from kvplan.deploy.reading import Reading, transfer_config
from kvplan.deploy.serving import Serving
from kvplan.deploy.write import Line, Written, connector, shell
from kvplan.results.placement import Notice, Placement
from kvplan.units import GiB, format_bytes

CHUNK_TOKENS = 256

CONNECTOR = {"kv_connector": "LMCacheMPConnector", "kv_role": "kv_both"}

DIALECT = Dialect(
    title="LMCache server",
    unit=SizeUnit(word="GB", scale_bytes=GiB, per_rank=False, source="--l1-size-gb x 2^30, one pool for all engines of a node"),
    dtypes=VLLM_DTYPES,
    stores={"write_through": ""},
    policies={"lru": "LRU"},
)


def write(serving: Serving) -> Written:
    placement, arguments = serving.placement, arguments_of(serving)
    if not placement.offloads:
        return [shell(DIALECT, serving.version, serve(placement), arguments, [])], []
    number, total = DIALECT.size(placement.cpu_bytes, placement.ranks)
    chunk = placement.chunk_tokens or CHUNK_TOKENS
    server: list[Line] = [
        (f"--l1-size-gb {number}", [f"one pool for all engines of the node, in GB of 2^30 bytes: {total}"]),
        (f"--chunk-size {chunk}", ["tokens stored and looked up together"]),
        (f"--eviction-policy {DIALECT.policies[placement.policy]}", ["at 0.8 full it drops 0.2 of the pool"]),
    ]
    if placement.disk_bytes:
        disk = json.dumps({"type": "fs", "base_path": placement.disk_path})
        server.append((f"--l2-adapter '{disk}'", [f"disk tier, {format_bytes(placement.disk_bytes)} decided, not enforced"]))
    arguments.append((connector(CONNECTOR), ["vLLM hands its KV to the server"]))
    parts = [
        shell(DIALECT, serving.version, "lmcache server", server, [HASH_SEED], "lmcache-server.sh"),
        shell(DIALECT, serving.version, serve(placement), arguments, [HASH_SEED]),
    ]
    return parts, notices_of(placement)


def notices_of(placement: Placement) -> list[Notice]:
    found = []
    if placement.cpu_bytes:
        sentence = "LMCache's server drops a fifth of its pool whenever it is 0.8 full: on average 0.6 to 0.8 of the size holds KV."
        found.append(Notice(code="usable_share", level="note", sentence=sentence))
    if placement.disk_bytes:
        sentence = f"LMCache's server does not bound its file tier: {placement.disk_path} grows past {format_bytes(placement.disk_bytes)}."
        found.append(Notice(code="disk_unbounded", sentence=sentence, hint="put it on a volume of that size"))
    return found


def read(reading: Reading) -> None:
    flags = reading.config.flags
    command_line(reading)
    mine = [flag for flag in flags if flag.startswith(("--l1-", "--l2-", "--eviction-", "--chunk-"))]
    for flag in unknown_options(mine, "lmcache-server"):
        reading.fault("unknown_option", f"{flag} is not an option of LMCache's server: it refuses to start.", key=flag)
    if flags.get("--kv-offloading-backend") == "lmcache" and "--kv-offloading-size" in flags:
        sentence = "--kv-offloading-backend lmcache selects LMCache's server and ignores --kv-offloading-size."
        hint = "give the size to the server: lmcache server --l1-size-gb"
        reading.fault("size_ignored", sentence, key="--kv-offloading-size", hint=hint)
    if "--l1-size-gb" in flags:
        reading.tier("cpu", "--l1-size-gb", flags["--l1-size-gb"])
    elif transfer_config(reading.config):
        sentence = "The size of the pool is the server's --l1-size-gb, which is not in this file."
        reading.fault("elsewhere", sentence, hint="explain the server's command", level="note")
    chunk = flags.get("--chunk-size", str(CHUNK_TOKENS))
    reading.tokens("chunk_tokens", "--chunk-size", chunk, f"chunks of {chunk} tokens; a part of a chunk is not stored")
    reading.fields["store_generated"] = False
    adapter = flags.get("--l2-adapter", "")
    if adapter:
        try:
            disk = json.loads(adapter)
        except json.JSONDecodeError:
            disk = None
        if not isinstance(disk, dict):
            reading.fault("not_json", "The value of --l2-adapter is not a JSON object.", key="--l2-adapter")
        elif disk.get("type") == "fs":
            reading.fields["disk_path"] = str(disk.get("base_path", ""))
            reading.mean("--l2-adapter", disk["type"], f"disk tier in {reading.fields['disk_path']}, without a bound")
