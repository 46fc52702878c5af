"""`kvplan sweep`: a question with many points in, a table of runs, the best of them or their Pareto front out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import msgspec

from kvplan import __version__
from kvplan.economics.energy import energy
from kvplan.economics.prices import Prices, PriceSource, UnitPrice, by_name, flips, money_of, per_hour, used
from kvplan.economics.wear import wear
from kvplan.errors import InputError, did_you_mean
from kvplan.executor import Executor, Watch
from kvplan.results.economics import Flip, Wear
from kvplan.results.simulate import SimResult
from kvplan.results.sweep import LeftOut, SweepResult, SweepRow
from kvplan.scenario import Scenario
from kvplan.sim.outcome import slo
from kvplan.sweep.bounds import Demand, all_fit, demand, hopeless, refused
from kvplan.sweep.goal import HIGHER, OTHERS, SweepGoal, figure, figure_named
from kvplan.sweep.points import NAMED, SHORT, Common, Resolved, resolve
from kvplan.sweep.run import Kept, Runs, runs, trace_key
from kvplan.sweep.search import Search, candidate, front
from kvplan.sweep.values import Axis, grid_points

MOST_SEARCHED = 1_000_000
"""Points of a grid that is searched and not run whole."""


class SweepQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """What is common to all runs, what is varied, and what is looked for in it: nothing (every run), a goal or a Pareto front."""

    common: Common
    axes: tuple[Axis, ...]
    zipped: bool = False
    goal: SweepGoal | None = None
    front_of: tuple[str, ...] = ()
    prices: PriceSource | None = None

    @property
    def asks_money(self) -> bool:
        """Does the answer hang on prices."""
        return "cost" in (self.goal.what if self.goal else "", *self.front_of)


def sweep(question: SweepQuestion, *, executor: Executor, watch: Watch, kept: Kept | None = None) -> SweepResult:
    """The answer to a question; runs that are kept are not made again. Raises InputError for what cannot be asked."""
    _check(question)
    points = grid_points(question.axes, zipped=question.zipped, **({"most": MOST_SEARCHED} if question.goal else {}))
    wanted = resolve(question.common, points)
    with runs(wanted, executor, watch, kept) as run:
        return _Sweep(question, wanted, run).answer()


def _check(question: SweepQuestion) -> None:
    if question.asks_money and question.prices is None:
        raise InputError("cost needs prices", hint="--prices public takes the list that comes with kvplan; --price gpu=2.5 one of yours")
    goal = question.goal
    if goal and goal.what not in (*OTHERS, *KNOWN) and goal.what not in {axis.path for axis in question.axes}:
        figure_named(goal.what)


class _Sweep:
    """One question with its scenarios."""

    def __init__(self, question: SweepQuestion, wanted: Sequence[Resolved], run: Runs) -> None:
        self.question, self.wanted, self._run = question, wanted, run
        self.known: dict[tuple[str, int, int], Demand] = {}
        self.left_out: dict[str, int] = {}
        self.limits = slo.parse(self.first.run.target)

    @cached_property
    def first(self) -> Scenario:
        return next(one.scenario for one in self.wanted if one.scenario is not None)

    def answer(self) -> SweepResult:
        """The result."""
        looking = self.question.goal is not None or self.question.front_of
        rows, best = self._looked_for() if looking else (dict(enumerate(self._run(self.wanted))), None)
        rows = {at: self._with_costs(at, row) for at, row in sorted(rows.items())}
        places = {at: place for place, at in enumerate(rows)}
        ahead = front({at: row for at, row in rows.items() if self._meets(at, row)}, self._figures) if self.question.front_of else ()
        warnings = dict.fromkeys(text for one in self.wanted if one.scenario for text in (*one.scenario.notes, *one.scenario.model.notes))
        return SweepResult(
            name=self.question.common.source,
            axes={axis.path: axis.values for axis in self.question.axes},
            target=self.first.run.target,
            goal=self.question.goal.text if self.question.goal else "",
            front_of=self.question.front_of,
            grid=len(self.wanted),
            rows=tuple(rows.values()),
            best=None if best is None else places[best],
            front=tuple(places[at] for at in ahead),
            left_out=tuple(LeftOut(points=points, why=why) for why, points in self.left_out.items()),
            price_flips=self._flips(rows, best),
            simulated=self._run.simulated,
            known=self._run.known,
            failed=sum(bool(row.error) for row in rows.values()),
            provenance=_provenance(self.wanted),
            warnings=tuple(warnings),
        )

    # -- looking for the best -----------------------------------------------------------------------------------------

    def _looked_for(self) -> tuple[dict[int, SweepRow], int | None]:
        """The rows that were looked at, and the place of the best."""
        goal = self.question.goal
        worths = self._worths(goal) if goal else {}
        places = self._worth_running(worths)
        if goal and worths:
            search = Search([candidate(at, self.wanted[at], worths[at]) for at in places], self.wanted, self._run, self._meets)
            search.run()
            for one in search.left_out():
                self._leave(one.why, one.points)
            return search.rows, search.best.at if search.best else None
        rows = dict(zip(places, self._run([self.wanted[at] for at in places]), strict=True))
        if goal is None:
            return rows, None
        sign = 1.0 if goal.sense == "min" else -1.0
        met = [at for at, row in rows.items() if self._meets(at, row)]
        return rows, min(met, key=lambda at: (sign * self._figure(at, rows[at], goal.what), at), default=None)

    def _worths(self, goal: SweepGoal) -> dict[int, float]:
        """What each point is worth where that is known without a run, smaller is better; empty where it is a run's outcome."""
        sign = 1.0 if goal.sense == "min" else -1.0
        found: dict[int, float] = {}
        for at, one in enumerate(self.wanted):
            if one.scenario is None:
                continue
            worth = KNOWN[goal.what](self, one.scenario) if goal.what in KNOWN else self._setting(one, goal.what)
            if worth is None:
                return {}
            found[at] = sign * worth
        return found

    def _setting(self, one: Resolved, what: str) -> float | None:
        if what not in one.point:
            return None
        value: Any = one.scenario
        whole = SHORT.get(what, what)
        if what in NAMED and what != "tp":
            raise InputError(f"--goal {what}: a name has no least", hint=did_you_mean("cpu", [*SHORT, *OTHERS]))
        for name in ("deployment.parallel.tp" if what == "tp" else whole).split("."):
            value = getattr(value, name)
        return float(value)

    def _worth_running(self, worths: Mapping[int, float]) -> list[int]:
        """Places of the points that closed forms do not rule out, one of each set that gives the same run."""
        same: dict[tuple[Any, ...], list[int]] = {}
        hopes: dict[tuple[Any, ...], str] = {}
        for at, one in enumerate(self.wanted):
            if one.scenario is None:
                self._leave(one.error)
                continue
            known = self._demand(one.scenario)
            plain = one.scenario.changed(name="", tiers=type(one.scenario.tiers)())
            key = (trace_key(plain), msgspec.json.encode(plain.deployment), plain.run.speedup)
            if key not in hopes:
                hopes[key] = hopeless(plain, known, self.limits)
            if hopes[key]:
                self._leave(hopes[key])
                continue
            fit = dict(zip(("cpu", "disk", "remote"), all_fit(one.scenario, known), strict=True))
            point = tuple((path, "all" if fit.get(_tier_of(path)) else value) for path, value in one.point.items())
            same.setdefault(point, []).append(at)
        places = sorted(min(group, key=lambda at: (worths.get(at, 0.0), at)) for group in same.values())
        self._leave("the same run as a smaller tier that holds all that is ever stored", sum(map(len, same.values())) - len(places))
        return places

    def _demand(self, one: Scenario) -> Demand:
        key = trace_key(one)
        if key not in self.known:
            self.known[key] = demand(one)
        return self.known[key]

    def _leave(self, why: str, points: int = 1) -> None:
        if points:
            self.left_out[why] = self.left_out.get(why, 0) + points

    # -- what a run is worth ------------------------------------------------------------------------------------------

    def _meets(self, at: int, row: SweepRow) -> bool:
        """Is all served that any memory can serve, without a queue that grows, within the limits."""
        one, result = self.wanted[at].scenario, row.result
        if one is None or result is None or row.missed or result.overload or not result.requests.completed:
            return False
        return result.requests.rejected <= refused(one, self._demand(one))

    def _prices(self, one: Scenario) -> Prices | None:
        return self.question.prices.of(one.machine) if self.question.prices else None

    def _cost(self, one: Scenario) -> float | None:
        """Of a million output tokens at the rate that the traffic asks for; None where it hangs on what a run moves over the network."""
        prices = self._prices(one)
        if prices is None or (one.tiers.remote_bytes and prices.network.value):
            return None
        facts = self._run.facts(one)
        tokens_per_s = facts.output_tokens / facts.span_s * one.run.speedup if facts.span_s else 1.0
        return per_hour(prices, used(one)).value / 3600 / max(1e-9, tokens_per_s) * 1e6

    def _with_costs(self, at: int, row: SweepRow) -> SweepRow:
        """A row with its money, wear and energy."""
        one, result = self.wanted[at].scenario, row.result
        if one is None or result is None:
            return row
        prices = self._prices(one)
        return msgspec.structs.replace(
            row,
            money=money_of(prices, one, result) if prices else None,
            wear=_wear(one, result),
            energy=energy(one, result),
        )

    def _figure(self, at: int, row: SweepRow, what: str) -> float:
        """A figure of a row, smaller is better but for those of HIGHER."""
        one, result = self.wanted[at].scenario, row.result
        assert one is not None and result is not None
        if what == "energy":
            found = energy(one, result)
            return found.per_output_token_J.value if found and found.per_output_token_J else float("inf")
        if what == "cost":
            cost, prices = self._cost(one), self._prices(one)
            each = money_of(prices, one, result).per_million_output_tokens if prices else None
            return cost if cost is not None else each.value if each else float("inf")
        return figure(result, what)

    def _figures(self, row: SweepRow) -> tuple[float, ...]:
        at = next(at for at, one in enumerate(self.wanted) if one.point == row.point)
        return tuple((-1.0 if what in HIGHER else 1.0) * self._figure(at, row, what) for what in self.question.front_of)

    def _flips(self, rows: Mapping[int, SweepRow], best: int | None) -> tuple[Flip, ...]:
        """Which price makes another row that meets the limits the cheaper one."""
        goal = self.question.goal
        mine = rows[best].money if best is not None else None
        if best is None or mine is None or goal is None or goal.what != "cost":
            return ()
        known: dict[str, UnitPrice] = {}
        parts = {at: self._parts(at, row, known) for at, row in rows.items() if row.money and (at == best or self._meets(at, row))}
        return flips(known, parts.pop(best), {rows[at].words: one for at, one in parts.items()})

    def _parts(self, at: int, row: SweepRow, known: dict[str, UnitPrice]) -> dict[str, float]:
        """What a row's prices make up, the GPUs of each machine apart; `known` gets the prices by these names."""
        one = self.wanted[at].scenario
        prices = self._prices(one) if one is not None else None
        assert one is not None and prices is not None and row.money is not None
        names = {name: f"gpu of {one.machine.name}" if name == "gpu" else name for name in by_name(prices)}
        known.update({names[name]: price for name, price in by_name(prices).items()})
        return {names[name]: part for name, part in row.money.parts_per_hour.items()}


