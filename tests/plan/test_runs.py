"""What a plan simulates, and what it does not: nothing twice, nothing that a window or a bound rules out."""

from __future__ import annotations

import msgspec
import pytest

from kvplan import scenario
from kvplan.executor import Executor
from kvplan.planning import runs, search, space
from kvplan.planning.capacity import _Bracket, _Seen
from kvplan.planning.costs import must_wear_out
from kvplan.planning.objective import Objective, parse_target
from kvplan.planning.plan import plan
from kvplan.planning.prepare import space_of
from kvplan.planning.runs import Runner, Simulation, realise, run_one, unwatched
from kvplan.planning.search import option
from kvplan.planning.space import nothing
from kvplan.planning.widths import splits
from kvplan.results.plan import PlanResult
from kvplan.results.simulate import SimResult
from kvplan.units import GiB


def test_nothing_is_simulated_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Simulation] = []
    monkeypatch.setattr(runs, "run_one", lambda job: made.append(job) or len(made))
    run = Runner(Executor(workers=1), unwatched, 1)
    base = scenario.load("chat")
    first, second, later = (Simulation(base, reuse) for reuse in (1.0, 0.5, 0.25))
    run.ahead(later)
    assert run([first, second, first]) == [1, 2, 1]
    assert run([later, second]) == [3, 2]
    assert made == [first, second, later] and run.runs == 3


def test_of_a_long_trace_a_window_says_that_the_kv_needs_eight_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = scenario.load("small-gpu")
    target = parse_target(loaded.run.target)
    monkeypatch.setattr(space, "LONG_REQUESTS", 90)
    for module in (space, search):
        monkeypatch.setattr(module, "WINDOW_REQUESTS", 70)
    seen: list[str] = []
    found = plan(loaded, target=target, watch=lambda done, about, so_far: seen.append(so_far))
    assert found.verdict.kind == "offload" and found.placement.kv_dtype == "fp8" and found.placement.cpu_bytes
    asked = [one for one in found.options if one.placement.kv_dtype == "auto"]
    assert [one.name for one in asked] == ["GPU only"]
    assert any(one.what == "tiers with KV of auto" for one in found.pruned)
    assert any("from the first 70 of 99 requests, where the tier's effect is" in one for one in found.warnings)
    assert seen[found.simulated // 2].startswith("so far: CPU")  # long before the end


def test_a_disk_is_worn_out_by_what_is_new_in_the_traffic() -> None:
    """1,000,000 prompt tokens of which half are new, 131,072 bytes each: 65.5 GB in 1,000 s are 5.66 TB a day. A drive of 7.68 TB that is
    rated for 7.68 TB a day for five years, 14 PB, takes them for 6.8 years; with a tenth of that rating for 0.7, which is under three."""
    known, _ = space_of(scenario.load("chat"), Objective(), None, None, None)
    disk = msgspec.structs.replace(known.base.machine.disk, capacity_bytes=7.68e12, endurance_bytes=1.4e16)
    traffic = msgspec.structs.replace(known.traffic, prompt_tokens=10**6, ideal_hit=0.5)
    asked = msgspec.structs.replace(nothing(known), cpu_bytes=GiB, disk_bytes=10 * GiB)
    outcome = run_one(Simulation(realise(known.base, nothing(known))))
    assert isinstance(outcome, SimResult)
    without = msgspec.structs.replace(option(known, nothing(known), outcome, "ttft"), duration_s=1000.0)

    def why(endurance: float, **changes: object) -> str:
        machine = msgspec.structs.replace(known.base.machine, disk=msgspec.structs.replace(disk, endurance_bytes=endurance))
        fields = {"base": known.base.changed(machine=machine), "traffic": traffic, "token_bytes": 131072.0, **changes}
        return must_wear_out(msgspec.structs.replace(known, **fields), asked, without)

    assert "5.7 TB a day" in why(1.4e15)
    assert not why(1.4e16)
    assert not why(1.4e15, allow_wear=True)


def test_a_width_that_cannot_take_the_requests_is_no_gain() -> None:
    """Half the GPUs leave 70B agents a pool that holds none of their prompts."""
    known, _ = space_of(scenario.load("agents", run={"limit": 40}), Objective(), None, None, None)
    run = Runner(Executor(workers=1), unwatched, 1)
    (outcome,) = run([Simulation(realise(known.base, nothing(known)))])
    assert isinstance(outcome, SimResult)
    found, pruned = splits(known, run, "ttft", option(known, nothing(known), outcome, "ttft"))
    assert 2 not in [one.other.tp for one in found]
    assert next(one.why for one in pruned if one.what == "TP 2") == "40 requests more would not fit"


def test_the_load_that_just_meets_the_limits_lies_between_two_speeds() -> None:
    # At twice the arrivals the limit is 1.4 of what came out, at 2.4 times 0.8: two thirds of the way down to 1.
    bracket = _Bracket()
    bracket.met, bracket.missed = _Seen(2.0, 1.4, 10.0), _Seen(2.4, 0.8, 11.2)
    found = bracket.load()
    assert (found.factor, found.requests_per_s, found.at_least) == (pytest.approx(2.0 + 0.4 * 2 / 3), pytest.approx(10.8), False)
    bracket.missed = _Seen(2.4, 0.0)  # requests were refused there: nothing to draw a line to
    assert bracket.load().factor == 2.0


def interrupted(after: int) -> PlanResult:
    """A plan of `chat` whose user presses Ctrl-C when so many simulations are done."""
    left = [KeyboardInterrupt()]

    def watch(done: int, about: int, so_far: str) -> None:
        if done == after and left:
            raise left.pop()

    return plan(scenario.load("chat"), watch=watch)


@pytest.mark.parametrize("after", [3, 9])
def test_an_interrupt_leaves_the_best_answer_so_far(after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the first capacities, and in the middle of what the answer rests on."""
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")
    found = interrupted(after)
    assert found.partial and found.simulated == after
    assert found.verdict.kind == "offload" and found.placement.cpu_bytes
    assert any("interrupted" in one for one in found.warnings) and any("interrupted" in one for one in found.verdict.reservations)
    assert found.gain is None and "95%" not in found.verdict.sentence
    assert (found.assumptions, found.at_load, found.capacity, found.splits) == ((), {}, None, ())


def test_an_interrupt_before_there_is_anything_to_compare_is_just_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")
    with pytest.raises(KeyboardInterrupt):
        interrupted(1)


def test_a_run_that_an_interrupt_cut_short_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(runs.World, "_ended", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_one(Simulation(scenario.load("chat", run={"limit": 5})))
