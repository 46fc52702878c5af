"""What a trace reuses: the ceiling, what comes back and when, and what an LRU cache of each size would make of it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from kvplan.results.traffic import Traffic
from kvplan.traces import Trace, columns
from kvplan.traces.columns import Columns
from kvplan.traces.reuse.hit_points import hit_points
from kvplan.traces.reuse.reuse import Reuse, analyse

TOGETHER_S = 10.0
SHARE_OF_SHARERS = 0.05
"""A prefix that fewer than this share of the requests have in common is a session's, not a system prompt."""


def traffic(trace: Trace, token_bytes: float) -> Traffic:
    """Sizes and reuse of a trace; `token_bytes` turns capacities into bytes."""
    data = columns.load(trace)
    known = Traffic(
        requests=data.requests,
        span_s=float(data.arrival_s.max()),
        prompt_tokens=int(data.prompt_tokens.sum()),
        output_tokens=int(data.output_tokens.sum()),
        longest_prompt_tokens=int(data.prompt_tokens.max()),
        longest_context_tokens=int((data.prompt_tokens + data.output_tokens).max()),
        median_prompt_tokens=int(np.median(data.prompt_tokens)),
        named=bool(trace.block_tokens),
    )
    return _with_reuse(known, analyse(data), token_bytes) if known.named else known


def _with_reuse(known: Traffic, reuse: Reuse, token_bytes: float) -> Traffic:
    data, hit = reuse.columns, reuse.before >= 0
    request = data.request_of_event()
    reused = np.bincount(request, weights=np.where(hit, data.tokens, 0), minlength=data.requests) * data.one_in
    if not reused.any():
        return known
    age_s = np.sort(data.arrival_s[request[hit]] - data.arrival_s[request[reuse.before[hit]]])
    sharers, shared = _shared_prefix(data)
    fields = {name: getattr(known, name) for name in known.__struct_fields__}
    return Traffic(
        **fields
        | {
            "ideal_hit": float(reused.sum() / max(1, known.prompt_tokens)),
            "reused_prefix_tokens": int(_weighted_median(reused)),
            "reuse_s": float(age_s[len(age_s) // 2]),
            "reuse_p90_s": float(age_s[len(age_s) * 9 // 10]),
            "prefix_sharers": sharers,
            "shared_prefix_tokens": shared,
            "curve": hit_points(reuse, data.block_tokens * token_bytes),
        }
    )


def _weighted_median(values: np.ndarray) -> float:
    """The value below which half of the sum lies."""
    ordered = np.sort(values)
    return float(ordered[np.searchsorted(np.cumsum(ordered), ordered.sum() / 2)])


def _shared_prefix(data: Columns) -> tuple[int, int]:
    """Most requests within ten seconds that begin with the commonest first block, and how long a prefix they share."""
    has = np.flatnonzero(np.diff(data.starts) > 0)
    first = data.keys[data.starts[has]]
    keys, counts = np.unique(first, return_counts=True)
    if counts.max() < max(2, SHARE_OF_SHARERS * data.requests):
        return 0, 0
    users = has[first == keys[counts.argmax()]]
    times = np.sort(data.arrival_s[users])
    together = int((np.searchsorted(times, times + TOGETHER_S, side="right") - np.arange(len(times))).max())
    found, uses = np.unique(data.keys, return_counts=True)
    common = found[uses >= 0.5 * len(users)]
    path = slice(data.starts[users[0]], data.starts[users[0] + 1])
    return together, int(data.tokens[path][np.isin(data.keys[path], common)].sum())


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
