"""What a trace reuses: the ceiling, what comes back and when, and what an LRU cache of each size would make of it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from kvplan.results.plan_result import HitPoint, Traffic
from kvplan.traces import Trace, columns
from kvplan.traces.columns import Columns, Ints
from kvplan.traces.reuse import NEVER, previous, stack_distances

POINTS = 48
SHARE_OF_SHARERS = 0.01
"""A prefix that fewer than this share of the requests have in common is a session's, not a system prompt."""


def traffic(trace: Trace, token_bytes: float) -> Traffic:
    """Sizes and reuse of a trace; `token_bytes` turns capacities into bytes."""
    arrivals, prompts, outputs = [], [], []
    for request in trace:
        arrivals.append(request.arrival_s)
        prompts.append(request.prompt_tokens)
        outputs.append(request.output_tokens)
    basics = {
        "requests": len(trace),
        "span_s": max(arrivals),
        "prompt_tokens": sum(prompts),
        "output_tokens": sum(outputs),
        "longest_prompt_tokens": max(prompts),
        "median_prompt_tokens": int(np.median(prompts)),
        "named": bool(trace.block_tokens),
    }
    if not trace.block_tokens:
        return Traffic(**basics)
    data = columns.load(trace)
    before = previous(data)
    return Traffic(
        **basics,
        **_reuse(data, before, np.array(arrivals)),
        curve=_curve(data, before, trace.block_tokens * token_bytes),
    )


def _reuse(data: Columns, before: Ints, arrival_s: np.ndarray) -> dict[str, float | int]:
    hit = before >= 0
    request = data.request_of_event()
    tokens = np.bincount(request, weights=np.where(hit, data.tokens, 0), minlength=data.requests) * data.weight
    reused = tokens[tokens > 0]
    total = max(1, int(data.prompt_tokens.sum()))
    if not len(reused):
        return {"ideal_hit": 0.0}
    age_s = np.sort(arrival_s[request[hit]] - arrival_s[request[before[hit]]])
    sharers, shared = _shared_prefix(data, arrival_s)
    return {
        "ideal_hit": float(tokens.sum() / total),
        "reused_prefix_tokens": int(np.median(reused)),
        "reuse_s": float(age_s[len(age_s) // 2]),
        "reuse_p90_s": float(age_s[len(age_s) * 9 // 10]),
        "prefix_sharers": sharers,
        "shared_prefix_tokens": shared,
    }


def _shared_prefix(data: Columns, arrival_s: np.ndarray) -> tuple[int, int]:
    """Most requests within ten seconds that begin with the commonest first block, and how long a prefix they share."""
    has = np.flatnonzero(np.diff(data.starts) > 0)
    first = data.keys[data.starts[has]]
    keys, counts = np.unique(first, return_counts=True)
    if counts.max() < max(2, SHARE_OF_SHARERS * data.requests):
        return 0, 0
    users = has[first == keys[counts.argmax()]]
    times = np.sort(arrival_s[users])
    together = int((np.searchsorted(times, times + 10.0, side="right") - np.arange(len(times))).max())
    uses = np.unique(data.keys, return_counts=True)
    common = set(uses[0][uses[1] >= 0.5 * len(users)].tolist())
    start, end = data.starts[users[0]], data.starts[users[0] + 1]
    length = 0
    for key, tokens in zip(data.keys[start:end].tolist(), data.tokens[start:end].tolist(), strict=True):
        if key not in common:
            break
        length += tokens
    return together, int(length)


def _curve(data: Columns, before: Ints, block_bytes: float) -> tuple[HitPoint, ...]:
    """Token hit rate of LRU at capacities in equal ratios, up to where it reaches the ideal."""
    distance = stack_distances(data, before)
    order = np.argsort(distance)
    ordered, tokens = distance[order], np.concatenate(([0], np.cumsum(data.tokens[order]))) * data.weight
    reached = int((ordered < NEVER).sum())
    if not reached:
        return ()
    most = int(ordered[reached - 1]) + 1
    total = max(1, int(data.prompt_tokens.sum()))
    capacities = sorted({round(x) for x in np.geomspace(min(16, most), most, POINTS)})
    return tuple(
        HitPoint(
            capacity_bytes=round(capacity * block_bytes),
            token_hit=float(tokens[int(np.searchsorted(ordered, capacity))] / total),
        )
        for capacity in capacities
    )


def hit_at(known: Traffic, capacity_bytes: float) -> float:
    """Share of the prompt tokens that LRU of a capacity serves, between the points of the curve."""
    curve = known.curve
    if not curve or capacity_bytes <= 0:
        return 0.0
    if capacity_bytes <= curve[0].capacity_bytes:
        return curve[0].token_hit * capacity_bytes / curve[0].capacity_bytes
    for left, right in pairwise(curve):
        if capacity_bytes <= right.capacity_bytes:
            share = (capacity_bytes - left.capacity_bytes) / (right.capacity_bytes - left.capacity_bytes)
            return left.token_hit + share * (right.token_hit - left.token_hit)
    return curve[-1].token_hit


def capacity_for(known: Traffic, hit: float) -> int:
    """The smallest capacity of the curve whose hit rate is at least `hit`; the last one when none is."""
    for point in known.curve:
        if point.token_hit >= hit:
            return point.capacity_bytes
    return known.curve[-1].capacity_bytes if known.curve else 0
