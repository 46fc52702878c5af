"""kvplan: when to move KV cache out of GPU memory, where to, and how much."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict, Unpack

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from kvplan.engine.spec import EngineSpec
    from kvplan.hardware.spec import Machine
    from kvplan.model import ModelSpec
    from kvplan.results.plan import PlanResult
    from kvplan.results.simulate import SimResult
    from kvplan.results.size import SizeResult
    from kvplan.results.validate import ValidateResult
    from kvplan.scenario import Scenario

__version__ = "0.1.0"
__all__ = ["plan", "scenario_of", "simulate", "size", "validate"]


def size(
    model: str | ModelSpec,
    *,
    engine: str | EngineSpec | None = None,
    machine: str | Machine | None = None,
    context_tokens: int = 0,
    batch: int = 1,
    kv_dtype: str = "auto",
    dtype: str = "",
    tp: int = 1,
    pp: int = 1,
    dp: int = 1,
    ep: int = 0,
    gpu_fraction: float = 0.0,
    pool_bytes: int = 0,
    max_batch: int = 0,
    keep_tokens: int = 1024,
) -> SizeResult:
    """Sizes of a model by catalog name, Hugging Face id, path or record; 0 and "" take what the command takes, and a machine and an
    engine that are not given come from where the command finds them.
    """
    from kvplan import catalog, defaults
    from kvplan.sizing.answer import ask

    given = {name: value for name, value in (("machine", machine), ("engine", engine)) if isinstance(value, str)}
    names = defaults.resolve(given, machine_wanted=False)
    server = names.server() if machine is None or isinstance(machine, str) else machine
    return ask(
        catalog.model(model) if isinstance(model, str) else model,
        engine=catalog.engine(names.engine.value, names.engine_version, server) if engine is None or isinstance(engine, str) else engine,
        machine=server,
        context_tokens=context_tokens,
        batch=batch,
        kv_dtype=kv_dtype,
        dtype=dtype,
        tp=tp,
        pp=pp,
        dp=dp,
        ep=ep,
        gpu_fraction=gpu_fraction,
        pool_bytes=pool_bytes,
        max_batch=max_batch,
        keep_tokens=keep_tokens,
    )


class Asked(TypedDict, total=False):
    """The options of `scenario_of`, for those that pass them on."""

    model: str | None
    machine: str | None
    engine: str | None
    engine_version: str | None
    tp: int | None
    pp: int | None
    dp: int | None
    ep: int | None
    kv_dtype: str | None
    gpu_kv: str | int | None
    cpu: str | int | None
    disk: str | int | None
    remote: str | int | None
    policy: str | None
    replicas: int | None
    router: str | None
    speedup: float | None
    limit: int | None
    max_input: int | None
    target: str | None
    seed: int | None
    sets: Mapping[str, object] | None


def scenario_of(
    source: str | Path,
    *,
    model: str | None = None,
    machine: str | None = None,
    engine: str | None = None,
    engine_version: str | None = None,
    tp: int | None = None,
    pp: int | None = None,
    dp: int | None = None,
    ep: int | None = None,
    kv_dtype: str | None = None,
    gpu_kv: str | int | None = None,
    cpu: str | int | None = None,
    disk: str | int | None = None,
    remote: str | int | None = None,
    policy: str | None = None,
    replicas: int | None = None,
    router: str | None = None,
    speedup: float | None = None,
    limit: int | None = None,
    max_input: int | None = None,
    target: str | None = None,
    seed: int | None = None,
    sets: Mapping[str, object] | None = None,
) -> Scenario:
    """A trace or scenario file with what is given laid over it; options are those of the commands.

    `sets` maps the path of any field to its value. Raises InputError for what cannot be used.
    """
    from kvplan import scenario

    named = {"engine.offload.policy": policy, "cluster.replicas": replicas, "cluster.router": router}
    changed = {**(sets or {}), **{path: value for path, value in named.items() if value is not None}}
    return scenario.load(
        str(source),
        model=model,
        machine=machine,
        engine=engine,
        engine_version=engine_version,
        tiers={"gpu_kv": gpu_kv, "cpu": cpu, "disk": disk, "remote": remote},
        run={
            "tp": tp,
            "pp": pp,
            "dp": dp,
            "ep": ep,
            "kv_dtype": kv_dtype,
            "speedup": speedup,
            "limit": limit,
            "max_input_tokens": max_input,
            "target": target,
            "seed": seed,
        },
        sets=[f"{path}={value}" for path, value in changed.items()],
    )


def simulate(source: str | Path | Scenario, *, timeline: bool = False, **options: Unpack[Asked]) -> SimResult:
    """Replay a trace, a scenario file or a `scenario_of`, as `kvplan simulate` does; further options are those of `scenario_of`.

    `timeline`: also what happened when, for the figures over time.
    """
    from kvplan.scenario import Scenario
    from kvplan.sim.simulate import simulate as replay

    return replay(source if isinstance(source, Scenario) else scenario_of(source, **options), history=timeline)[0]


def plan(
    source: str | Path | Scenario,
    *,
    prices: str = "",
    max_cpu: str | int | None = None,
    max_disk: str | int | None = None,
    emit: str = "",
    **options: Unpack[Asked],
) -> PlanResult:
    """When to offload, where to and how much, as `kvplan plan` does; further options are those of `scenario_of`."""
    from kvplan.deploy.emit import planned
    from kvplan.economics.prices import price_source
    from kvplan.planning.objective import parse_target
    from kvplan.planning.plan import plan as answer
    from kvplan.scenario import Scenario
    from kvplan.units import parse_capacity

    priced = price_source(None, prices) if "=" in prices else price_source(prices or None, None)

    def answered(one: Scenario) -> PlanResult:
        return answer(
            one,
            target=parse_target(one.run.target),
            prices=priced.of(one.machine) if priced else None,
            max_cpu_bytes=parse_capacity(max_cpu) if max_cpu is not None else None,
            max_disk_bytes=parse_capacity(max_disk) if max_disk is not None else None,
        )

    wanted = source if isinstance(source, Scenario) else scenario_of(source, **options)
    return planned(wanted, emit, answered) if emit else answered(wanted)


def validate(
    url: str,
    source: str | Path = "",
    *,
    machine: str = "",
    model: str = "",
    engine: str = "",
    served_model: str = "",
    key: str = "",
    gpu_kv: str = "",
    cpu: str = "",
    sets: Mapping[str, object] | None = None,
    limit: int = 1000,
    max_seconds: float = 600.0,
    max_errors: int = 5,
    tolerance: float = 0.1,
    processes: int = 0,
    fit: str = "",
    results: str = "",
    seed: int = 0,
) -> ValidateResult:
    """Hold the prediction against a running server, as `kvplan validate` does; `source` empty runs the designed probe."""
    from kvplan.live.course import run
    from kvplan.live.records import Endpoint, Limits
    from kvplan.live.validate import ValidateQuestion
    from kvplan.live.world import Given

    settings = tuple(f"{path}={value}" for path, value in (sets or {}).items())
    question = ValidateQuestion(
        endpoint=Endpoint(url=url.rstrip("/").removesuffix("/v1"), model=served_model, key=key),
        source=str(source),
        given=Given(model=model, machine=machine, engine=engine, gpu_kv=gpu_kv, cpu=cpu, sets=settings),
        limits=Limits(requests=limit, seconds=max_seconds, errors=max_errors),
        tolerance=tolerance,
        processes=processes,
    )
    return run(question, lambda _: None, fit=fit, results=results, seed=seed)
