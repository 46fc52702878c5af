"""The scenario of a running server: what it told, what the user says, and what is then only assumed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from kvplan import catalog, scenario
from kvplan.defaults import ASSUMPTION, GIVEN
from kvplan.errors import InputError
from kvplan.live.metrics import Served
from kvplan.memory.layout import layout
from kvplan.request import Request
from kvplan.results.validate import Known
from kvplan.scenario import Scenario
from kvplan.traces.write import convert


class Given(msgspec.Struct, frozen=True, kw_only=True):
    """What the user says of the server; empty: nothing."""

    model: str = ""
    machine: str = ""
    engine: str = ""
    gpu_kv: str = ""
    cpu: str = ""
    disk: str = ""
    remote: str = ""
    tp: int = 0
    kv_dtype: str = ""
    sets: tuple[str, ...] = ()
    speedup: float = 0.0
    limit: int = 0
    max_input: int = 0


def scenario_of(source: str, given: Given, served: Served) -> tuple[Scenario, list[Known]]:
    """The scenario that predicts this server, and who said each fact. Flags come before what the server told, that before
    the scenario file and the engine's defaults.

    Raises InputError where model or machine are not known.
    """
    in_file = scenario.is_scenario(source)
    engine = given.engine or (served.engine if served.engine in catalog.names("engines") else "") or ("" if in_file else "vllm")
    model = given.model or ("" if in_file else _model(served))
    told = {
        "block_tokens": served.block_tokens,
        "max_context_tokens": served.context_tokens,
        "step_tokens": served.step_tokens,
        "max_batch": served.max_batch,
    }
    sets = [f"engine.{field}={value}" for field, value in told.items() if value]
    kv_dtype = given.kv_dtype or ("" if served.kv_dtype == "auto" else served.kv_dtype)
    sets += [f"run.{name}={value}" for name, value in (("tp", given.tp or served.tp), ("kv_dtype", kv_dtype)) if value]
    if not served.prefix_caching:
        sets.append("engine.prefix_caching=false")
    run = {
        "speedup": given.speedup or None,
        "limit": given.limit or None,
        "max_input_tokens": given.max_input or None,
    }
    tiers = {name: getattr(given, name) or None for name in ("gpu_kv", "cpu", "disk", "remote")}
    version = re.match(r"v?(\d+(?:\.\d+)*)", served.version)
    found = scenario.load(
        source, model=model or None, machine=given.machine or None, engine=engine or None, tiers=tiers, run=run,
        engine_version=version[1] if version and engine in (served.engine, "") else None,
        sets=[*sets, *given.sets],
    )  # fmt: skip
    found = _with_tiers(over_http(found), given, served)
    return found, _known(found, given, served, in_file)


def over_http(found: Scenario) -> Scenario:
    """The same with requests that come through the engine's HTTP API."""
    return found.changed(engine=msgspec.structs.replace(found.engine, overhead=found.engine.overhead.over_http()))


def _model(served: Served) -> str:
    """The catalog's name of the model that is served, by its name or the end of its path."""
    names = set(catalog.names("models"))
    for told in served.models:
        for name in (told, told.rpartition("/")[2], told.rpartition("/")[2].removesuffix("-Instruct")):
            if name.lower() in names:
                return name.lower()
        if (Path(told) / "config.json").is_file():
            return told
    served_as = f" ({', '.join(served.models)})" if served.models else ""
    raise InputError(
        f"the catalog does not know the served model{served_as}",
        hint="name it: --model NAME, or the path of its config.json; `kvplan size --list` shows the names",
    )


def _with_tiers(found: Scenario, given: Given, served: Served) -> Scenario:
    """Pool and CPU tier as the server told them, in bytes over all ranks."""
    tiers = found.tiers
    pool = served.pool_bytes * found.deployment.tp or round(served.pool_tokens * token_bytes(found))
    if pool and not given.gpu_kv:
        tiers = msgspec.structs.replace(tiers, gpu_kv_bytes=pool)
    cpu = served.cpu_bytes or round(served.cpu_tokens * token_bytes(found))
    if not given.cpu and served.metrics and (cpu or not tiers.cpu_bytes):
        tiers = msgspec.structs.replace(tiers, cpu_bytes=cpu)
    return found.changed(tiers=tiers)


def token_bytes(found: Scenario) -> float:
    """KV bytes of one more token in the GPUs' pool, over all ranks."""
    blocks = layout(found.deployment)
    return blocks.growth_block_bytes * found.deployment.tp / max(1, blocks.unit_tokens)


def _known(found: Scenario, given: Given, served: Served, in_file: bool) -> list[Known]:
    other = "scenario" if in_file else "assumed"

    def row(what: str, value: Any, flag: Any, told: Any) -> Known:
        return Known(what=what, value=str(value), source="flag" if flag else "server" if told else other)

    def name(what: str, value: str, told: Any) -> Known:
        """A name that kvplan.defaults resolved."""
        source = getattr(found.defaults, what).source if found.defaults else ASSUMPTION
        return Known(what=what, value=value, source="server" if told else {GIVEN: "flag"}.get(source, source))

    set_by_hand = {text.partition("=")[0].strip() for text in given.sets}
    engine, tiers = found.engine, found.tiers
    return [
        name("model", found.model.name, not given.model and not in_file),
        name("machine", found.machine.name, False),
        name("engine", f"{engine.name} {engine.version}", not given.engine and served.engine == engine.name),
        row("block_tokens", engine.block_tokens, "engine.block_tokens" in set_by_hand, served.block_tokens),
        row("gpu_kv_bytes", tiers.gpu_kv_bytes or "what the engine leaves", given.gpu_kv, served.pool_bytes or served.pool_tokens),
        row("cpu_bytes", tiers.cpu_bytes, given.cpu, served.metrics),
        row("kv_dtype", found.deployment.kv_dtype, given.kv_dtype, served.kv_dtype),
        row("tp", found.deployment.tp, given.tp, served.tp),
        row("step_tokens", engine.step_tokens, "engine.step_tokens" in set_by_hand, served.step_tokens),
        row("max_batch", engine.max_batch, "engine.max_batch" in set_by_hand, served.max_batch),
        row("max_context_tokens", engine.max_context_tokens or "the model's", False, served.context_tokens),
    ]


def blank_trace(folder: Path, block_tokens: int = 64) -> Path:
    """A trace of one request, where a scenario is wanted before there is one."""
    path = folder / "blank.jsonl"
    one = Request(index=0, arrival_s=0.0, prompt_tokens=block_tokens, output_tokens=1, blocks=(0,))
    convert([one], path, block_tokens=block_tokens, name="blank")
    return path


def unlearned(known: Sequence[Known]) -> str:
    """A sentence on what is only assumed, with the options that say it; empty when nothing is."""
    options = {
        "machine": "--machine", "engine": "--engine", "gpu_kv_bytes": "--gpu-kv", "cpu_bytes": "--cpu", "kv_dtype": "--kv-dtype",
        "tp": "--tp", "step_tokens": "--set engine.step_tokens=N", "max_batch": "--set engine.max_batch=N",
        "block_tokens": "--set engine.block_tokens=N",
    }  # fmt: skip
    rows = [f"{one.what} {one.value} ({options[one.what]})" for one in known if one.source == "assumed" and one.what in options]
    return f"the server did not tell, and is assumed: {', '.join(rows)}" if rows else ""
