"""Points of a sweep made into scenarios."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from kvplan import scenario, units
from kvplan.errors import InputError, did_you_mean
from kvplan.scenario import Scenario
from kvplan.sweep.grid import check_source, ranks
from kvplan.sweep.values import Point

NAMED = ("model", "machine", "engine", "engine_version", "tp", "kv_dtype")
"""Settings that choose what is deployed, by name."""

SHORT = {
    "gpu_kv": "tiers.gpu_kv_bytes",
    "cpu": "tiers.cpu_bytes",
    "disk": "tiers.disk_bytes",
    "remote": "tiers.remote_bytes",
    "policy": "engine.offload.policy",
    "speedup": "run.speedup",
    "limit": "run.limit",
    "max_input": "run.max_input_tokens",
    "seed": "run.seed",
    "target": "run.target",
    "replicas": "cluster.replicas",
    "router": "cluster.router",
    "pp": "parallel.pp",
    "ep": "parallel.ep",
}
"""Short names of settings, as the options of `kvplan simulate` have them -> their path."""

ABSENT = {"none", "off", "no"}
"""Words for a tier that is not there."""


class Common(msgspec.Struct, frozen=True, kw_only=True):
    """What all runs have in common: the scenario or trace, what is named for it, and settings as `--set` takes them."""

    source: str
    named: dict[str, str | None] = {}
    sets: tuple[str, ...] = ()
    isolated: bool = False


class Resolved(msgspec.Struct, frozen=True, kw_only=True):
    """A point with its scenario, or with why there can be none."""

    point: Point
    scenario: Scenario | None = None
    error: str = ""


def resolve(given: Common, points: Sequence[Point]) -> list[Resolved]:
    """The scenario of each point. A point that no machine or model can take is kept with the reason.

    Raises InputError for names, settings and values that there are not, and when no point can be run.
    """
    check_source(given.source)
    bases: dict[tuple[str | None, ...], Scenario] = {}
    pool_is_given = any("gpu_kv" in place for place in (*given.sets, *(points[0] if points else ())))
    found = [_resolved(given, point, bases) for point in points]
    if found and all(one.scenario is None for one in found):
        raise InputError(found[0].error)
    if pool_is_given or not any(base.notes for base in bases.values()):
        return found
    return [one if one.scenario is None else msgspec.structs.replace(one, scenario=_own_pool(one.scenario)) for one in found]


def _resolved(given: Common, point: Point, bases: dict[tuple[str | None, ...], Scenario]) -> Resolved:
    names = {**given.named, **{name: point[name] for name in NAMED if name in point}}
    key = (point.get("trace"), *(names.get(name) for name in NAMED))
    if key not in bases:
        bases[key] = _base(given, names, point.get("trace"))
    made = bases[key].changed(name=label(point) or bases[key].name)
    for path, value in _settings(point):
        made = scenario.with_setting(made, path, value)
    try:
        return Resolved(point=point, scenario=scenario.checked(made))
    except InputError as error:
        return Resolved(point=point, error=error.message)


def _base(given: Common, names: Mapping[str, str | None], trace: str | None) -> Scenario:
    source = given.source if trace is None or scenario.is_scenario(given.source) else trace
    loaded = scenario.load(
        source,
        model=names.get("model"),
        machine=names.get("machine"),
        engine=names.get("engine"),
        engine_version=names.get("engine_version"),
        run={"tp": ranks(names.get("tp")), "kv_dtype": names.get("kv_dtype")},
        sets=given.sets,
        isolated=given.isolated,
        check=False,
    )
    return loaded if trace is None else loaded.changed(trace=trace)


def _settings(point: Point) -> list[tuple[str, Any]]:
    settings = []
    for path, value in point.items():
        if path in NAMED or path == "trace":
            continue
        whole = SHORT.get(path, path)
        if "." not in whole and whole not in scenario.SECTIONS:
            raise InputError(f"--vary {path}: not a setting", hint=did_you_mean(path, [*NAMED, "trace", *SHORT, *scenario.SECTIONS]))
        settings.append((whole, _size(path, value) if whole.startswith("tiers.") else value))
    return settings


def _size(path: str, value: str) -> int:
    """Bytes of a tier. Raises InputError for a small number without a unit, since GiB were meant."""
    try:
        return 0 if value.lower() in ABSENT else units.parse_capacity(value)
    except InputError as error:
        raise InputError(f"--vary {path}: {error.message}", hint=error.hint) from None


def _own_pool(one: Scenario) -> Scenario:
    """The scenario with the pool that its engine leaves: where some of the compared derive theirs, all do."""
    return one.changed(tiers=msgspec.structs.replace(one.tiers, gpu_kv_bytes=0))


def label(point: Point) -> str:
    """A point in a few words."""
    return " ".join(f"{path.rpartition('.')[2]}={value}" for path, value in point.items())