KNOWN: dict[str, Callable[[_Sweep, Scenario], float | None]] = {"cost": _Sweep._cost, "gpus": lambda _, one: used(one).gpus}
"""Goals whose figure is known before a run."""


def _wear(one: Scenario, result: SimResult) -> Wear | None:
    """Wear of the replicas' shares of their machines' disks."""
    written = next((tier.stored_bytes for tier in result.tiers if tier.name == "disk"), 0)
    if not written or not result.duration_s:
        return None
    share = one.deployment.parallel.all_gpus * one.cluster.replicas / one.machine.gpus
    return wear(one.machine.disk, share=share, written_Bps=written / result.duration_s)


def _tier_of(path: str) -> str:
    """The tier that a setting sizes; empty when it sizes none."""
    whole = SHORT.get(path, path)
    return whole.removeprefix("tiers.").removesuffix("_bytes") if whole.startswith("tiers.") else ""


def _provenance(wanted: Sequence[Resolved]) -> dict[str, Any]:
    """What the runs rest on, beside what is varied."""
    scenarios = [one.scenario for one in wanted if one.scenario is not None]
    named = {what: list(dict.fromkeys(getattr(one, what).name for one in scenarios)) for what in ("model", "machine", "engine")}
    return {"kvplan": __version__, "traces": list(dict.fromkeys(one.trace for one in scenarios)), **named}
