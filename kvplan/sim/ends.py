"""The interval of a run under overload: replays with the numbers that it rests on moved to the ends of their own intervals.

A queue that grows for as long as the traffic lasts follows no stationary formula, so nothing is extrapolated: the first requests of the
trace are replayed at both ends of each number, and the ratios of their mean times are laid on the whole run's.
"""

from __future__ import annotations

import math

import msgspec

from kvplan.provenance import Z95, relative_sigma
from kvplan.results.simulate import Doubt, Interval, SimResult
from kvplan.scenario import Scenario, with_setting
from kvplan.sim.outcome.uncertainty import MODEL_SIGMA
from kvplan.sim.simulate import simulate

WINDOW_REQUESTS = 150

MOVED = (
    ("prefill speed", ("gpu.gemm_efficiency", "gpu.attention_efficiency")),
    ("memory reads", ("gpu.weight_read_efficiency", "gpu.kv_read_efficiency")),
    ("link to host memory", ("link.h2d_Bps", "link.d2h_Bps")),
    ("disk", ("disk.read_Bps", "disk.stream_Bps", "disk.write_Bps")),
)
"""What a time rests on -> the numbers of the machine that are moved together; the first one's source says how well they are known."""


def with_ends(scenario: Scenario, result: SimResult) -> SimResult:
    """The result with its intervals from replays at both ends of each number, where the traffic overloads the machine."""
    if not result.overload or result.ttft_s.mean is None or result.itl_s.mean is None:
        return result
    base = _window(scenario)
    plain = simulate(base)[0]
    if not plain.ttft_s.mean or not plain.itl_s.mean:
        return msgspec.structs.replace(result, interval=Interval())
    up = {"ttft": 0.0, "itl": 0.0}
    down = dict(up)
    rests = []
    for what, paths in MOVED:
        if (what == "disk" and not scenario.tiers.disk_bytes) or (what.startswith("link") and not scenario.tiers.cpu_bytes):
            continue
        source = scenario.machine.source(paths[0])
        sigma = math.hypot(relative_sigma(source, _number(base, paths[0])), MODEL_SIGMA)
        largest = 0.0
        for factor in (math.exp(-Z95 * sigma), math.exp(Z95 * sigma)):
            moved = simulate(_scaled(base, paths, factor))[0]
            for name, now, before in (("ttft", moved.ttft_s.mean, plain.ttft_s.mean), ("itl", moved.itl_s.mean, plain.itl_s.mean)):
                change = math.log(now / before) if now else 0.0
                side = up if change > 0 else down
                side[name] = math.hypot(side[name], change)
                largest = max(largest, abs(change)) if name == "ttft" else largest
        if largest > 0.005:
            rests.append(Doubt(what=what, kind=source.kind, sigma_rel=sigma, share=largest / (Z95 * sigma)))
    rests.sort(key=lambda one: -one.share * one.sigma_rel)
    around = {
        name: (mean * math.exp(-down[name]), mean * math.exp(up[name]))
        for name, mean in (("ttft", result.ttft_s.mean), ("itl", result.itl_s.mean))
    }
    return msgspec.structs.replace(result, interval=Interval(ttft_mean_s=around["ttft"], itl_mean_s=around["itl"], rests_on=rests))


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
