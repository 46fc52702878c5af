"""The capacity that a plan chooses, against every capacity of a coarse grid, simulated."""

from __future__ import annotations

import msgspec
import pytest

from kvplan import scenario
from kvplan.planning.objective import GOALS, Judged, Objective, parse_target
from kvplan.planning.plan import plan
from kvplan.planning.runs import Simulation, realise, run_one
from kvplan.results.simulate import SimResult
from kvplan.units import GiB

GRIDS = {"chat": range(2, 26, 2), "idle-users": range(16, 103, 8), "agents": range(128, 640, 64)}
"""Scenario -> capacities of the CPU tier in GiB."""


def score(base: scenario.Scenario, placement_result: SimResult, target: Objective, goal: str) -> float:
    return GOALS[goal](Judged(result=placement_result, target=target, cost_per_hour=None))


@pytest.mark.parametrize("name", GRIDS)
def test_chosen_capacity_is_within_five_percent_of_the_best_on_a_grid(name: str) -> None:
    loaded = scenario.load(name)
    target = parse_target(loaded.run.target)
    result = plan(loaded, target=target)
    assert result.chosen is not None
    tiers = msgspec.structs.replace(loaded.tiers, gpu_kv_bytes=result.pool_bytes)
    base = loaded.changed(tiers=tiers)
    grid = {}
    for size in GRIDS[name]:
        outcome = run_one(Simulation(realise(base, msgspec.structs.replace(result.placement, cpu_bytes=size * GiB))))
        assert isinstance(outcome, SimResult)
        grid[size] = score(base, outcome, target, result.objective)
    assert result.chosen.score <= 1.05 * min(grid.values()), (result.chosen.name, result.chosen.score, grid)
