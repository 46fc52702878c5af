"""A decision in an engine's own words: the flags, JSON, YAML or environment that carry it out, in the engine's unit."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from kvplan import catalog
from kvplan.deploy.dialect import Dialect
from kvplan.deploy.dialects import dynamo, lmcache, sglang, trtllm, vllm
from kvplan.deploy.reading import Reading
from kvplan.deploy.write import Written
from kvplan.engine.spec import EngineSpec
from kvplan.errors import InputError, did_you_mean
from kvplan.planning.constraints import obstacle
from kvplan.results.deploy import Emission
from kvplan.results.placement import Notice, Placement
from kvplan.results.plan import PlanResult
from kvplan.units import format_bytes


class Target(NamedTuple):
    """An engine that can be configured: its words, what writes a placement in them, and what reads them."""

    dialect: Dialect
    write: Callable[[Placement], Written]
    read: Callable[[Reading], None]


TARGETS: dict[str, Target] = {
    "vllm": Target(vllm.DIALECT, vllm.write, vllm.read),
    "lmcache": Target(lmcache.DIALECT, lmcache.write, lmcache.read),
    "sglang": Target(sglang.DIALECT, sglang.write, sglang.read),
    "trtllm": Target(trtllm.DIALECT, trtllm.write, trtllm.read),
    "dynamo": Target(dynamo.DIALECT, dynamo.write, dynamo.read),
}
"""Name that the user types, which is also that of the engine's file -> the engine."""


def target_named(name: str) -> Target:
    """The target of a name. Raises InputError with the nearest names."""
    if name not in TARGETS:
        raise InputError(f"no engine to configure is named {name!r}", hint=did_you_mean(name, TARGETS))
    return TARGETS[name]


def emit(placement: Placement, name: str, engine: EngineSpec | None = None) -> Emission:
    """The configuration of an engine that carries out a placement.

    `engine` is the engine at its version; None: as the catalog has it. Raises InputError when the target is unknown,
    the placement not sound, or the engine cannot do what was decided.
    """
    dialect, engine = target_named(name).dialect, engine or catalog.engine(name)
    _check_sound(placement, engine)
    if limit := obstacle(engine, placement):
        raise InputError(f"{dialect.title} {dialect.version} cannot {limit.what}", hint=limit.instead)
    parts, notices = TARGETS[name].write(placement)
    if unit := per_rank_unit(placement, dialect):
        notices.append(unit)
    if placement.remote_bytes and not engine.abilities.remote:
        sentence = f"{dialect.title} reaches no remote store by its address alone: the remote tier is left out."
        notices.append(Notice(code="remote_by_hand", sentence=sentence, hint="set its store up by hand, or emit lmcache"))
    return Emission(target=name, version=dialect.version, parts=tuple(parts), notices=tuple(notices))


def configured(result: PlanResult, name: str, *, disk_path: str = "/mnt/kv", remote_url: str = "lm://kv-pool:65432") -> PlanResult:
    """A plan with the configuration that carries it out; the paths name the places of the tiers that it uses."""
    placement = msgspec.structs.replace(
        result.placement,
        disk_path=disk_path if result.placement.disk_bytes else "",
        remote_url=remote_url if result.placement.remote_bytes and catalog.engine(name).abilities.remote else "",
    )
    return msgspec.structs.replace(result, placement=placement, emission=emit(placement, name))


def per_rank_unit(placement: Placement, dialect: Dialect) -> Notice | None:
    """The number that an engine takes is for one rank, or for all of them."""
    if placement.tp == 1 or not placement.cpu_bytes:
        return None
    number = dialect.unit.number(placement.cpu_bytes, placement.tp)
    whole = format_bytes(placement.cpu_bytes)
    share = "each of" if dialect.unit.per_rank else "all"
    sentence = (
        f"{dialect.title} counts the CPU tier in {dialect.unit.word} for {share} {placement.tp} ranks: "
        f"{number:.6g} is {whole} in all, {format_bytes(placement.cpu_bytes / placement.tp)} per rank."
    )
    return Notice(code="per_rank_unit", level="note", sentence=sentence)


def _check_sound(placement: Placement, engine: EngineSpec) -> None:
    if placement.tp < 1:
        raise InputError(f"tp = {placement.tp}: a replica has at least one rank")
    if not 0 < placement.gpu_fraction <= 1:
        raise InputError(f"gpu_fraction = {placement.gpu_fraction}: must lie above 0 and at most 1")
    if min(placement.cpu_bytes, placement.disk_bytes) < 0:
        raise InputError("a tier cannot have a negative size")
    if bool(placement.disk_bytes) != bool(placement.disk_path):
        raise InputError("a disk tier needs both a size and a directory", hint="set disk_bytes and disk_path, or neither")
    if placement.remote_bytes and not placement.remote_url and engine.abilities.remote:
        raise InputError("a remote tier needs an address", hint="set remote_url")
