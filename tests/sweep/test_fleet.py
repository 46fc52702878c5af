"""A fleet: the fewest replicas of the cheapest kind that hold the traffic, a share of it, and more of it."""

from __future__ import annotations

import pytest

from kvplan.economics.prices import HOURS_PER_MONTH, price_source
from kvplan.errors import InputError
from kvplan.executor import Executor
from kvplan.results.sweep import FleetResult, SweepResult
from kvplan.sweep.fleet import fleet, shares
from kvplan.sweep.question import Options, question_of
from kvplan.sweep.sweep import sweep

SETS = ("run.limit=60", "run.speedup=60", "run.target=ttft_p95<4s", "cluster.router=session_sticky")
VARY = ("cpu=0,16GiB", "replicas=1..8:+1")


def ask(*sources: str, day: str = "", growth: str = "", sets: tuple[str, ...] = SETS) -> FleetResult:
    options = Options(vary=VARY, named={"tp": "1"}, sets=sets, prices=price_source(None, "gpu=1,cpu=0.01"))
    questions = [question_of(source, options, fleet=True) for source in sources]
    watch = lambda done, about, word: None  # noqa: E731
    return fleet(questions, day=shares(day, "--day"), growth=shares(growth, "--growth"), executor=Executor(workers=1), watch=watch)


def grid(speedup: str) -> SweepResult:
    options = Options(vary=VARY, named={"tp": "1"}, sets=(*SETS, f"run.speedup={speedup}"), prices=price_source(None, "gpu=1,cpu=0.01"))
    return sweep(question_of("chat", options), executor=Executor(workers=1), watch=lambda done, about, word: None)


def cheapest(found: SweepResult) -> dict[str, str]:
    met = [row for row in found.rows if row.result and row.money and not row.missed and not row.result.overload]
    return min(met, key=lambda row: row.money.per_hour.value if row.money else 0.0).point


def test_the_fleet_is_the_cheapest_of_the_whole_grid_and_follows_the_load() -> None:
    found = ask("chat", day="0.25,1", growth="2")
    [one] = found.classes
    assert one.peak.best is not None
    best = one.peak.rows[one.peak.best].point
    assert best == cheapest(grid("60")) and one.replicas == int(best["replicas"]) > 1
    quiet, full = one.day
    assert quiet.replicas < full.replicas == one.replicas
    [grown] = one.growth
    assert grown.replicas > one.replicas
    same_kind = [
        row for row in grid("120").rows if row.point["cpu"] == best["cpu"] and row.result and not row.missed and not row.result.overload
    ]
    assert grown.replicas == min((int(row.point["replicas"]) for row in same_kind), default=grown.replicas)
    assert one.per_month is not None and one.day_per_month is not None and quiet.per_hour is not None and full.per_hour is not None
    assert one.day_per_month.value == pytest.approx((quiet.per_hour.value + full.per_hour.value) / 2 * HOURS_PER_MONTH)
    assert one.day_per_month.value < one.per_month.value
    assert found.gpus == one.gpus == one.replicas


def test_classes_stand_on_replicas_of_their_own() -> None:
    both = ask("chat", "idle-users")
    assert [one.name for one in both.classes] == ["chat", "idle-users"]
    assert both.gpus == sum(one.gpus for one in both.classes)
    assert both.per_month is not None
    assert both.per_month.value == pytest.approx(sum(one.per_month.value for one in both.classes if one.per_month))


def test_what_is_no_fleet_is_said() -> None:
    with pytest.raises(InputError, match="for which target"):
        ask("chat", sets=("run.limit=10",))
    for text in ("0,1", "a", "1,-2"):
        with pytest.raises(InputError, match="shares of the traffic"):
            shares(text, "--day")


def test_a_target_that_nothing_meets_is_no_fleet() -> None:
    [one] = ask("chat", sets=(*SETS, "run.target=ttft_p95<1ms")).classes
    assert (one.replicas, one.gpus, one.per_month) == (0, 0, None)
