"""A decision in an engine's own words: the flags, JSON, YAML or environment that carry it out, in the engine's unit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from kvplan import catalog, outputs
from kvplan.deploy.dialect import Dialect
from kvplan.deploy.router import router_capacities
from kvplan.deploy.serving import Serving, host_notice, host_of, pool_bytes, pool_tokens, ranks_of, served, served_notices, told
from kvplan.deploy.targets import NOT_CONFIGURED, TARGETS, Target
from kvplan.deployment import Deployment, Parallel
from kvplan.engine.spec import EngineSpec
from kvplan.errors import InputError, did_you_mean
from kvplan.hardware.spec import Machine
from kvplan.memory.pinned import HostMemory
from kvplan.planning.constraints import obstacle
from kvplan.results.deploy import Emission
from kvplan.results.placement import Notice, Placement
from kvplan.results.plan import EngineFigures, PlanResult
from kvplan.scenario import Scenario
from kvplan.units import format_bytes


def target_named(name: str) -> Target:
    """The target of a name. Raises InputError with the nearest names."""
    if why := NOT_CONFIGURED.get(name):
        raise InputError(f"no configuration is written for {name}: {why}", hint="production-stack and llm-d serve vLLM on Kubernetes")
    if name not in TARGETS:
        raise InputError(f"no engine to configure is named {name!r}", hint=did_you_mean(name, TARGETS))
    return TARGETS[name]


def engine_for(name: str, version: str = "") -> EngineSpec:
    """The engine that a target configures, to plan with."""
    return restricted(catalog.engine(target_named(name).engine, version), name)


def restricted(engine: EngineSpec, name: str) -> EngineSpec:
    """The engine with what a target cannot tell it among its restrictions, and its CPU tier as the target has it allocated."""
    target = target_named(name)
    return msgspec.structs.replace(
        engine,
        abilities=msgspec.structs.replace(engine.abilities, tensor_only=name not in SPREAD, **target.abilities),
        host_pool=msgspec.structs.replace(engine.host_pool, **target.host_pool),
    )


def planned(asked: Scenario, name: str, answer: Callable[[Scenario], PlanResult]) -> PlanResult:
    """The plan for the engine that a target configures, with its configuration, and what the scenario's own engine gives."""
    target = target_named(name)
    _check_spread(asked.deployment.parallel, name, asked.deployment.server)
    if asked.engine.name == target.engine:
        scenario = asked.changed(engine=restricted(asked.engine, name))
        return configured(answer(scenario), scenario.deployment, name)
    scenario = asked.changed(engine=engine_for(name))
    result = configured(answer(scenario), scenario.deployment, name)
    other = answer(asked)
    return msgspec.structs.replace(result, asked=figures(other))


def figures(result: PlanResult) -> EngineFigures:
    """What one engine gives, in short."""
    best, without = result.chosen, result.without
    return EngineFigures(
        engine=result.engine,
        verdict=result.verdict,
        gain=result.gain,
        ttft_s=best.ttft_s.mean if best else None,
        ttft_without_s=without.ttft_s.mean if without else None,
    )


SPREAD = ("vllm", "sglang", "llm-d", "lmcache")
"""Targets whose arguments say every kind of parallelism."""


def emit(placement: Placement, name: str, engine: EngineSpec | None = None, deployment: Deployment | None = None) -> Emission:
    """The configuration of a target that carries out a placement.

    `engine` is the engine at its version, None: as the catalog has it; `deployment` lets sizes be said in tokens and in host
    memory. Raises InputError when the target is unknown, the placement not sound, or the engine cannot do what was decided.
    """
    target, engine = target_named(name), engine or engine_for(name)
    _check_sound(placement, engine)
    spread = Parallel(tp=placement.tp, pp=placement.pp, dp=placement.dp, ep=placement.ep)
    _check_spread(spread, name, deployment.server if deployment else None)
    if limit := obstacle(engine, placement):
        raise InputError(f"{target.dialect.title} {engine.version} cannot {limit.what}", hint=limit.instead)
    serving = serving_of(placement, engine, deployment)
    parts, notices = target.write(serving)
    found = [per_rank_unit(placement, target.dialect), host_notice(serving.host, target.dialect.title) if deployment else None]
    notices += [notice for notice in found if notice]
    if placement.remote_bytes and not engine.abilities.remote:
        sentence = f"{target.dialect.title} reaches no remote store by its address alone: the remote tier is left out."
        notices.append(Notice(code="remote_by_hand", sentence=sentence, hint="set its store up by hand, or emit lmcache"))
    return Emission(
        target=name,
        version=engine.version,
        parts=tuple(parts),
        notices=tuple(notices),
        host=serving.host if deployment else None,
        pool_tokens=serving.pool_tokens,
        router=serving.router,
    )


