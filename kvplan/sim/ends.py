"""The interval of a run under overload: replays with the numbers that it rests on moved to the ends of their own intervals.

A queue that grows for as long as the traffic lasts follows no stationary formula, so nothing is extrapolated: the first requests of the
trace are replayed at both ends of each number, and the ratios of their mean times are laid on the whole run's.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import BinaryIO

import msgspec

from kvplan import copies
from kvplan.provenance import Z95, Kind, relative_sigma
from kvplan.results.simulate import Doubt, Interval, SimResult
from kvplan.scenario import Scenario, with_setting
from kvplan.sim.outcome.uncertainty import MODEL_SIGMA
from kvplan.sim.simulate import opened, simulate

WINDOW_REQUESTS = 150

LONG_REQUESTS = 3000
"""A trace of so many takes longer than all replays of its window."""

Moved = tuple[str, Kind, float]
"""What a time rests on, where that comes from, and its relative standard deviation."""

MOVED = (
    ("prefill speed", ("gpu.gemm_efficiency", "gpu.attention_efficiency")),
    ("memory reads", ("gpu.weight_read_efficiency", "gpu.kv_read_efficiency")),
    ("link to host memory", ("link.h2d_Bps", "link.d2h_Bps")),
    ("disk", ("disk.read_Bps", "disk.stream_Bps", "disk.write_Bps")),
)
"""What a time rests on -> the numbers of the machine that are moved together; the first one's source says how well they are known."""


@contextmanager
def ends_of(scenario: Scenario) -> Iterator[Callable[[SimResult], SimResult]]:
    """What gives the result of a scenario its intervals, where the traffic overloads the machine. The replays for those of a long trace run
    beside what is done meanwhile, if there is a core for them and their window is overloaded as well.
    """
    moved, replays = _moved(scenario)
    with ExitStack() as running:
        ahead: BinaryIO | None = None
        if copies.possible(2) > 1 and len(opened(scenario)) >= LONG_REQUESTS:
            ahead = running.enter_context(copies.beside(partial(_ahead, replays)))
        yield lambda result: _with_ends(result, moved, replays, ahead)


def _moved(scenario: Scenario) -> tuple[list[Moved], list[Scenario]]:
    """The numbers that the times of a scenario rest on; its window, and that with each of them at its lower and its upper end."""
    base = _window(scenario)
    moved, replays = list[Moved](), [base]
    for what, paths in MOVED:
        if (what == "disk" and not scenario.tiers.disk_bytes) or (what.startswith("link") and not scenario.tiers.cpu_bytes):
            continue
        source = scenario.machine.source(paths[0])
        sigma = math.hypot(relative_sigma(source, _number(base, paths[0])), MODEL_SIGMA)
        moved.append((what, source.kind, sigma))
        replays += [_scaled(base, paths, math.exp(side * Z95 * sigma)) for side in (-1, 1)]
    return moved, replays


def _ahead(replays: list[Scenario]) -> Iterator[list[tuple[float, float]]]:
    """The means of replays, unless the first one says that they are not asked for."""
    base, *others = replays
    result = simulate(base)[0]
    if result.overload:
        yield [_means(result), *map(_replayed, others)]


def _with_ends(result: SimResult, moved: list[Moved], replays: list[Scenario], ahead: BinaryIO | None) -> SimResult:
    if not result.overload or result.ttft_s.mean is None or result.itl_s.mean is None:
        return result
    try:
        means = dict(enumerate(pickle.load(ahead))) if ahead is not None else {}
    except (EOFError, pickle.UnpicklingError):
        means = {}
    means = means or dict(copies.shared_out(_replayed, replays, copies.possible(len(replays))))
    if not all(means[0]):
        return msgspec.structs.replace(result, interval=Interval())
    up = {"ttft": 0.0, "itl": 0.0}
    down = dict(up)
    rests = []
    for place, (what, kind, sigma) in enumerate(moved):
        largest = 0.0
        for at in (2 * place + 1, 2 * place + 2):
            for name, now, before in zip(up, means[at], means[0], strict=True):
                change = math.log(now / before) if now else 0.0
                side = up if change > 0 else down
                side[name] = math.hypot(side[name], change)
                largest = max(largest, abs(change)) if name == "ttft" else largest
        if largest > 0.005:
            rests.append(Doubt(what=what, kind=kind, sigma_rel=sigma, share=largest / (Z95 * sigma)))
    rests.sort(key=lambda one: -one.share * one.sigma_rel)
    around = {
        name: (mean * math.exp(-down[name]), mean * math.exp(up[name]))
        for name, mean in (("ttft", result.ttft_s.mean), ("itl", result.itl_s.mean))
    }
    return msgspec.structs.replace(result, interval=Interval(ttft_mean_s=around["ttft"], itl_mean_s=around["itl"], rests_on=rests))


def _replayed(scenario: Scenario) -> tuple[float, float]:
    return _means(simulate(scenario)[0])


def _means(result: SimResult) -> tuple[float, float]:
    """The mean time to first token and between tokens; 0 where there is none."""
    return result.ttft_s.mean or 0.0, result.itl_s.mean or 0.0


def _window(scenario: Scenario) -> Scenario:
    limit = min(filter(None, (scenario.run.limit, WINDOW_REQUESTS)))
    return scenario.changed(run=msgspec.structs.replace(scenario.run, limit=limit))


def _number(scenario: Scenario, path: str) -> float:
    part, name = path.split(".")
    return getattr(getattr(scenario.machine, part), name)


def _scaled(scenario: Scenario, paths: tuple[str, ...], factor: float) -> Scenario:
    for path in paths:
        value = _number(scenario, path) * factor
        scenario = with_setting(scenario, f"machine.{path}", min(1.0, value) if path.endswith("_efficiency") else value)
    return scenario
