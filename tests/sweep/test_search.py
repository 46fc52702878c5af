"""A search answers what the whole grid answers, in fewer runs; a front is what no row beats."""

from __future__ import annotations

import itertools
import random

import pytest

from kvplan.economics.prices import price_source
from kvplan.errors import InputError
from kvplan.executor import Executor
from kvplan.results.sweep import SweepResult, SweepRow
from kvplan.sweep.goal import parse_front, parse_goal
from kvplan.sweep.points import Resolved
from kvplan.sweep.question import Options, question_of
from kvplan.sweep.search import Candidate, Search
from kvplan.sweep.sweep import sweep

GRID = ("cpu=0,1..32GiB:x2", "machine=l4,l40s", "speedup=2,6")


def ask(*vary: str, goal: str = "", pareto: str = "", limit: int = 60, source: str = "chat") -> SweepResult:
    options = Options(
        vary=vary, sets=(f"run.limit={limit}",), goal=goal, front_of=pareto, prices=price_source("public", "gpu=1") if vary == () else None
    )
    if "cost" in goal + pareto:
        options = Options(vary=vary, sets=options.sets, goal=goal, front_of=pareto, prices=price_source("public", None))
    return sweep(question_of(source, options), executor=Executor(workers=1), watch=lambda done, about, word: None)


@pytest.mark.parametrize("seed", range(30))
def test_a_search_finds_the_best_of_any_monotone_space(seed: int) -> None:
    dice = random.Random(seed)
    sizes = [sorted(dice.sample(range(100), dice.randint(1, 6))) for _ in range(2)]
    kinds = range(dice.randint(1, 4))
    needs = {kind: (dice.randint(0, 110), dice.randint(0, 60)) for kind in kinds}
    grid = list(itertools.product(kinds, *sizes))
    assert len(grid) <= 200
    worth = [kind * dice.randint(0, 30) + a + 2 * b for kind, a, b in grid]
    candidates = [Candidate(at, worth[at], kind, (a, b)) for at, (kind, a, b) in enumerate(grid)]

    def meets(at: int, row: SweepRow) -> bool:
        kind, a, b = grid[at]
        return a + b >= needs[kind][0] and b >= needs[kind][1]

    ran: list[Resolved] = []

    def run(wanted: list[Resolved]) -> list[SweepRow]:
        ran.extend(wanted)
        return [SweepRow(point=one.point) for one in wanted]

    search = Search(candidates, [Resolved(point={"at": str(at)}) for at in range(len(grid))], run, meets)  # type: ignore[arg-type]
    search.run()
    best = min((at for at in range(len(grid)) if meets(at, SweepRow(point={}))), key=lambda at: (worth[at], at), default=None)
    assert (search.best.at if search.best else None) == best
    assert len(ran) == len(search.rows) and len(ran) + sum(one.points for one in search.left_out()) == len(grid)


def grid_answer(found: SweepResult, worth: dict[int, float]) -> int | None:
    """The best row of a whole grid by hand: everything served, no limit missed."""
    met = [
        at
        for at, row in enumerate(found.rows)
        if row.result and not row.missed and not row.result.overload and row.result.requests.completed == row.result.requests.total
    ]
    return min(met, key=lambda at: (worth[at], at), default=None)


