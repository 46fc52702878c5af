"""Measured against predicted, and the verdict."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from kvplan.live.records import Answer, Replay
from kvplan.request import Request
from kvplan.results.simulate import Stats
from kvplan.results.validate import Check, ClientLag, ClientProcess, Errors, LagStats, SentRequests, SentRow, Side

QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}


def stats(values: Sequence[float], weights: Sequence[float] | None = None) -> Stats:
    """Mean and quantiles of seconds, each counted `weights` times."""
    if not len(values):
        return Stats(mean=None, max=None, **dict.fromkeys(QUANTILES))
    found = np.asarray(values, dtype=float)
    if weights is None:
        at = np.quantile(found, list(QUANTILES.values()))
        mean = float(found.mean())
    else:
        order = np.argsort(found)
        total = np.cumsum(np.asarray(weights, dtype=float)[order])
        at = found[order][np.minimum(np.searchsorted(total, np.array(list(QUANTILES.values())) * total[-1]), len(found) - 1)]
        mean = float(np.average(found, weights=weights))
    return Stats(mean=mean, max=float(found.max()), **{name: float(value) for name, value in zip(QUANTILES, at, strict=True)})


def lags(seconds: Iterable[float]) -> LagStats:
    """Median, 99th percentile and largest of some lags."""
    found = np.array(list(seconds))
    if not len(found):
        return LagStats(p50=None, p99=None, max=None)
    return LagStats(p50=float(np.quantile(found, 0.5)), p99=float(np.quantile(found, 0.99)), max=float(found.max()))


def client_lag(run: Replay) -> ClientLag:
    """The lateness of a replay's client."""
    return ClientLag(
        send_lag_s=lags(lag for part in run.lateness for lag in part.send_s),
        read_lag_s=lags(lag for part in run.lateness for lag in part.read_s),
        processes=[
            ClientProcess(process=part.process, streams=part.streams, send_lag_s=lags(part.send_s), read_lag_s=lags(part.read_s))
            for part in sorted(run.lateness, key=lambda part: part.process)
        ],
    )


def sent_requests(run: Replay, total: int) -> SentRequests:
    """What became of the requests."""
    errors: dict[str, int] = {}
    for answer in run.answers:
        if not answer.ok:
            errors[answer.error] = errors.get(answer.error, 0) + 1
    completed = sum(answer.ok for answer in run.answers)
    return SentRequests(total=total, completed=completed, failed=len(run.answers) - completed, errors=errors)


def measured(answers: Sequence[Answer], tiers: dict[str, int]) -> Side:
    """What the client saw of the requests that came to their end."""
    gaps: list[float] = []
    weights: list[int] = []
    for answer in answers:
        for (before_s, before), (at_s, at) in zip(answer.reads, answer.reads[1:], strict=False):
            gaps.append((at_s - before_s) / (at - before))
            weights.append(at - before)
    told = [answer.cached_tokens for answer in answers if answer.cached_tokens >= 0]
    return Side(
        ttft_s=stats([answer.ttft_s for answer in answers]),
        itl_s=stats(gaps, weights),
        e2e_s=stats([answer.e2e_s for answer in answers]),
        cached_tokens=sum(told) if told else None,
        tiers=tiers,
    )


HITS = ("gpu", "cpu", "disk", "remote")


def predicted(columns: dict[str, Any], itl_s: Stats) -> Side:
    """What the simulator says of the same requests; `columns` are those of a run, one row a request."""
    ran = columns["status"] == 0
    tiers = {name: int(columns[f"{name}_hit_tokens"][ran].sum()) for name in HITS}
    return Side(
        ttft_s=stats(columns["ttft_s"][ran]),
        itl_s=itl_s,
        e2e_s=stats(columns["e2e_s"][ran]),
        cached_tokens=sum(tiers.values()),
        tiers={name: tokens for name, tokens in tiers.items() if tokens or name == "gpu"},
    )


def rows(answers: Sequence[Answer], columns: dict[str, Any]) -> list[SentRow]:
    """Each request that came to its end beside its prediction; the i-th answer is row i of the columns."""

    def number(name: str, at: int) -> float | None:
        value = float(columns[name][at])
        return None if math.isnan(value) or columns["status"][at] else value

    return [
        SentRow(
            index=answer.index,
            intended_s=answer.due_s,
            sent_s=answer.sent_s,
            prompt_tokens=int(columns["prompt_tokens"][at]),
            output_tokens=int(columns["output_tokens"][at]),
            ttft_s=answer.ttft_s,
            itl_s=answer.itl_s,
            e2e_s=answer.e2e_s,
            cached_tokens=answer.cached_tokens if answer.cached_tokens >= 0 else None,
            predicted_ttft_s=number("ttft_s", at),
            predicted_itl_s=number("itl_s", at),
            predicted_e2e_s=number("e2e_s", at),
            predicted_cached_tokens=None if columns["status"][at] else int(sum(columns[f"{name}_hit_tokens"][at] for name in HITS)),
        )
        for at, answer in enumerate(answers)
        if answer.ok
    ]


def errors(truth: Side, guess: Side, found: Sequence[SentRow], block_tokens: int) -> Errors:
    """How far the prediction is off."""
    cached = [
        abs(row.cached_tokens - row.predicted_cached_tokens)
        for row in found
        if row.cached_tokens is not None and row.predicted_cached_tokens is not None
    ]
    return Errors(
        ttft_mean=_off(guess.ttft_s.mean, truth.ttft_s.mean),
        ttft_p50=_off(guess.ttft_s.p50, truth.ttft_s.p50),
        ttft_p90=_off(guess.ttft_s.p90, truth.ttft_s.p90),
        ttft_p99=_off(guess.ttft_s.p99, truth.ttft_s.p99),
        itl_p50=_off(guess.itl_s.p50, truth.itl_s.p50),
        itl_mean=_off(guess.itl_s.mean, truth.itl_s.mean),
        e2e_mean=_off(guess.e2e_s.mean, truth.e2e_s.mean),
        cached_exact=sum(gap == 0 for gap in cached) / len(cached) if cached else None,
        cached_within_block=sum(gap <= block_tokens for gap in cached) / len(cached) if cached else None,
    )


def _off(guess: float | None, truth: float | None) -> float | None:
    return None if guess is None or not truth else guess / truth - 1


def checks(found: Errors, tolerance: float) -> list[Check]:
    """What the verdict asks: mean time to first token, median time between tokens and mean request time within the tolerance,
    and cached tokens within a block for as many requests as it leaves. What was not measured is not asked."""
    times = {"ttft_mean": found.ttft_mean, "itl_p50": found.itl_p50, "e2e_mean": found.e2e_mean}
    asked = [
        Check(name=name, value=value, limit=tolerance, met=abs(value) <= tolerance) for name, value in times.items() if value is not None
    ]
    share = found.cached_within_block
    if share is not None:
        asked.append(Check(name="cached_within_block", value=share, limit=1 - tolerance, met=share >= 1 - tolerance))
    return asked


def impossible_cached(requests: Sequence[Request], answers: Sequence[Answer], block_tokens: int) -> int:
    """How many answers claim more cached tokens than any cache could hold: prompts sent later share nothing with what was not
    sent before. The i-th answer belongs to the i-th request, in the order of sending; `block_tokens` is the trace's.
    """
    seen: set[int] = set()
    lies = 0
    for request, answer in zip(requests, answers, strict=True):
        shared = next((at for at, key in enumerate(request.blocks) if key not in seen), len(request.blocks))
        seen.update(request.blocks)
        possible = min(shared * block_tokens, request.prompt_tokens)
        lies += answer.cached_tokens > possible
    return lies
