"""From the designed probe to an engine's own overheads: fit, hold out, refuse or write."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from kvplan import outputs
from kvplan.fit.joint import JointFit, beyond, fit_jointly, spread
from kvplan.fit.least_squares import Parameter
from kvplan.hardware.timing import ANCHOR_LAUNCH_S, ANCHOR_PYTHON_S, host_factors
from kvplan.live import sent
from kvplan.live.compare import HITS
from kvplan.live.probe import BLOCK, Design, held_out
from kvplan.live.records import Answer
from kvplan.live.validate import Attempt, Say
from kvplan.provenance import Source
from kvplan.results.validate import FittedNumber, ServerFit
from kvplan.scenario import Scenario, with_setting
from kvplan.toml_text import to_toml

OVERHEADS: dict[str, float] = {
    "engine.overhead.request_s": 3e-4, "engine.overhead.transit_s": 2e-3, "engine.overhead.input_token_s": 3e-7,
    "engine.overhead.prepare_s": 2e-3, "engine.overhead.collect_s": 2e-3, "engine.overhead.step_s": 3e-3, "engine.overhead.gap_s": 3e-4,
    "engine.overhead.launch_layer_s": 3e-4, "engine.overhead.launch_layer_eager_s": 6e-4, "engine.overhead.step_sequence_s": 1e-5,
}  # fmt: skip
"""Host-side constants that a probe tells, and what they are about where the engine's file has none (a Python engine; assumed)."""
LOADS: dict[str, float] = {"engine.overhead.load_s": 5e-3, "engine.overhead.load_block_s": 5e-6}
"""What a load from host memory costs the engine, where the server has such a tier."""
EFFICIENCIES = (
    "engine.kernel_share",
    "machine.gpu.weight_read_efficiency",
    "machine.gpu.kv_read_efficiency",
    "machine.gpu.attention_efficiency",
)
"""What prefill and decode reach of the GPU."""
HOST = {"machine.host.python_s": ANCHOR_PYTHON_S, "machine.host.launch_s": ANCHOR_LAUNCH_S}
"""The two numbers that scale all of the engine's host side: what it does for each token, and the rest."""
HOST_WIDTH, WIDTH, EFFICIENCY_WIDTH = 0.7, 0.3, 0.15
"""How far a number may lie from the shipped one where no probe tells it: the host twice as slow or fast (known hosts differ by up to
1.7), its parts a third beside that, what kernels reach a sixth (assumed)."""
NEW_WIDTH = 1.5
"""The same for a number that the shipped file leaves at 0, such as what an HTTP server adds to an engine measured without one."""
BURST_SPREAD = 0.15
"""How far requests that arrive together differ by chance: which of them share a step (assumed)."""
SPREAD, TIMER_S = 0.03, 0.5e-3
"""Spread of repeated requests alone on one server: about 3 %, and half a millisecond of the operating system (assumed; the
residuals widen it)."""
LEAST_TOKENS = 8
"""A mean time between tokens rests on as many answers' tokens at least."""


class MeasuredTime(msgspec.Struct, frozen=True, kw_only=True):
    """One measured time of one probe: the median over its requests, so that a burst of many counts once."""

    probe: int
    kind: str
    rows: tuple[int, ...]
    column: str  # ttft_s or itl_s
    seconds: float

    def of(self, columns: Any) -> float:
        """The same time in the columns of a simulation."""
        return max(1e-9, float(statistics.median(columns[self.column][row] for row in self.rows)))


def fit(trial: Attempt, plan: Design, seed: int, say: Say) -> tuple[ServerFit, Scenario]:
    """Fit on two thirds of the probes; judge on the rest, which was drawn by the seed before. Returns the scenario with the fitted
    numbers, or the old one where the fit is refused."""
    answers = [answer for answer in trial.run.answers if answer.ok]
    requests = sent.as_sent(trial.requests, answers)
    shipped = sent.run(trial.scenario, requests, BLOCK)[1]
    points = _points(answers, plan, shipped, trial.scenario.engine.block_tokens)
    out = held_out(plan.probes, seed)
    told, kept = [p for p in points if p.probe not in out], [p for p in points if p.probe in out]
    factors = _factors(trial.scenario)
    if len(told) < 2 * len(factors) or not kept:
        return ServerFit(
            accepted=False, reason="too few probes came to their end", probes=len(plan.probes), held_out=len(out)
        ), trial.scenario
    say(f"fits {len(factors)} numbers to {len(told)} times of {len(plan.probes) - len(out)} probes; {len(out)} are held out")
    memory: dict[tuple[float, ...], Any] = {}

    def columns(values: dict[str, float]) -> Any:
        key = tuple(values.values())
        if key not in memory:
            memory[key] = sent.run(_with(trial.scenario, values), requests, BLOCK)[1]
        return memory[key]

    def at(chosen: Sequence[MeasuredTime]) -> Any:
        return lambda values: [point.of(columns(values)) for point in chosen]

    found = fit_jointly(at(told), factors, [p.seconds for p in told], _sigma(told))
    before = _error([p.of(shipped) for p in kept], kept)
    guessed = at(kept)(found.values)
    after = _error(guessed, kept)
    halves = spread(found, at(kept), _widened(kept, told, found.off))
    inside = [abs(math.log(guess / p.seconds)) <= half for guess, p, half in zip(guessed, kept, halves, strict=True)]
    accepted = after < before
    result = ServerFit(
        accepted=accepted,
        reason="" if accepted else f"on the probes held out it is off by {after:.1%}, the shipped file by {before:.1%}",
        numbers=_numbers(trial.scenario, found),
        probes=len(plan.probes),
        held_out=len(out),
        error_shipped=before,
        error_fitted=after,
        coverage=sum(inside) / len(inside),
    )
    return result, _with(trial.scenario, found.values) if accepted else trial.scenario


