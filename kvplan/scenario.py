"""A scenario: trace, model, machine, engine, tiers and run settings, from a TOML file or from the command line."""

from __future__ import annotations

import typing
from pathlib import Path
from typing import Any

import msgspec

from kvplan import catalog, units
from kvplan.engine.spec import EngineSpec
from kvplan.errors import InputError, did_you_mean
from kvplan.hardware.spec import Machine
from kvplan.model import ModelSpec


class Tiers(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Capacities of one replica, over all its ranks. `gpu_kv_bytes` 0: what the engine leaves on the GPU; other tiers
    0: absent."""

    gpu_kv_bytes: int = 0
    cpu_bytes: int = 0
    disk_bytes: int = 0
    remote_bytes: int = 0


class Remote(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The way to the remote pool. What is 0 is the machine's network; `total_Bps` 0: the pool itself is never the
    limit."""

    latency_s: float = 0.0
    client_Bps: float = 0.0
    total_Bps: float = 0.0  # of all replicas together, each direction
    object_bytes: int = 0  # of one put or get; 0: the engine's chunk
    parallel: int = 16  # puts or gets under way at once


class Cluster(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Several replicas behind a router. The remote pool is always shared, host memory only where this says so."""

    replicas: int = 1
    router: str = "round_robin"
    stale_s: float = 0.0  # how old the router's knowledge may be
    shared_cpu: bool = False  # one host memory of replicas x its size
    prefill_replicas: int = 0  # more replicas that only prefill; the others then only decode
    transfer_Bps: float = 0.0  # from a prefill to a decode replica; 0: the machine's network


class Run(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """How a trace is replayed."""

    tp: int = 1
    kv_dtype: str = "auto"
    speedup: float = 1.0  # of the arrivals
    limit: int = 0  # first requests of the trace; 0: all
    max_input_tokens: int = 0  # drop longer prompts; 0: none
    warmup: float = 0.0  # share of the requests left out of the summary
    jitter_s: float = 0.0  # spread equal arrival stamps over this long
    seed: int = 0
    jump: bool = True  # take equal decode steps many at a time
    max_sessions: int = 0  # open at once; 0: any number
    target: str = ""  # such as ttft_p95<2s,itl_p95<50ms


class Scenario(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that a simulation needs, resolved."""

    name: str
    trace: str
    model: ModelSpec
    machine: Machine
    engine: EngineSpec
    tiers: Tiers = Tiers()
    run: Run = Run()
    remote: Remote = Remote()
    cluster: Cluster = Cluster()


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
    remote: dict[str, Any] = {}
    cluster: dict[str, Any] = {}
    set: dict[str, Any] = {}
    expect: dict[str, Any] = {}


SECTIONS = ("machine", "engine", "model", "tiers", "run", "remote", "cluster")
"""Parts of a scenario whose fields can be set one by one."""

SIZES = {"gpu_kv": "gpu_kv_bytes", "cpu": "cpu_bytes", "disk": "disk_bytes", "remote": "remote_bytes"}
"""What users write -> field of Tiers."""


def is_scenario(path: str) -> bool:
    """Is this a scenario file (or the name of a shipped one) rather than a trace."""
    return path.endswith(".toml") or (not Path(path).exists() and path in catalog.names("scenarios"))


def load(
    source: str,
    *,
    model: str | None = None,
    machine: str | None = None,
    engine: str | None = None,
    tiers: dict[str, str | int | None] | None = None,
    run: dict[str, Any] | None = None,
    sets: typing.Sequence[str] = (),
) -> Scenario:
    """A scenario from a TOML file or a trace, with what is given here laid over it.

    `tiers` maps gpu_kv, cpu, disk, remote to sizes; `sets` are `path=value` for any field, such as
    `machine.disk.read_Bps=1.7GB/s`. Raises InputError naming the field that is unknown, missing or out of range.
    """
    written = _read(source) if is_scenario(source) else _File(trace=source, model="", machine="")
    for what, given in (("model", model or written.model), ("machine", machine or written.machine)):
        if not given:
            raise InputError(f"{source}: which {what}?", hint=f"add --{what} NAME; `kvplan size --list` shows the names")
    sizes = {SIZES[key]: units.parse_bytes(value) for key, value in _known_sizes(written, source) if value is not None}
    for key, value in (tiers or {}).items():
        if value is not None:
            sizes[SIZES[key]] = _positive_size(key, value)
    settings = {
        **_checked(written.run, Run, f"{source}: run"),
        **{key: value for key, value in (run or {}).items() if value is not None},
    }
    scenario = Scenario(
        name=written.name or Path(source).stem,
        trace=written.trace,
        model=catalog.model(model or written.model),
        machine=catalog.machine(machine or written.machine),
        engine=catalog.engine(engine or written.engine),
        tiers=_build(sizes, Tiers, "tiers"),
        run=_build(settings, Run, "run"),
        remote=_build(_checked(written.remote, Remote, f"{source}: remote"), Remote, "remote"),
        cluster=_build(_checked(written.cluster, Cluster, f"{source}: cluster"), Cluster, "cluster"),
    )
    for path, value in written.set.items():
        scenario = with_setting(scenario, path, value)
    for text in sets:
        path, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"--set {text}: write path=value", hint="for example --set machine.disk.read_Bps=1.7GB/s")
        scenario = with_setting(scenario, path.strip(), value.strip())
    return _sane(scenario)


def with_setting(scenario: Scenario, path: str, value: Any) -> Scenario:
    """The scenario with one field replaced; a number of the machine or the engine then counts as assumed."""
    parts = path.split(".")
    if parts[0] not in SECTIONS:
        raise InputError(f"{path} is not a setting", hint=f"settings start with {', '.join(SECTIONS)}")
    part = getattr(scenario, parts[0])
    changed = _replace(part, parts[1:], value, path)
    if hasattr(changed, "provenance") and ".".join(parts[1:]) in changed.provenance:
        from kvplan.provenance import Source

        noted = {**changed.provenance, ".".join(parts[1:]): Source(kind="assumed", source="set by the user")}
        changed = msgspec.structs.replace(changed, provenance=noted)
    return msgspec.structs.replace(scenario, **{parts[0]: changed})


def parse_value(name: str, value: Any) -> Any:
    """A setting's value by the unit that its name carries; text without one is a number, a truth value or itself."""
    if not isinstance(value, str):
        return value
    for suffix, parse in (
        ("_bytes", units.parse_bytes),
        ("Bps", units.parse_rate),
        ("_tokens", units.parse_tokens),
        ("_s", units.parse_seconds),
    ):
        if name.endswith(suffix) and not (suffix == "_tokens" and value == "0"):
            return parse(value)
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    for number in (int, float):
        try:
            return number(value)
        except ValueError:
            continue
    return value


def _replace(record: Any, parts: list[str], value: Any, path: str) -> Any:
    if not parts or not isinstance(record, msgspec.Struct):
        raise InputError(f"{path} is not a setting")
    fields = {field.name: field for field in msgspec.structs.fields(type(record))}
    name = parts[0]
    if name not in fields:
        raise InputError(f"{path} is not a setting", hint=did_you_mean(name, fields))
    old = getattr(record, name)
    if len(parts) > 1:
        new = _replace(old, parts[1:], value, path)
    else:
        try:
            parsed = parse_value(name, value)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        try:
            new = msgspec.convert(parsed, fields[name].type, strict=True)
        except msgspec.ValidationError:
            try:
                new = msgspec.convert(parsed, fields[name].type, strict=False)
            except msgspec.ValidationError as error:
                raise InputError(f"{path}: {value!r} does not fit: {error}") from None
    return msgspec.structs.replace(record, **{name: new})


def _read(source: str) -> _File:
    path = catalog.resolve("scenarios", source)
    try:
        written = msgspec.toml.decode(catalog.read_text(path), type=_File)
    except msgspec.ValidationError as error:
        raise InputError(f"{path}: {error}", hint=did_you_mean(_unknown(str(error)), _File.__struct_fields__)) from None
    except msgspec.DecodeError as error:
        raise InputError(f"{path}: not valid TOML: {error}") from None
    trace = written.trace
    if not Path(trace).expanduser().is_absolute():
        trace = str(path.parent / trace)
    return msgspec.structs.replace(written, trace=trace, name=written.name or path.stem)


def _unknown(message: str) -> str:
    return message.split("`")[1] if "`" in message else ""


def _known_sizes(written: _File, source: str) -> list[tuple[str, str | int]]:
    for key in written.tiers:
        if key not in SIZES:
            raise InputError(f"{source}: tiers.{key} is not a setting", hint=did_you_mean(key, SIZES))
    return list(written.tiers.items())


def _positive_size(key: str, value: str | int) -> int:
    size = units.parse_bytes(value)
    if size <= 0:
        raise InputError(
            f"--{key.replace('_', '-')} {value}: a capacity must be above zero",
            hint="leave the option out for no such tier",
        )
    return size


def _checked(settings: dict[str, Any], kind: Any, where: str) -> dict[str, Any]:
    for key in settings:
        if key not in kind.__struct_fields__:
            raise InputError(f"{where}.{key} is not a setting", hint=did_you_mean(key, kind.__struct_fields__))
    return {key: parse_value(key, value) for key, value in settings.items()}


def _build(settings: dict[str, Any], kind: Any, where: str) -> Any:
    try:
        return msgspec.convert(settings, kind, strict=False)
    except msgspec.ValidationError as error:
        raise InputError(f"{where}: {error}") from None


LIMITS = {
    "run.speedup": (1e-9, 1e9),
    "run.tp": (1, 1024),
    "run.warmup": (0.0, 0.99),
    "run.limit": (0, 1e12),
    "run.max_input_tokens": (0, 1e12),
    "run.jitter_s": (0.0, 1e6),
    "run.max_sessions": (0, 1e9),
    "cluster.replicas": (1, 4096),
    "cluster.prefill_replicas": (0, 4096),
    "cluster.stale_s": (0.0, 1e6),
    "remote.parallel": (1, 1e6),
    "engine.block_tokens": (1, 65536),
    "engine.step_tokens": (1, 1e9),
    "engine.max_batch": (1, 1e7),
    "engine.gpu_fraction": (0.01, 1.0),
    "engine.offload.streamed_share": (0.0, 1.0),
}
"""What a setting may be, where nonsense would make a run endless or a division by zero."""


def _sane(scenario: Scenario) -> Scenario:
    for path, (low, high) in LIMITS.items():
        value: Any = scenario
        for name in path.split("."):
            value = getattr(value, name)
        if not low <= value <= high:
            raise InputError(f"{path} is {value:g}; it must lie between {low:g} and {high:g}")
    if scenario.run.tp > scenario.machine.gpus:
        raise InputError(
            f"run.tp is {scenario.run.tp}, but {scenario.machine.name} has {scenario.machine.gpus} GPU(s)",
            hint="choose a larger machine, or --set machine.gpus=N",
        )
    return scenario