@pytest.mark.parametrize("limit_s", [0.1, 0.3, 1.2, 2.5])
def test_the_cheapest_is_the_whole_grids_cheapest(limit_s: float) -> None:
    whole = ask(*GRID, goal=f"min ttft_mean: ttft_p95<{limit_s}s")
    everything = question_of("chat", Options(vary=GRID, sets=("run.limit=60", f"run.target=ttft_p95<{limit_s}s")))
    grid = sweep(everything, executor=Executor(workers=1), watch=lambda done, about, word: None)
    gpu, rates = {"l4": 0.78, "l40s": 1.55}, {"2": 2.0, "6": 6.0}
    worth = {}
    for at, row in enumerate(grid.rows):
        size = float(row.point["cpu"].removesuffix("GiB"))
        worth[at] = (gpu[row.point["machine"]] + 0.0022 * size) / rates[row.point["speedup"]]
    best = grid_answer(grid, worth)
    found = ask(*GRID, goal=f"min cost: ttft_p95<{limit_s}s")
    answer = None if found.best is None else found.rows[found.best].point
    assert answer == (None if best is None else grid.rows[best].point)
    assert found.simulated < found.grid == len(grid.rows)
    assert found.grid == len(found.rows) + sum(one.points for one in found.left_out)
    mean = {at: row.result.ttft_s.mean or 0.0 for at, row in enumerate(grid.rows) if row.result}
    quickest = grid_answer(grid, mean)
    assert (whole.rows[whole.best].point if whole.best is not None else None) == (None if quickest is None else grid.rows[quickest].point)


def test_the_front_is_that_of_the_whole_grid() -> None:
    found, grid = ask(*GRID, pareto="ttft_p95,cost"), ask(*GRID)
    assert found.simulated < len(grid.rows)
    costs = {tuple(row.point.values()): row.money.per_month.value for row in found.rows if row.money}
    assert len(costs) == found.simulated
    points = [found.rows[at].point for at in found.front]
    assert {"cpu": "0", "machine": "l4", "speedup": "6"} in points  # the cheapest per token
    quickest = min(grid.rows, key=lambda row: (row.result.ttft_s.p95 or 0) if row.result else 9e9)
    assert min((found.rows[at].result.ttft_s.p95 or 0) for at in found.front if found.rows[at].result) == quickest.result.ttft_s.p95  # type: ignore[union-attr]


def test_a_setting_is_made_least_or_most() -> None:
    least = ask("cpu=0,1..32GiB:x2", goal="min cpu: ttft_p95<1.2s")
    most = ask("speedup=1..64:x2", goal="max speedup: ttft_p95<3s")
    assert least.best is not None and most.best is not None
    below = [row for row in least.rows if row.missed]
    assert below and least.rows[least.best].point["cpu"] != "0"
    assert most.simulated <= 5 and most.rows[most.best].point["speedup"] not in ("1", "64")


def test_what_an_idle_machine_cannot_do_is_not_run() -> None:
    found = ask("cpu=0,1..32GiB:x2", goal="min cpu: ttft_p95<50ms")
    assert (found.simulated, found.best) == (0, None) and "idle machine" in found.left_out[0].why
    grid = ask("cpu=0,32GiB")
    assert all((row.result.ttft_s.p95 or 0) > 0.05 for row in grid.rows if row.result)


@pytest.mark.parametrize("text", ["cost", "least cost", "min", "min cost: ttft", "min cost: tff_p95<2s"])
def test_what_is_no_goal_is_said(text: str) -> None:
    with pytest.raises(InputError):
        parse_goal(text)


@pytest.mark.parametrize("text", ["cost", "cost,cost", "cost,tff_p95", "ttft,cost"])
def test_what_is_no_front_is_said(text: str) -> None:
    with pytest.raises(InputError):
        parse_front(text)


def test_what_cannot_be_searched_is_said() -> None:
    with pytest.raises(InputError, match="cost needs prices"):
        sweep(question_of("chat", Options(vary=("cpu=0",), goal="min cost")), executor=Executor(), watch=lambda *_: None)
    with pytest.raises(InputError, match="no figure of a run"):
        ask("cpu=0,1GiB", goal="min disk: ttft_p95<1s")


def test_which_price_changes_the_answer() -> None:
    found = ask("cpu=8GiB", "machine=l4,l40s", goal="min cost: ttft_p95<2.5s")
    factors = {flip.what: flip.factor for flip in found.price_flips}
    # Both have the same tier, so that an L4 (0.78) costs what an L40S (1.55) does at 1.55 / 0.78 times its price, and the other way round.
    assert factors == pytest.approx({"gpu of l4": 1.55 / 0.78, "gpu of l40s": 0.78 / 1.55})
