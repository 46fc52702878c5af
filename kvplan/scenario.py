"""A scenario: a deployment, traffic and a run, from a TOML file or from the command line."""

from __future__ import annotations

import typing
from pathlib import Path
from typing import Annotated, Any

import msgspec

from kvplan import catalog, defaults, units
from kvplan.deployment import DEPLOYED, Bytes, Deployment, Parallel, Remote, Tiers
from kvplan.engine.spec import EngineSpec
from kvplan.errors import InputError, did_you_mean, misfit
from kvplan.hardware.spec import Machine
from kvplan.memory.pool import beyond_gpus
from kvplan.model import ModelSpec
from kvplan.settings import parse_value, replaced

Count = Annotated[int, msgspec.Meta(ge=0, le=10**12)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e6)]


class Cluster(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Several replicas behind a router. The remote pool is always shared, host memory only where this says so."""

    replicas: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 1
    router: str = "round_robin"
    stale_s: Seconds = 0.0  # how old the router's knowledge may be
    shared_cpu: bool = False  # one host memory of replicas x its size
    prefill_replicas: Annotated[int, msgspec.Meta(ge=0, le=4096)] = 0  # more replicas that only prefill; the others then only decode
    prefill_parallel: Parallel | None = None  # how those are spread over GPUs; absent: as the others
    transfer_Bps: Annotated[float, msgspec.Meta(ge=0)] = 0.0  # from a prefill to a decode replica; 0: the machine's network
    decode_cpu_bytes: Bytes = 0  # host memory of each replica that only decodes; the tiers are of those that prefill


class Run(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """How a trace is replayed."""

    speedup: Annotated[float, msgspec.Meta(ge=1e-9, le=1e9)] = 1.0  # of the arrivals
    limit: Count = 0  # first requests of the trace; 0: all
    max_input_tokens: Count = 0  # drop longer prompts; 0: none
    warmup: Annotated[float, msgspec.Meta(ge=0, le=0.99)] = 0.0  # share of the requests left out of the summary
    jitter_s: Seconds = 0.0  # spread equal arrival stamps over this long
    seed: Count = 0
    jump: bool = True  # take equal decode steps many at a time
    max_sessions: Count = 0  # open at once; 0: any number
    target: str = ""  # such as ttft_p95<2s,itl_p95<50ms


class Scenario(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that a simulation needs, resolved."""

    name: str
    trace: str
    deployment: Deployment
    run: Run = Run()
    cluster: Cluster = Cluster()
    defaults: defaults.Defaults | None = None  # where model, machine and engine come from
    notes: tuple[str, ...] = ()  # what was derived anew or left out, in sentences for the user

    @property
    def model(self) -> ModelSpec:
        return self.deployment.model

    @property
    def machine(self) -> Machine:
        return self.deployment.machine

    @property
    def engine(self) -> EngineSpec:
        return self.deployment.engine

    @property
    def tiers(self) -> Tiers:
        return self.deployment.tiers

    @property
    def remote(self) -> Remote:
        return self.deployment.remote

    @property
    def assumed(self) -> str:
        """Which of model and machine were only assumed, to lead every answer; empty when none was."""
        return self.defaults.first_line() if self.defaults else ""

    def changed(self, **parts: Any) -> Scenario:
        """The same with some parts replaced, those of its deployment (`engine`, `machine`, `tiers`, `tp`, `kv_dtype`, ...) included."""
        own = {name: parts.pop(name) for name in tuple(parts) if name in self.__struct_fields__}
        scenario = msgspec.structs.replace(self, **own)
        return msgspec.structs.replace(scenario, deployment=scenario.deployment.changed(**parts)) if parts else scenario


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A scenario file as written: names instead of objects, sizes with units."""

    trace: str
    model: str
    machine: str
    engine: str = "vllm"
    name: str = ""
    why: str = ""
    tiers: dict[str, str | int] = {}
    run: dict[str, Any] = {}
    parallel: dict[str, Any] = {}
    remote: dict[str, Any] = {}
    cluster: dict[str, Any] = {}
    set: dict[str, Any] = {}
    expect: dict[str, Any] = {}


SECTIONS: dict[str, tuple[str, ...]] = {
    **{first: ("deployment", field) for first, field in DEPLOYED.items()},
    "run": ("run",),
    "cluster": ("cluster",),
}
"""First word of a setting -> where it lies in a scenario."""

MOVED = {
    **{f"run.{kind}": f"parallel.{kind}" for kind in ("tp", "pp", "dp", "ep")},
    "run.kv_dtype": "kv_dtype",
    "run.dtype": "dtype",
}
"""Settings of a run that say how the model is deployed."""

SIZES = {"gpu_kv": "gpu_kv_bytes", "cpu": "cpu_bytes", "disk": "disk_bytes", "remote": "remote_bytes"}
"""What users write -> field of Tiers."""


def is_scenario(path: str) -> bool:
    """Is this a scenario file (or the name of a shipped one) rather than a trace."""
    return path.endswith(".toml") or (not Path(path).exists() and path in catalog.names("scenarios"))


def trace_of(source: str) -> str:
    """The path of the trace that a scenario replays."""
    return _read(source).trace


def load(
    source: str,
    *,
    model: str | None = None,
    machine: str | None = None,
    engine: str | None = None,
    engine_version: str | None = None,
    tiers: dict[str, str | int | None] | None = None,
    run: dict[str, Any] | None = None,
    sets: typing.Sequence[str] = (),
    isolated: bool = False,
    check: bool = True,
) -> Scenario:
    """A scenario from a TOML file or a trace, with what is given here laid over it.

    What neither says comes from `kvplan.defaults`; `isolated` leaves the folder's kvplan.toml out. Where model, machine,
    engine or ranks are given, a scenario's own GPU pool is derived anew. `tiers` maps gpu_kv, cpu, disk, remote to sizes;
    `sets` are `path=value` for any field, such as `machine.disk.read_Bps=1.7GB/s`. Raises InputError naming the field that
    is unknown, missing or out of range; without `check`, `checked` is left to the caller.
    """
    written = _read(source) if is_scenario(source) else _File(trace=source, model="", machine="", engine="")
    given = {"model": model, "machine": machine, "engine": engine, "engine_version": engine_version}
    own_names = {"model": written.model, "machine": written.machine, "engine": written.engine}
    named = defaults.resolve(given, written=own_names, trace=written.trace, isolated=isolated)
    sizes = {SIZES[key]: units.parse_bytes(value) for key, value in _known_sizes(written, source) if value is not None}
    asked = {"model": model, "machine": machine, "engine": engine, "engine_version": engine_version}
    asked |= {kind: (run or {}).get(kind) for kind in ("tp", "pp", "dp", "ep")}
    notes = _without_its_pool(written, asked, sizes)
    for key, value in (tiers or {}).items():
        if value is not None:
            sizes[SIZES[key]] = _positive_size(key, value)
            notes = () if key == "gpu_kv" else notes
    settings: dict[str, Any] = {**written.run, **{key: value for key, value in (run or {}).items() if value is not None}}
    deployed = {key: settings.pop(key) for key in tuple(settings) if f"run.{key}" in MOVED}
    ranks: dict[str, Any] = {**written.parallel, **{key: deployed.pop(key) for key in ("tp", "pp", "dp", "ep") if key in deployed}}
    server = named.server()
    scenario = Scenario(
        name=written.name or Path(source).stem,
        trace=written.trace,
        deployment=Deployment(
            model=catalog.model(named.model.value),
            server=server,
            engine=catalog.engine(named.engine.value, named.engine_version, server),
            tiers=_build(sizes, Tiers, "tiers"),
            parallel=_build(ranks, Parallel, f"{source}: parallel"),
            remote=_build(written.remote, Remote, f"{source}: remote"),
            **deployed,
        ),
        run=_build(settings, Run, f"{source}: run"),
        cluster=_build(written.cluster, Cluster, f"{source}: cluster"),
        notes=notes,
        defaults=named,
    )
    for path, value in written.set.items():
        scenario = with_setting(scenario, path, value)
    for text in sets:
        path, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"--set {text}: write path=value", hint="for example --set machine.disk.read_Bps=1.7GB/s")
        scenario = with_setting(scenario, path.strip(), value.strip())
    return checked(scenario) if check else scenario


def _without_its_pool(written: _File, asked: dict[str, Any], sizes: dict[str, int]) -> tuple[str, ...]:
    """Take a scenario's own GPU pool out where another model, machine, engine or width is given; the sentence that says so."""
    own = {"model": written.model, "machine": written.machine, "engine": written.engine, "engine_version": ""}
    own |= {kind: written.parallel.get(kind, written.run.get(kind, 0 if kind == "ep" else 1)) for kind in ("tp", "pp", "dp", "ep")}
    changed = [
        f"TP {value}" if name == "tp" else str(value) for name, value in asked.items() if value is not None and str(value) != str(own[name])
    ]
    if not changed or "gpu_kv_bytes" not in sizes:
        return ()
    pool = units.format_bytes(sizes.pop("gpu_kv_bytes"))
    return (f"GPU pool derived anew for {', '.join(changed)}: the scenario's {pool} were another's (--gpu-kv keeps a size)",)


def with_setting(scenario: Scenario, path: str, value: Any) -> Scenario:
    """The scenario with one field replaced; a number of the machine or the engine then counts as assumed."""
    first, _, rest = MOVED.get(path, path).partition(".")
    if path in ("model", "machine", "engine"):
        raise InputError(f"--set {path}={value}: a {path} is named by an option", hint=f"--{path} {value}")
    if first not in SECTIONS:
        hint = f"--{path} {value}" if path in Parallel.__struct_fields__ else f"settings start with {', '.join(SECTIONS)}"
        raise InputError(f"{path} is not a setting", hint=hint)
    return replaced(scenario, [*SECTIONS[first], *rest.split(".")] if rest else [*SECTIONS[first]], value, path)


def _read(source: str) -> _File:
    path = catalog.resolve("scenarios", source)
    try:
        written = msgspec.toml.decode(catalog.read_text(path), type=_File)
    except msgspec.ValidationError as error:
        raise misfit(error, path, _File.__struct_fields__) from None
    except msgspec.DecodeError as error:
        raise InputError(f"{path}: not valid TOML: {error}") from None
    trace = written.trace
    if not Path(trace).expanduser().is_absolute():
        trace = str(path.parent / trace)
    return msgspec.structs.replace(written, trace=trace, name=written.name or path.stem)


def _known_sizes(written: _File, source: str) -> list[tuple[str, str | int]]:
    for key in written.tiers:
        if key not in SIZES:
            raise InputError(f"{source}: tiers.{key} is not a setting", hint=did_you_mean(key, SIZES))
    return list(written.tiers.items())


def _positive_size(key: str, value: str | int) -> int:
    try:
        size = units.parse_capacity(value)
    except InputError as error:
        raise InputError(f"--{key.replace('_', '-')} {error.message}", hint=error.hint) from None
    if size <= 0:
        raise InputError(
            f"--{key.replace('_', '-')} {value}: a capacity must be above zero",
            hint="leave the option out for no such tier",
        )
    return size


_KINDS: dict[str, Any] = {"run": Run, "cluster": Cluster, "parallel": Parallel, "remote": Remote}
"""Section of a scenario file -> the record that it becomes."""


def _build(settings: dict[str, Any], kind: Any, where: str) -> Any:
    for key in settings:
        if key not in kind.__struct_fields__:
            places = [f"[{name}]" for name, other in _KINDS.items() if key in other.__struct_fields__]
            hint = f"{key} stands in {' or '.join(places)}" if places else did_you_mean(key, kind.__struct_fields__)
            raise InputError(f"{where}.{key} is not a setting", hint=hint)
    try:
        return msgspec.convert({key: parse_value(key, value) for key, value in settings.items()}, kind, strict=False)
    except msgspec.ValidationError as error:
        found = misfit(error)
        raise InputError(f"{where}.{found.message}", hint=found.hint) from None


def checked(scenario: Scenario) -> Scenario:
    """The scenario with what the user should know about it. Raises InputError for a deployment that cannot be simulated."""
    if scenario.cluster.prefill_replicas:
        _check_apart(scenario)
    elif scenario.cluster.decode_cpu_bytes:
        raise InputError("cluster.decode_cpu_bytes: no replica only decodes", hint="cluster.prefill_replicas=N sets prefill apart")
    scenario.deployment.check_gpus()
    return scenario.changed(notes=(*scenario.notes, *scenario.deployment.ranks_apart, *_decoders(scenario), *_beyond(scenario)))


def _check_apart(scenario: Scenario) -> None:
    """Raises InputError where prefill and decode replicas are spread so that no engine hands KV from one to the other."""
    prefill, decode = scenario.cluster.prefill_parallel or scenario.deployment.parallel, scenario.deployment.parallel
    if decode.pp > 1:
        sentence = f"parallel.pp is {decode.pp}: replicas that only decode have no pipeline stages"
        raise InputError(sentence, hint="cluster.prefill_parallel may have them")
    if prefill.tp % decode.tp and decode.tp % prefill.tp:
        raise InputError(f"{prefill.tp} ranks that prefill and {decode.tp} that decode do not divide one another")
    if scenario.cluster.decode_cpu_bytes and scenario.engine.offload.load != "whole_request":
        sentence = f"cluster.decode_cpu_bytes: replicas of {scenario.engine.label} that only decode keep nothing in host memory here"
        raise InputError(sentence, hint="vLLM's do, with its offloading connector behind the one that fetches")
    scenario.changed(parallel=prefill).deployment.check_gpus()


def _decoders(scenario: Scenario) -> list[str]:
    """What replicas that only decode do without, in a sentence; nothing where there are none."""
    if not scenario.cluster.prefill_replicas:
        return []
    tierless = scenario.tiers.cpu_bytes and not scenario.cluster.decode_cpu_bytes
    below = " have no tiers below the GPU: those given are of the replicas that prefill" if tierless else ""
    cold = (
        ""
        if scenario.engine.decoder_caches
        else f" find no prefix of an earlier request on their GPUs, as {scenario.engine.label} sets them up"
    )
    said = " and".join(filter(None, (below, cold)))
    return [f"replicas that only decode{said}"] if said else []


def _beyond(scenario: Scenario) -> list[str]:
    """Tiers that are larger than what the machine has, in sentences."""
    machine, tiers, replicas = scenario.machine, scenario.tiers, scenario.cluster.replicas
    places = (
        ("CPU tier", tiers.cpu_bytes * scenario.deployment.parallel.dp, machine.host.memory_bytes, "host memory"),
        (
            "CPU tier of a decoder",
            scenario.cluster.decode_cpu_bytes * scenario.deployment.parallel.dp,
            machine.host.memory_bytes,
            "host memory",
        ),
        ("disk tier", tiers.disk_bytes, machine.disk.capacity_bytes, "disk"),
    )
    pool = beyond_gpus(scenario.deployment, tiers.gpu_kv_bytes) if tiers.gpu_kv_bytes else ""
    lower = (
        [
            f"a {name} of {units.format_bytes(size)} is more than the {units.format_bytes(there)} of {what} that {machine.name} has"
            for name, size, there, what in places
            if size > there
        ]
        if replicas == 1
        else []
    )
    return [pool, *lower] if pool else lower