def _check_spread(parallel: Parallel, name: str, server: Machine | None) -> None:
    """Raises InputError where a target's configuration cannot say how a replica is spread over GPUs."""
    if (parallel.all_gpus > parallel.tp or parallel.ep) and name not in SPREAD:
        title = target_named(name).dialect.title
        sentence = f"kvplan writes no {title} configuration with pipeline stages, data-parallel ranks or expert parallelism"
        raise InputError(sentence, hint=f"emit {', '.join(SPREAD)}")
    if server and parallel.all_gpus > server.gpus:
        sentence = f"kvplan writes the configuration of one server; a replica of {parallel.all_gpus} GPUs takes several of {server.name}"
        raise InputError(sentence, hint=f"at most {server.gpus} GPUs a replica, or leave --emit out")


def serving_of(placement: Placement, engine: EngineSpec, deployment: Deployment | None) -> Serving:
    """What a writer needs to know; without a deployment host memory and tokens are unknown."""
    known = Serving(
        placement=placement,
        version=engine.version,
        host=HostMemory(asked_bytes=placement.cpu_bytes),
        prefetch=engine.offload.prefetch,
        block_tokens=engine.block_tokens,
        joint=bool(placement.ep),
    )
    if deployment is None:
        return known
    placed = told(deployment, placement)
    pool = pool_bytes(placed, placement)
    context = placement.max_context_tokens or deployment.model.max_context_tokens
    return msgspec.structs.replace(
        known,
        host=host_of(placed, placement),
        joint=placed.in_lockstep,
        pool_tokens=pool_tokens(placed, pool, context) if pool else 0,
        router=router_capacities(placed, placement, pool),
    )


def configured(
    result: PlanResult, deployment: Deployment, name: str, *, disk_path: str = "/mnt/kv", remote_url: str = "lm://kv-pool:65432"
) -> PlanResult:
    """A plan with the configuration that carries it out, served as it was simulated on `deployment` with the engine of the target.

    The paths name the places of the tiers that it uses.
    """
    engine, placement, longest = deployment.engine, result.placement, result.traffic.longest_context_tokens
    placement = served(placement, deployment.changed(kv_dtype=placement.kv_dtype, **ranks_of(placement)), longest)
    placement = msgspec.structs.replace(
        placement,
        disk_path=disk_path if placement.disk_bytes else "",
        remote_url=remote_url if placement.remote_bytes and engine.abilities.remote else "",
    )
    emission = emit(placement, name, engine, deployment)
    pool = pool_bytes(told(deployment, placement), placement)
    notices = (*served_notices(placement, deployment, longest, pool), *_without_offloading(result), *emission.notices)
    return msgspec.structs.replace(result, placement=placement, emission=msgspec.structs.replace(emission, notices=notices))


def save(emission: Emission, folder: str | Path) -> list[Path]:
    """Write the files of a configuration into a folder, which is made; scripts can be run. Raises OSError."""
    place = Path(folder).expanduser()
    place.mkdir(parents=True, exist_ok=True)
    written = []
    for part in emission.parts:
        path = place / part.name
        outputs.write(path, part.text.encode())
        if part.format == "shell":
            path.chmod(0o755)
        written.append(path)
    return written


def per_rank_unit(placement: Placement, dialect: Dialect) -> Notice | None:
    """The number that an engine takes is for one rank, or for all of them."""
    if placement.ranks == 1 or not placement.cpu_bytes:
        return None
    number = dialect.unit.number(placement.cpu_bytes, placement.ranks)
    whole = format_bytes(placement.cpu_bytes)
    share = "each of" if dialect.unit.per_rank else "all"
    sentence = (
        f"{dialect.title} counts the CPU tier in {dialect.unit.word} for {share} {placement.ranks} ranks: "
        f"{number:.6g} is {whole} in all, {format_bytes(placement.cpu_bytes / placement.ranks)} per rank."
    )
    return Notice(code="per_rank_unit", level="note", sentence=sentence)


def _without_offloading(result: PlanResult) -> list[Notice]:
    """A verdict that no engine's configuration can carry out."""
    if result.verdict.kind != "stream":
        return []
    sentence = "No engine that can be configured streams the KV of running requests: this serves those that fit the GPU's pool."
    return [Notice(code="not_streamed", level="error", sentence=sentence, hint="more ranks, or an 8-bit KV dtype")]


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
