"""Hold a prediction against a running server: ask it what it is, replay, simulate what was really sent, compare."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Callable, Sequence

import msgspec

from kvplan import __version__
from kvplan.errors import InputError
from kvplan.live import compare, metrics, sent
from kvplan.live.client import StreamClient
from kvplan.live.content import Content, planned, within
from kvplan.live.negotiate import WARM_UP, negotiate, total_tokens, warm_up
from kvplan.live.prometheus import Page
from kvplan.live.records import Answer, Endpoint, Limits, Replay, Shape
from kvplan.live.replay import STREAMS, late, replay
from kvplan.live.world import Given, scenario_of, unlearned
from kvplan.request import Request
from kvplan.results.validate import Answered, Check, Known, ValidateResult
from kvplan.scenario import Scenario
from kvplan.sim.simulate import opened

Say = Callable[[str], None]
FAILED_SHARE = 0.01
"""A server that fails more of its requests does not do as predicted, however the others fare."""
WARM = f", and {len(WARM_UP)} short ones before"
SETTLE_S = 1.0
"""Stores of an offloading engine end, and its counters move, this long after the last answer (assumed)."""


class ValidateQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """What to hold against which server."""

    endpoint: Endpoint
    source: str
    given: Given = Given()
    limits: Limits = Limits()
    tolerance: float = 0.1
    shape: Shape | None = None
    metrics_at: str = ""
    processes: int = 0  # 0: as many as the streams need
    warm: bool = True
    salt: bytes = b""  # empty: a new one, so that caches are cold


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """A replay with all that it is compared by."""

    scenario: Scenario
    requests: list[Request]
    block_tokens: int
    run: Replay
    known: list[Known]
    counted: dict[str, float]
    seconds: float
    remarks: list[str]
    warm_caches: bool = False  # may what is sent have been sent before


def validate(question: ValidateQuestion, say: Say) -> ValidateResult:
    """Replay, predict, compare. Says beforehand what it will ask of the server.

    Raises InputError when the server cannot be asked or the scenario not built.
    """
    return judged(question, tried(question, say))


def tried(question: ValidateQuestion, say: Say) -> Attempt:
    """Ask the server what it is and replay the requests against it."""
    served, before = asyncio.run(ask(question))
    endpoint = _named(question.endpoint, served)
    scenario, known = scenario_of(question.source, question.given, served)
    if scenario.defaults is not None and scenario.defaults.first_line():
        say(scenario.defaults.first_line())
    trace = opened(scenario)
    speedup = scenario.run.speedup
    everything = [msgspec.structs.replace(request, arrival_s=request.arrival_s / speedup) for request in trace]
    requests, cut = within(everything, question.limits)
    salt = question.salt or os.urandom(16)
    endpoint, remarks = asyncio.run(negotiate(endpoint, served.engine, question.limits, salt, question.shape))
    if cut:
        remarks.append(f"stops at {cut}: {len(requests):,} of {len(everything):,} requests are sent")
    _, columns = sent.run(scenario, requests, trace.block_tokens)
    streams = sent.streams_at_once(columns)
    processes = question.processes or max(1, min(math.ceil(streams / STREAMS), os.cpu_count() or 1))
    prompt_tokens, output_tokens = total_tokens(requests)
    say(
        f"sends {len(requests):,} requests with {prompt_tokens:,} prompt tokens and {output_tokens:,} to be generated within "
        f"{requests[-1].arrival_s - requests[0].arrival_s:,.0f} s to {endpoint.url}, about {streams:,} at once, from {processes} "
        f"process{'es' if processes > 1 else ''}{WARM if question.warm else ''}; stops after {question.limits.errors} failures"
    )
    if question.warm:
        longest = min((limit for limit in (served.context_tokens, scenario.model.max_context_tokens) if limit), default=1 << 40) - 16
        asyncio.run(warm_up(endpoint, question.limits, salt, longest))
        before = asyncio.run(_page(question, endpoint, served)) if before is not None else None
    content = Content(trace.name, trace.block_tokens or 1, salt, text=endpoint.shape != "ids")
    bodies = list(planned(requests, content, endpoint))
    began_s = time.perf_counter()
    run = replay(bodies, endpoint, question.limits, processes=processes, told=_progress(say, len(bodies)))
    seconds = time.perf_counter() - began_s
    counted = _counted(question, endpoint, served, before, run, remarks)
    return Attempt(
        scenario=scenario, requests=requests, block_tokens=trace.block_tokens, run=run, known=known, counted=counted, seconds=seconds,
        warm_caches=bool(question.salt),
        remarks=[text for text in (*remarks, unlearned(known), *(f"the server did not tell {what}" for what in served.unknown)) if text],
    )  # fmt: skip


def judged(question: ValidateQuestion, trial: Attempt) -> ValidateResult:
    """The requests as sent through the simulator, beside what was measured."""
    run = trial.run
    seen = [answer for answer in run.answers if answer.ok or answer.status == 200]
    requests = sent.as_sent(trial.requests, seen)
    result, columns = sent.run(trial.scenario, requests or trial.requests, trial.block_tokens)  # none sent: what was meant
    rows = compare.rows(seen, columns)
    finished = [answer for answer in seen if answer.ok]
    truth = compare.measured(finished, _tiers(trial.counted, finished))
    guess = compare.predicted(columns, result.itl_s)
    errors = compare.errors(truth, guess, rows, trial.scenario.engine.block_tokens)
    checks = compare.checks(errors, question.tolerance)
    warnings = [*trial.remarks, *_doubts(trial, requests, seen)]
    verdict, reason = verdict_of(run, checks, len(trial.requests), impossible=_impossible(trial, requests, seen))
    return ValidateResult(
        endpoint=question.endpoint.url,
        requests=compare.sent_requests(run, len(trial.requests)),
        client=compare.client_lag(run),
        measured=truth,
        predicted=guess,
        error=errors,
        verdict=verdict,
        reason=reason,
        tolerance=question.tolerance,
        checks=checks,
        known=trial.known,
        rows=rows,
        duration_s=trial.seconds,
        provenance={"kvplan": __version__, "trace": question.source, "scenario": result.provenance},
        warnings=warnings,
    )


def verdict_of(run: Replay, checks: Sequence[Check], total: int, *, impossible: int = 0) -> tuple[Answered, str]:
    """What the run says, and why."""
    if run.interrupted:
        return "interrupted", f"interrupted with {len(run.answers):,} of {total:,} requests measured"
    if run.stopped:
        return "incomplete", run.stopped
    if not any(answer.ok for answer in run.answers):
        said = run.answers[0].error if run.answers else "nothing was sent"
        return "incomplete", f"no request came to its end: {said}"
    reason = late(run)
    if reason:
        return "refused", reason
    if impossible:
        return "off", f"{impossible:,} answers claim more cached tokens than any cache could hold"
    failed = sum(not answer.ok for answer in run.answers)
    if failed > FAILED_SHARE * total:
        said = next(answer.error for answer in run.answers if not answer.ok)
        return "incomplete", f"{failed:,} of {total:,} requests failed: {said}"
    missed = [check for check in checks if not check.met]
    if missed:
        return "off", "off in " + ", ".join(f"{check.name} ({_signed(check)}, allowed {check.limit:.0%})" for check in missed)
    return "agrees", f"{failed} of {total:,} requests failed; the others agree" if failed else ""


def _signed(check: Check) -> str:
    value = check.value or 0.0
    return f"{value:.1%}" if check.name.startswith("cached") else f"{value:+.1%}"


async def ask(question: ValidateQuestion) -> tuple[metrics.Served, Page | None]:
    """What the server is, and its metrics now."""
    async with StreamClient(question.endpoint, question.limits) as client:
        return await metrics.ask(client, question.metrics_at)


async def _page(question: ValidateQuestion, endpoint: Endpoint, served: metrics.Served) -> Page | None:
    async with StreamClient(endpoint, question.limits) as client:
        return await metrics.read_page(client, served.metrics)


def _named(endpoint: Endpoint, served: metrics.Served) -> Endpoint:
    if endpoint.model:
        if served.models and endpoint.model not in served.models:
            raise InputError(f"the server does not serve {endpoint.model!r}", hint=f"it serves {', '.join(served.models)}")
        return endpoint
    if not served.models:
        raise InputError("the server does not say which model it serves", hint="name it: --served-model NAME")
    return msgspec.structs.replace(endpoint, model=served.models[0])


def _progress(say: Say, total: int) -> Callable[[Answer], None]:
    done = [0]

    def told(answer: Answer) -> None:
        done[0] += 1
        if total >= 20 and done[0] % max(1, total // 10) == 0:
            say(f"{done[0]:,} of {total:,} requests answered")

    return told


def _counted(
    question: ValidateQuestion, endpoint: Endpoint, served: metrics.Served, before: Page | None, run: Replay, remarks: list[str]
) -> dict[str, float]:
    """What the server's own counters moved by during the run."""
    if before is None or run.interrupted:
        return {}
    time.sleep(SETTLE_S)
    try:
        after = asyncio.run(_page(question, endpoint, served))
        found = metrics.window(before, after) if after is not None else None
    except InputError as error:
        remarks.append(f"no figures from its metrics: {error.message}")
        return {}
    if found is None:
        return {}
    asked = sum(answer.prompt_tokens for answer in run.answers if answer.status == 200 and answer.prompt_tokens > 0)
    counted = found.counted.get("prompt_tokens", 0.0)
    if asked and counted > 1.02 * asked:
        remarks.append(f"others used the server meanwhile: it counted {counted:,.0f} prompt tokens, of which {asked:,} were ours")
    return found.counted


