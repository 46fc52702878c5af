"""Every shipped scenario that says what its verdict should be gets it, and a capacity that no grid betters."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kvplan import catalog, scenario
from kvplan.planning.objective import GOALS, Judged, parse_target
from kvplan.planning.plan import plan
from kvplan.planning.runs import Simulation, realise, run_one
from kvplan.results.plan import PlanResult
from kvplan.results.simulate import SimResult
from kvplan.units import GiB
from tests.public import needs, public

FILES = sorted(catalog.folder("scenarios").glob("*.toml"))

GRIDS = {"chat": range(2, 26, 2), "idle-users": range(16, 103, 8), "agents": range(128, 640, 64)}
"""Scenario -> capacities of the CPU tier in GiB."""


def written(path: Path) -> dict[str, Any]:
    return msgspec.toml.decode(path.read_bytes())


@cache
def planned(name: str, *, allow_wear: bool = False) -> PlanResult:
    loaded = scenario.load(name)
    return plan(loaded, target=parse_target(loaded.run.target), allow_wear=allow_wear)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_scenario_has_a_reason_and_an_expected_verdict_in_less_than_forty_lines(path: Path) -> None:
    assert written(path)["why"]
    assert written(path)["expect"]["verdict"]
    assert len(path.read_text().splitlines()) < 40


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_verdict_is_the_expected_one(path: Path) -> None:
    expect = written(path)["expect"]
    result = planned(path.stem, allow_wear=expect.get("allow_wear", False))
    assert result.verdict.kind == expect["verdict"], result.verdict.sentence
    for tier in ("cpu", "disk"):
        if tier in expect:
            assert bool(getattr(result.placement, f"{tier}_bytes")) == expect[tier], result.verdict.sentence
    if "kv_dtype" in expect:
        assert result.placement.kv_dtype == expect["kv_dtype"]
    if result.verdict.kind == "offload":
        assert result.target_met
        assert result.gain is not None and (result.gain.lo or 0) > 0


@pytest.mark.parametrize("name", GRIDS)
def test_chosen_capacity_is_within_five_percent_of_the_best_on_a_grid(name: str) -> None:
    loaded, result = scenario.load(name), planned(name, allow_wear=False)
    target = parse_target(loaded.run.target)
    assert result.chosen is not None
    tiers = msgspec.structs.replace(loaded.tiers, gpu_kv_bytes=result.pool_bytes)
    base = loaded.changed(tiers=tiers)
    grid = {}
    for size in GRIDS[name]:
        outcome = run_one(Simulation(realise(base, msgspec.structs.replace(result.placement, cpu_bytes=size * GiB))))
        assert isinstance(outcome, SimResult)
        grid[size] = GOALS[result.objective](Judged(result=outcome, target=target, cost_per_hour=None))
    assert result.chosen.score <= 1.05 * min(grid.values()), (result.chosen.name, result.chosen.score, grid)


AGENTS = public("traces/weka")


@needs("traces/weka")
def test_recorded_agent_sessions_win_on_a_gpu_that_holds_two_of_them() -> None:
    result = plan(scenario.load(str(AGENTS), model="llama-3.1-8b", machine="l40s"))
    assert result.verdict.kind == "offload", result.verdict.sentence
    assert result.traffic.ideal_hit > 0.9
    assert result.chosen is not None and result.without is not None
    assert result.chosen.computed < 0.5 * result.without.computed
