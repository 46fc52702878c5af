"""Dynamo KVBM as vLLM's connector."""

from __future__ import annotations

import shlex

from kvplan.deploy.command_line import command_line
from kvplan.deploy.dialect import VLLM_DTYPES, Dialect, SizeUnit
from kvplan.deploy.dialects.vllm import arguments_of, serve
from kvplan.deploy.reading import Reading
from kvplan.deploy.serving import Serving
from kvplan.deploy.write import Line, Written, connector, shell
from kvplan.results.placement import Notice, Placement

DIALECT = Dialect(
    title="Dynamo KVBM",
    unit=SizeUnit(
        word="GB",
        scale_bytes=10**9,
        per_rank=False,
        source="size x 1e9 over the bytes of a block, which its leader sums over all workers",
    ),
    dtypes=VLLM_DTYPES,
    stores={"write_through": ""},
    policies={"lru": ""},
)


def write(serving: Serving) -> Written:
    placement, arguments = serving.placement, arguments_of(serving)
    if placement.offloads:
        arguments.append((connector(CONNECTOR), ["vLLM hands its KV to KVBM"]))
    before: list[Line] = [(f"export {name}={shlex.quote(value)}", [why]) for name, value, why in variables(serving)]
    return [shell(DIALECT, serving.version, serve(placement), arguments, before)], notices_of(placement)


CONNECTOR = {"kv_connector": "DynamoConnector", "kv_role": "kv_both", "kv_connector_module_path": "kvbm.vllm_integration.connector"}


def variables(serving: Serving) -> list[tuple[str, str, str]]:
    """Names, values and meanings of KVBM's environment."""
    placement, found = serving.placement, []
    if placement.cpu_bytes:
        number, total = DIALECT.size(placement.cpu_bytes, placement.ranks)
        found.append(("DYN_KVBM_CPU_CACHE_GB", number, f"CPU tier in GB of 10^9 bytes: {total}"))
    if placement.disk_bytes:
        number, total = DIALECT.size(placement.disk_bytes, placement.ranks)
        found.append(("DYN_KVBM_DISK_CACHE_GB", number, f"disk tier in GB of 10^9 bytes: {total}"))
        found.append(("DYN_KVBM_DISK_CACHE_DIR", placement.disk_path, "where the disk tier lives"))
        if placement.lower_store == "write_through":
            found.append(("DYN_KVBM_DISABLE_DISK_OFFLOAD_FILTER", "true", "every block reaches the disk, not only those stored twice"))
    return found


def notices_of(placement: Placement) -> list[Notice]:
    if not placement.disk_bytes or placement.cpu_bytes:
        return []
    sentence = "KVBM calls a disk tier without a CPU tier experimental."
    return [Notice(code="disk_without_cpu", sentence=sentence, hint="add a CPU tier larger than the GPU's KV")]


def read(reading: Reading) -> None:
    command_line(reading)
    environment = reading.config.environment
    if "kv_connector_config" not in reading.config.document:  # TensorRT-LLM hands its generated tokens over as well
        reading.fields["store_generated"] = False
        reading.mean("(always)", "", "prompt blocks are stored as they fill; vLLM does not hand generated tokens over")
    reading.unknown([name for name in environment if name.startswith("DYN_KVBM")], "variables", level="warning")
    if "DYN_KVBM_CPU_CACHE_GB" in environment:
        reading.tier("cpu", "DYN_KVBM_CPU_CACHE_GB", environment["DYN_KVBM_CPU_CACHE_GB"])
    if "DYN_KVBM_DISK_CACHE_GB" in environment:
        path = environment.get("DYN_KVBM_DISK_CACHE_DIR", "")
        reading.fields["disk_path"] = path
        reading.tier("disk", "DYN_KVBM_DISK_CACHE_GB", environment["DYN_KVBM_DISK_CACHE_GB"], where=path)
        filtered = environment.get("DYN_KVBM_DISABLE_DISK_OFFLOAD_FILTER", "").lower() != "true"
        rule = "only blocks stored at least twice reach the disk" if filtered else "every block reaches the disk"
        if not filtered:
            sentence = "With the disk filter off every block is written to disk, also those that nobody asks for again: it wears the drive."
            reading.fault("filter_off", sentence, key="DYN_KVBM_DISABLE_DISK_OFFLOAD_FILTER", level="note")
        reading.fields["lower_store"] = "selective" if filtered else "write_through"
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
