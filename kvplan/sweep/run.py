"""Runs the points of a sweep, on all cores or a cluster."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Protocol

import msgspec

from kvplan.errors import KvplanError
from kvplan.executor import Executor, Watch, fitting, run_all
from kvplan.results.simulate import SimResult
from kvplan.results.sweep import SweepRow
from kvplan.scenario import Scenario
from kvplan.sim.outcome.summary import summarise
from kvplan.sim.simulate import World, opened
from kvplan.sweep.keys import key_of
from kvplan.sweep.points import Resolved
from kvplan.sweep.values import Point
from kvplan.traces.shared import SharedTrace, attach, shared

TraceKey = tuple[str, int, int]


class Failure(msgspec.Struct, frozen=True):
    """Why a run gave nothing; `lasting`: it would give nothing again."""

    message: str
    lasting: bool = True


Outcome = bytes | Failure
"""A SimResult as JSON, or a failure: what goes between processes and into a store."""


def trace_key(one: Scenario) -> TraceKey:
    """Which requests a scenario replays: path, limit and longest prompt."""
    return one.trace, one.run.limit, one.run.max_input_tokens


def run_one(traces: tuple[SharedTrace, ...], one: Scenario) -> Outcome:
    """Simulate a scenario in whatever process this is. Raises KeyboardInterrupt when the user stops it."""
    try:
        attach(traces)
        record = World(one, opened(one)).run()
    except KvplanError as error:
        return Failure(error.message)
    except Exception as error:
        return Failure(f"a bug in kvplan: {type(error).__name__}: {error}")
    if record.partial:
        raise KeyboardInterrupt
    return msgspec.json.encode(summarise(record))


class Kept(Protocol):
    """Where outcomes are kept under a key."""

    def known(self, keys: Iterable[str]) -> dict[str, Outcome]: ...
    def put(self, key: str, point: Point, outcome: Outcome) -> None: ...


class Runs:
    """Runs scenarios, each once: what is kept under its key is not run again."""

    def __init__(self, traces: Mapping[TraceKey, SharedTrace], executor: Executor, watch: Watch, kept: Kept | None) -> None:
        self._traces, self._executor, self._watch, self._kept = traces, executor, watch, kept
        self.simulated = self.known = 0

    def __call__(self, wanted: Sequence[Resolved]) -> list[SweepRow]:
        """A row for each point, in their order."""
        keys = [self._key(one) for one in wanted]
        outcomes = self._kept.known(key for key in keys if key) if self._kept else {}
        self.known += len(outcomes)
        left = {key: one for key, one in zip(keys, wanted, strict=True) if key and key not in outcomes}
        for key, outcome in self._simulated(left):
            outcomes[key] = outcome
            if self._kept:
                self._kept.put(key, left[key].point, outcome)
            self.simulated += 1
            self._watch(self.simulated, self.simulated + len(left) - sum(key in outcomes for key in left), "")
        return [row_of(one, outcomes.get(key)) for key, one in zip(keys, wanted, strict=True)]

    def facts(self, one: Scenario) -> SharedTrace:
        """What is known of the requests that a scenario replays."""
        return self._traces[trace_key(one)]

    def _key(self, one: Resolved) -> str:
        return "" if one.scenario is None else key_of(one.scenario, self.facts(one.scenario).digest)

    def _simulated(self, left: Mapping[str, Resolved]) -> Iterator[tuple[str, Outcome]]:
        keys, jobs = list(left), [one.scenario for one in left.values() if one.scenario is not None]
        executor = fitting(self._executor, sum(self.facts(job).requests for job in jobs))
        for place, outcome in run_all(partial(run_one, tuple(self._traces.values())), jobs, executor):
            yield keys[place], Failure(outcome.message, lasting=False) if isinstance(outcome, KvplanError) else outcome


def row_of(one: Resolved, outcome: Outcome | None) -> SweepRow:
    """The row of a point."""
    if isinstance(outcome, bytes):
        result = msgspec.json.decode(outcome, type=SimResult)
        return SweepRow(point=one.point, result=msgspec.structs.replace(result, provenance={}))
    return SweepRow(point=one.point, error=outcome.message if outcome else one.error)


@contextmanager
def runs(wanted: Sequence[Resolved], executor: Executor, watch: Watch, kept: Kept | None = None) -> Iterator[Runs]:
    """What runs these points: their traces are parsed once, now."""
    keys = list(dict.fromkeys(trace_key(one.scenario) for one in wanted if one.scenario is not None))
    with shared(keys) as traces:
        yield Runs(dict(zip(keys, traces, strict=True)), executor, watch, kept)