def _points(answers: Sequence[Answer], plan: Design, columns: Any, block_tokens: int) -> list[MeasuredTime]:
    """The times that count: of requests whose cached tokens are as predicted, since others did other work."""
    times: dict[tuple[int, str], list[tuple[int, float]]] = {}
    for row, answer in enumerate(answers):
        number = plan.probe_of[answer.index]
        hits = sum(int(columns[f"{tier}_hit_tokens"][row]) for tier in HITS)
        surprised = answer.cached_tokens >= 0 and abs(answer.cached_tokens - hits) > block_tokens
        if plan.probes[number].kind == "fill" or surprised:
            continue
        times.setdefault((number, "ttft_s"), []).append((row, answer.ttft_s))
        between = answer.itl_s
        if between and answer.reads[-1][1] >= LEAST_TOKENS:
            times.setdefault((number, "itl_s"), []).append((row, between))
    return [
        MeasuredTime(
            probe=number, kind=plan.probes[number].kind, rows=tuple(row for row, _ in found), column=column,
            seconds=statistics.median(seconds for _, seconds in found),
        )
        for (number, column), found in times.items()
    ]  # fmt: skip


def _sigma(points: Sequence[MeasuredTime]) -> list[float]:
    return [
        math.hypot(BURST_SPREAD if p.kind in ("burst", "mixed") else SPREAD, TIMER_S / p.seconds if p.column == "ttft_s" else 0.0)
        for p in points
    ]


def _widened(kept: Sequence[MeasuredTime], told: Sequence[MeasuredTime], off: Sequence[float]) -> list[float]:
    """The spread of each time, widened by how far the fitted times of its kind of probe exceeded theirs."""
    kinds: dict[str, list[float]] = {}
    for point, one in zip(told, off, strict=True):
        kinds.setdefault(point.kind, []).append(one)
    factors = {kind: beyond(found) for kind, found in kinds.items()}
    return [sigma * factors.get(p.kind, 1.0) for sigma, p in zip(_sigma(kept), kept, strict=True)]


def _error(predicted: Sequence[float], points: Sequence[MeasuredTime]) -> float:
    return statistics.median(abs(guess / p.seconds - 1) for guess, p in zip(predicted, points, strict=True))


def _value(scenario: Scenario, path: str) -> float | None:
    """A number of the scenario; None where this kvplan has no such field."""
    value: Any = scenario
    for name in path.split("."):
        value = getattr(value, name, None)
    return float(value) if isinstance(value, int | float) else None


def _factors(scenario: Scenario) -> list[Parameter]:
    found = [_within(path, _shipped(scenario, path), HOST_WIDTH) for path in HOST]
    for path, usual in (OVERHEADS | (LOADS if scenario.tiers.cpu_bytes else {})).items():
        shipped = _value(scenario, path)
        if shipped is not None:
            found.append(_within(path, shipped or usual, WIDTH if shipped else NEW_WIDTH))
    for path in EFFICIENCIES:
        shipped = _value(scenario, path)
        if shipped:
            found.append(_within(path, min(shipped, 0.999), EFFICIENCY_WIDTH, at_most=1.0))
    return found


def _within(path: str, typical: float, width: float, at_most: float = math.inf) -> Parameter:
    """A number that may leave its typical value by four of its widths."""
    reach = math.exp(4 * width)
    return Parameter(name=path, typical=typical, width=width, at_least=typical / reach, at_most=min(at_most, typical * reach))


def _with(scenario: Scenario, values: dict[str, float]) -> Scenario:
    for path, value in values.items():
        scenario = with_setting(scenario, path, value)
    return scenario


def _shipped(scenario: Scenario, path: str) -> float:
    if path in HOST:
        python, step = host_factors(scenario.machine.host)
        factors = dict(zip(HOST, (python, 2 * step - python), strict=True))  # a step is the mean of Python and launches
        return factors[path] * HOST[path]
    return _value(scenario, path) or 0.0


def _numbers(scenario: Scenario, found: JointFit) -> list[FittedNumber]:
    return [
        FittedNumber(path=path, shipped=_shipped(scenario, path), value=found.values[path], lo=low, hi=high)
        for path, (low, high) in found.intervals.items()
    ]


def written(fitted: ServerFit, scenario: Scenario, path: str) -> ServerFit:
    """The fitted engine as a file, and the machine beside it where its numbers moved; each number says where it comes from."""
    told = fitted.probes - fitted.held_out
    source = f"measured on this server: {told} probes, median error {fitted.error_fitted:.1%} on {fitted.held_out} others"
    names: dict[str, str] = {}
    for part, file in (("engine", Path(path)), ("machine", Path(path).with_name(f"{Path(path).stem}-machine.toml"))):
        mine = [one for one in fitted.numbers if one.path.startswith(part + ".")]
        noted = {one.path.partition(".")[2]: Source(kind="measured", source=source, lo=one.lo, hi=one.hi) for one in mine}
        record = getattr(scenario, part)
        record = msgspec.structs.replace(record, provenance={**record.provenance, **noted})
        outputs.write(file, to_toml(msgspec.to_builtins(record)).encode())
        names[part] = str(file)
    return msgspec.structs.replace(fitted, engine=names["engine"], machine=names["machine"])
