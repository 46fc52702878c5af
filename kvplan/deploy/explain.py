"""What an engine's configuration means in bytes and rules, and what is wrong with it."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import msgspec

from kvplan import catalog
from kvplan.deploy.emit import engine_for, per_rank_unit
from kvplan.deploy.fitting import against, pod_checks
from kvplan.deploy.objects import PodSizes, quantities_of
from kvplan.deploy.reading import Reading, known_settings, transfer_config
from kvplan.deploy.syntax import Config, parse_config
from kvplan.deploy.targets import TARGETS, Target
from kvplan.deployment import Deployment
from kvplan.errors import InputError
from kvplan.hardware.spec import Host, Machine
from kvplan.model import ModelSpec
from kvplan.planning.traps import disk_without_cpu, host_exhausted, slow_start, small_tier
from kvplan.results.deploy import Explanation, TierSize
from kvplan.results.placement import Notice, Placement
from kvplan.units import format_bytes


class Surroundings(msgspec.Struct, frozen=True, kw_only=True):
    """What is known beside the file: ranks where it does not say them, the GPU's pool over all ranks, the host, what is served."""

    tp: int = 0
    pool_bytes: int = 0
    host: Host | None = None
    replicas: int = 1
    model: ModelSpec | None = None  # None: as the file names it, where that is known
    machine: Machine | None = None
    engine_version: str = ""


def explain_config(path: str | Path, **known: object) -> Explanation:
    """What a configuration file means, and what is wrong with it.

    The file may hold a command line, a script of exports, JSON, YAML, Kubernetes objects, or an emitted configuration of several parts;
    of a folder all of its files are one configuration.
    `known` are fields of Surroundings. Raises InputError when the file cannot be read or is no configuration of a known engine.
    """
    place = Path(path).expanduser()
    files = sorted(one for one in place.iterdir() if one.suffix in _SUFFIXES) if place.is_dir() else [place]
    if any(one.stat().st_size > MOST_BYTES for one in files if one.is_file()):
        raise InputError(f"{path}: larger than any engine's configuration")
    texts = [catalog.read_text(one) for one in files]
    text = texts[0] if len(files) == 1 else "\n".join(f"# --- {one.name}\n{text}" for one, text in zip(files, texts, strict=True))
    return explain_text(text, str(path), **known)


MOST_BYTES = 2**20

_SUFFIXES = (".sh", ".yaml", ".yml", ".json")


