"""What an engine's configuration means in bytes and rules, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path

from kvplan.catalog import engine as engine_named
from kvplan.catalog import read_text
from kvplan.deploy.emit import per_rank_unit
from kvplan.deploy.reading import Reading, known_settings, transfer_config
from kvplan.deploy.syntax import Config, parse_config
from kvplan.deploy.targets import TARGETS
from kvplan.errors import InputError
from kvplan.hardware.spec import Host
from kvplan.planning.traps import disk_without_cpu, host_exhausted, slow_start, small_tier
from kvplan.results.deploy import Explanation, TierSize
from kvplan.results.placement import Notice, Placement
from kvplan.units import format_bytes


def explain_config(path: str | Path, *, tp: int = 0, pool_bytes: int = 0, host: Host | None = None, replicas: int = 1) -> Explanation:
    """What a configuration file means, and what is wrong with it.

    The file may hold a command line, a script of exports, JSON, YAML, or an emitted configuration of several parts.
    `tp` is needed where the file does not say it; `pool_bytes` (the GPU's KV over all ranks) and `host` for the checks
    that rest on them.
    Raises InputError when the file cannot be read or is no configuration of a known engine.
    """
    file = Path(path)
    return explain_text(read_text(file), str(path), tp=tp, pool_bytes=pool_bytes, host=host, replicas=replicas)


def explain_text(text: str, where: str, *, tp: int = 0, pool_bytes: int = 0, host: Host | None = None, replicas: int = 1) -> Explanation:
    """What the text of a configuration means; as `explain_config`."""
    config = parse_config(text, where)
    engine = _engine_of(config, where)
    target = TARGETS[engine]
    reading = Reading(config, engine, target.dialect, tp, pool_bytes)
    target.read(reading)
    placement = Placement(**reading.fields)  # type: ignore[arg-type]
    shared = _shared_checks(placement, engine, pool_bytes, host, replicas)
    tiers = reading.tiers
    if pool_bytes:
        gpu = TierSize(name="gpu", bytes_per_rank=pool_bytes // placement.tp, bytes_total=pool_bytes)
        tiers = [gpu, *tiers]
    return Explanation(
        source=where,
        engine=engine,
        version=engine_named(target.engine).version,
        placement=placement,
        tiers=tuple(tiers),
        meanings=tuple(reading.meanings),
        notices=tuple(sorted([*reading.notices, *shared], key=lambda notice: _GRAVITY[notice.level])),
    )


_GRAVITY = {"error": 0, "warning": 1, "note": 2}


def _shared_checks(placement: Placement, engine: str, pool_bytes: int, host: Host | None, replicas: int) -> list[Notice]:
    """The traps that any engine's configuration can fall into."""
    dialect = TARGETS[engine].dialect
    found = [
        disk_without_cpu(placement, dialect.title, allowed=engine_named(engine).abilities.disk_alone),
        small_tier(placement, pool_bytes),
        per_rank_unit(placement, dialect),
        host_exhausted(placement, host, replicas) if host else None,
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
    names = {*config.flags, *config.words}
    connector = str(transfer_config(config).get("kv_connector", ""))
    signs = {
        "dynamo": connector.startswith("Dynamo")
        or any(name.startswith("DYN_KVBM") for name in config.environment)
        or "kvbm" in str(config.document.get("kv_connector_config", "")),
        "lmcache": connector.startswith("LMCache")
        or any(name.startswith("LMCACHE_") for name in config.environment)
        or any(name in known_settings()["lmcache"]["file"] for name in config.document)
        or config.flags.get("--kv-offloading-backend") == "lmcache",
        "sglang": any("sglang" in name or "hicache" in name or "hierarchical-cache" in name for name in names),
        "trtllm": "kv_cache_config" in config.document or "trtllm-serve" in names,
        "vllm": "vllm" in names or bool(connector) or any(name.startswith("--kv-") for name in names),
    }
    for engine, seen in signs.items():
        if seen:
            return engine
    titles = ", ".join(target.dialect.title for target in TARGETS.values())
    raise InputError(f"{where}: not a configuration of an engine that kvplan knows", hint=f"it reads those of {titles}")