def _tiers(counted: dict[str, float], answers: Sequence[Answer]) -> dict[str, int]:
    """Hit tokens by tier: from the answers where they tell, from the counters otherwise."""
    by_place = {"gpu": ("device",), "cpu": ("host",), "disk": ("storage", "disk")}
    told = {name: sum(answer.cached_by.get(place, 0) for answer in answers for place in places) for name, places in by_place.items()}
    if any(told.values()):
        return told
    return {name: round(counted[f"{name}_hit_tokens"]) for name in compare.HITS if f"{name}_hit_tokens" in counted}


def _impossible(trial: Attempt, requests: Sequence[Request], answers: Sequence[Answer]) -> int:
    return compare.impossible_cached(requests, answers, trial.block_tokens) if trial.block_tokens and not trial.warm_caches else 0


def _doubts(trial: Attempt, requests: Sequence[Request], answers: Sequence[Answer]) -> list[str]:
    """What a reader should know of the answers."""
    found = []
    told = [answer.cached_tokens for answer in answers if answer.cached_tokens >= 0]
    own = sum(trial.counted.get(f"{name}_hit_tokens", 0.0) for name in compare.HITS)
    block = trial.scenario.engine.block_tokens
    if told and "gpu_hit_tokens" in trial.counted and abs(sum(told) - own) > max(block, 0.02 * sum(told)):
        found.append(f"answers tell {sum(told):,} cached tokens, the server's own counters {own:,.0f}")
    asked = {request.index: max(1, request.output_tokens) for request in trial.requests}
    short = sum(answer.ok and answer.output_tokens >= 0 and answer.output_tokens < asked[answer.index] for answer in trial.run.answers)
    if short:
        found.append(f"{short:,} answers are shorter than asked; they were predicted at the length that came")
    several = bool(trial.run.lateness) and sum(answer.ok and len(answer.reads) < answer.reads[-1][1] for answer in answers)
    if several:
        found.append(f"{several:,} answers had several tokens in a chunk; the time between tokens is spread over them")
    crowded = [part.process for part in trial.run.lateness if part.streams > STREAMS]
    if crowded:
        found.append(f"more than {STREAMS} streams at once in client process {', '.join(map(str, crowded))}: see its read lag, or use more")
    return found