def explain_text(text: str, where: str, **known: object) -> Explanation:
    """What the text of a configuration means; as `explain_config`."""
    beside = Surroundings(**known)  # type: ignore[arg-type]
    config = parse_config(text, where)
    pod = quantities_of(config, where)
    name = pod.target if pod and pod.target else _engine_of(config, where)
    target = TARGETS[name]
    engine = engine_for(name, beside.engine_version)
    reading = Reading(config, target.engine, target.dialect, beside.tp, beside.pool_bytes, engine.version)
    reading.host_pool = engine.host_pool
    reading.host_bytes = beside.host.memory_bytes if beside.host else 0
    target.read(reading)
    if pod and pod.claim_bytes and reading.fields.get("disk_path"):
        reading.fields["disk_bytes"] = pod.claim_bytes
        reading.tiers.append(_disk(reading, pod))
        reading.notices = [one for one in reading.notices if one.code != "disk_unbounded"]
    placement = Placement(**reading.fields)  # type: ignore[arg-type]
    notices = reading.notices
    model = beside.model or _named(placement.model)
    host, pool = None, beside.pool_bytes or placement.gpu_kv_bytes
    if model:
        deployment = Deployment(model=model, engine=msgspec.structs.replace(engine, host_pool=reading.host_pool), server=beside.machine)
        host, pool, found = against(deployment, placement, reading, pool)
        notices = notices + found
    notices = notices + _shared_checks(placement, target, pool, beside) + (pod_checks(pod, host, placement) if pod else [])
    gpu = [TierSize(name="gpu", bytes_per_rank=pool // placement.ranks, bytes_total=pool)] if pool else []
    return Explanation(
        source=where,
        engine=name,
        version=engine.version,
        placement=placement,
        tiers=(*gpu, *reading.tiers),
        meanings=tuple(reading.meanings),
        notices=tuple(sorted(notices, key=lambda notice: _GRAVITY[notice.level])),
        host=host,
        pool_tokens=reading.pool_tokens,
    )


_GRAVITY = {"error": 0, "warning": 1, "note": 2}


def _named(repository: str) -> ModelSpec | None:
    """The model that a configuration names, where the catalog knows it by that name."""
    if not repository:
        return None
    name = _sources().get(repository, repository)
    try:
        return catalog.model(name)
    except InputError:
        return None


@functools.cache
def _sources() -> dict[str, str]:
    """Repository -> the shipped model whose source it is."""
    found: dict[str, str] = {}
    for name in catalog.names("models"):
        if match := _SOURCE.search(catalog.read_text(catalog.resolve("models", name))[:400]):
            found.setdefault(match[1], name)
    return found


_SOURCE = re.compile(r"Hugging Face (\S+) ")


def _disk(reading: Reading, pod: PodSizes) -> TierSize:
    total, where = pod.claim_bytes, str(reading.fields["disk_path"])
    return TierSize(name="disk", bytes_per_rank=total // reading.pool_ranks, bytes_total=total, where=where)


def _shared_checks(placement: Placement, target: Target, pool_bytes: int, beside: Surroundings) -> list[Notice]:
    """The traps that any engine's configuration can fall into."""
    host = beside.host or (beside.machine.host if beside.machine else None)
    found = [
        disk_without_cpu(placement, target.dialect.title, allowed=catalog.engine(target.engine).abilities.disk_alone),
        small_tier(placement, pool_bytes),
        per_rank_unit(placement, target.dialect),
        host_exhausted(placement, host, beside.replicas) if host else None,
        slow_start(placement, host) if host else None,
        _disk_under_cpu(placement),
    ]
    return [notice for notice in found if notice]


def _disk_under_cpu(placement: Placement) -> Notice | None:
    if not 0 < placement.disk_bytes < placement.cpu_bytes:
        return None
    sentence = (
        f"The disk tier ({format_bytes(placement.disk_bytes)}) is smaller than the CPU tier "
        f"({format_bytes(placement.cpu_bytes)}): it repeats what the CPU tier holds."
    )
    return Notice(code="disk_under_cpu", sentence=sentence, hint="make it larger than the CPU tier, or drop it")


def _engine_of(config: Config, where: str) -> str:
    """The engine that a configuration is for, from the names it uses."""
    names = {*config.flags, *config.words, config.flags.get("-m", "").partition(".")[0]}  # python -m sglang.launch_server
    connector = str(transfer_config(config).get("kv_connector", ""))
    lmcache_backend = config.flags.get("--kv-offloading-backend") == "lmcache"
    signs = {
        "dynamo": connector.startswith("Dynamo")
        or any(name.startswith("DYN_KVBM") for name in config.environment)
        or "kvbm" in str(config.document.get("kv_connector_config", "")),
        "lmcache-mp": connector == "LMCacheMPConnector" or "--l1-size-gb" in names or "lmcache" in config.words or lmcache_backend,
        "lmcache": connector.startswith("LMCache")
        or any(name.startswith("LMCACHE_") for name in config.environment)
        or any(name in known_settings()["lmcache"]["file"] for name in config.document),
        "sglang": any("sglang" in name or "hicache" in name or "hierarchical-cache" in name for name in names),
        "trtllm": "kv_cache_config" in config.document or "trtllm-serve" in names,
        "vllm": "vllm" in names or bool(connector) or any(name.startswith("--kv-") for name in names),
    }
    for engine, seen in signs.items():
        if seen:
            return engine
    titles = ", ".join(dict.fromkeys(target.dialect.title for target in TARGETS.values()))
    raise InputError(f"{where}: not a configuration of an engine that kvplan knows", hint=f"it reads those of {titles}")
