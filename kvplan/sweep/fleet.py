"""How many replicas of what hold a traffic: machine, width, tiers and replicas searched together, for the peak, the day and growth."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from kvplan.economics.prices import HOURS_PER_MONTH, per_hour, used
from kvplan.errors import InputError
from kvplan.executor import Executor, Watch
from kvplan.results.economics import Amount
from kvplan.results.sweep import FleetClass, FleetLoad, FleetResult, SweepRow
from kvplan.scenario import Scenario
from kvplan.sweep.goal import parse_goal
from kvplan.sweep.points import resolve
from kvplan.sweep.run import Kept
from kvplan.sweep.sweep import SweepQuestion, sweep
from kvplan.sweep.values import axis_of, parse_axis

DEFAULTS = {"replicas": "1..32:+1", "tp": "1..8:x2", "cpu": "0,64GiB..1024GiB:x4"}
"""What a fleet varies where the question does not say."""

ROOM = 4
"""Growth is looked for up to so many times the replicas that it would take in proportion."""


def fleet(
    questions: Sequence[SweepQuestion],
    *,
    day: Sequence[float],
    growth: Sequence[float],
    executor: Executor,
    watch: Watch,
    kept: Kept | None = None,
) -> FleetResult:
    """The cheapest fleet of each class of traffic, each on replicas of its own, and what the day and growth make of it.

    Without prices the fewest GPUs. Raises InputError without a target.
    """
    classes = [_class(_with_defaults(one), day, growth, executor, watch, kept) for one in questions]
    months = [one.per_month for one in classes]
    known = [one for one in months if one is not None]
    total = None if len(known) < len(months) else _sum(known)
    return FleetResult(classes=tuple(classes), per_month=total, gpus=sum(one.gpus for one in classes))


def shares(text: str | None, option: str) -> tuple[float, ...]:
    """Factors of the traffic from `0.2,0.5,1`. Raises InputError."""
    try:
        found = tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError:
        found = (0.0,)
    if any(not 0 < one <= 1000 for one in found):
        raise InputError(f"{option} {text}: shares of the traffic above 0", hint="for example 0.2,0.5,1,0.6")
    return found


def _with_defaults(question: SweepQuestion) -> SweepQuestion:
    varied = {axis.path for axis in question.axes}
    named = {name for name, value in question.common.named.items() if value is not None}
    axes = [axis for axis in question.axes if axis.path != "replicas"]
    axes += [parse_axis(f"{path}={values}") for path, values in DEFAULTS.items() if path not in varied | named | {"replicas"}]
    axes += [next((axis for axis in question.axes if axis.path == "replicas"), parse_axis(f"replicas={DEFAULTS['replicas']}"))]
    goal = question.goal or parse_goal("min cost" if question.prices else "min gpus")
    return msgspec.structs.replace(question, axes=tuple(axes), goal=goal)


def _class(
    question: SweepQuestion, day: Sequence[float], growth: Sequence[float], executor: Executor, watch: Watch, kept: Kept | None
) -> FleetClass:
    found = sweep(question, executor=executor, watch=watch, kept=kept)
    if not found.target:
        raise InputError("a fleet for which target?", hint='add --target "ttft_p95<2s,itl_p95<50ms"')
    if found.best is None:
        return FleetClass(name=question.common.source, peak=found)
    best = found.rows[found.best]
    loads = {
        factor: _at_load(question, best, factor, executor=executor, watch=watch, kept=kept) for factor in sorted({*day, *growth} - {1.0})
    }
    [one] = resolve(question.common, [best.point])
    assert one.scenario is not None
    loads[1.0] = FleetLoad(factor=1.0, replicas=one.scenario.cluster.replicas, per_hour=_hour(question, one.scenario))
    hours = [loads[factor] for factor in day]
    return FleetClass(
        name=question.common.source,
        peak=found,
        replicas=one.scenario.cluster.replicas,
        gpus=round(used(one.scenario).gpus),
        per_month=best.money.per_month if best.money else None,
        day=tuple(hours),
        day_per_month=_month(hours),
        growth=tuple(loads[factor] for factor in growth),
    )


def _at_load(question: SweepQuestion, best: SweepRow, factor: float, *, executor: Executor, watch: Watch, kept: Kept | None) -> FleetLoad:
    """The fewest replicas of the best kind that hold a share or a multiple of the traffic; 0 where none do."""
    now = int(best.point["replicas"])
    most = now if factor < 1 else math.ceil(now * factor * ROOM)
    speedup = float(best.point.get("speedup") or _speedup(question)) * factor
    fixed = {path: value for path, value in best.point.items() if path not in ("replicas", "speedup")}
    axes = [axis_of(path, [value]) for path, value in fixed.items()]
    axes += [axis_of("speedup", [f"{speedup:.9g}"]), axis_of("replicas", [str(count) for count in range(1, most + 1)])]
    asked = msgspec.structs.replace(question, axes=tuple(axes), goal=parse_goal("min replicas"), front_of=())
    found = sweep(asked, executor=executor, watch=watch, kept=kept)
    if found.best is None:
        return FleetLoad(factor=factor, replicas=0)
    [one] = resolve(question.common, [found.rows[found.best].point])
    assert one.scenario is not None
    return FleetLoad(factor=factor, replicas=one.scenario.cluster.replicas, per_hour=_hour(question, one.scenario))


def _speedup(question: SweepQuestion) -> float:
    [one] = resolve(question.common, [{}])
    return one.scenario.run.speedup if one.scenario else 1.0


def _hour(question: SweepQuestion, one: Scenario) -> Amount | None:
    return per_hour(question.prices.of(one.machine), used(one)) if question.prices else None


def _month(hours: Sequence[FleetLoad]) -> Amount | None:
    """A month of days whose hours take these replicas each."""
    costs = [one.per_hour for one in hours if one.per_hour]
    if not costs or len(costs) < len(hours):
        return None
    total, share = _sum(costs), HOURS_PER_MONTH / len(hours)
    return Amount(value=total.value * share, low=total.low * share, high=total.high * share)


def _sum(amounts: Sequence[Amount]) -> Amount:
    return Amount(value=sum(one.value for one in amounts), low=sum(one.low for one in amounts), high=sum(one.high for one in amounts))
