"""What a cache hits under LRU, FIFO and Belady's optimum at given capacities."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence

import numpy as np

from kvplan.traces.columns import Columns, Ints
from kvplan.traces.reuse.reuse import NEVER, Window, nodes

_LANES = 2**26
"""FIFO simulates so many capacities together that blocks x capacities stays below this."""


def lru(window: Window, capacities: Sequence[int]) -> Ints:
    """Hit blocks and hit tokens, shape (2, capacities): every use nearer than the capacity.

    Of sampled blocks the misses are scaled up and the hits are the rest: a block used very often hits nearly always,
    and whether it is in the sample must not matter.
    """
    one_in = window.reuse.columns.one_in
    near = np.searchsorted(window.reused, np.minimum(np.array(capacities, dtype=np.int64), NEVER))
    missed_blocks = (window.events - near) * one_in
    missed_tokens = (window.event_tokens - window.tokens[near]) * one_in
    return np.array([window.blocks - missed_blocks, window.named_tokens - missed_tokens])


def fifo(window: Window, capacities: Sequence[int]) -> Ints:
    """Hit blocks and hit tokens, shape (2, capacities). Missing blocks are inserted head first, each pushing out the
    oldest insertion.

    The m-th insertion is resident while fewer than `capacity` have followed it, so that one number a block and
    capacity is the whole state.
    """
    columns, number = window.reuse.columns, nodes(window.reuse.before)
    lanes = max(1, _LANES // max(1, len(number)))
    parts = [_fifo(columns, number, capacities[at : at + lanes]) for at in range(0, len(capacities), lanes)]
    return _totals(window, np.concatenate(parts, axis=1))


def _fifo(columns: Columns, nodes: Ints, capacities: Sequence[int]) -> Ints:
    """Leading hit blocks, shape (requests, capacities)."""
    room = np.array(capacities, dtype=np.int64)
    inserted = np.full((int(nodes.max(initial=-1)) + 1, len(room)), -(2**62), dtype=np.int64)
    total = np.zeros(len(room), dtype=np.int64)  # insertions so far
    hits = np.zeros((columns.requests, len(room)), dtype=np.int64)
    starts = columns.starts.tolist()
    for request in range(columns.requests):
        path = nodes[starts[request] : starts[request + 1]]
        if not len(path):
            continue
        age = inserted[path]
        missing = age < total - room
        hits[request] = np.where(missing.any(axis=0), missing.argmax(axis=0), len(path))
        while True:
            # Inserting a block nearer to the head may push out one further along before its turn comes.
            order = np.cumsum(missing, axis=0)
            now = age < total - room + order - missing
            if np.array_equal(now, missing):
                break
            missing = now
        inserted[path] = np.where(missing, total + order - 1, age)
        total = total + order[-1]
    return hits


def opt(window: Window, capacities: Sequence[int]) -> Ints:
    """Hit blocks and hit tokens, shape (2, capacities), of Belady's optimum with bypass: what is needed last goes
    first.

    A block used by request t and next by request e is worth keeping from t to e. Blocks of one request with the same e
    move together; along a request e never falls, so that the deepest blocks go first and what stays is a prefix.
    """
    columns, before = window.reuse.columns, window.reuse.before
    request = columns.request_of_event()
    reused = np.flatnonzero(before >= 0)
    # Spans (t, e) in the order in which they give way: the last needed, and of those the least recently used, which
    # lie deepest.
    last_t = columns.requests - 1
    span = -(request[reused] * columns.requests + last_t - request[before[reused]])
    spans, size = np.unique(span, return_counts=True)
    end, start = -spans // columns.requests, last_t - (-spans) % columns.requests
    starting, ending, sizes = _buckets(start), _buckets(end), size.tolist()
    hits = np.zeros((columns.requests, len(capacities)), dtype=np.int64)
    for lane, capacity in enumerate(capacities):
        np.add.at(hits[:, lane], end, np.array(_kept(starting, ending, sizes, capacity), dtype=np.int64))
    return _totals(window, hits)


def _kept(starting: dict[int, list[int]], ending: dict[int, list[int]], size: list[int], capacity: int) -> list[int]:
    """Blocks of each span that survive to its end."""
    kept, held = size[:], 0
    heap: list[int] = []
    for request in sorted(starting.keys() | ending.keys()):
        for span in ending.get(request, ()):
            held -= kept[span]
        for span in starting.get(request, ()):
            held += kept[span]
            heapq.heappush(heap, span)
        while held > capacity:
            span = heap[0]
            cut = min(kept[span], held - capacity)
            kept[span] -= cut
            held -= cut
            if not kept[span]:
                heapq.heappop(heap)
    return kept


def _buckets(values: Ints) -> dict[int, list[int]]:
    buckets: dict[int, list[int]] = {}
    for index, value in enumerate(values.tolist()):
        buckets.setdefault(value, []).append(index)
    return buckets


def _totals(window: Window, hits: Ints) -> Ints:
    columns, first = window.reuse.columns, window.first
    tokens = np.minimum(hits * columns.block_tokens, columns.prompt_tokens[:, None])
    return np.array([hits[first:].sum(axis=0), tokens[first:].sum(axis=0)])


POLICIES: dict[str, Callable[[Window, Sequence[int]], Ints]] = {"lru": lru, "fifo": fifo, "opt": opt}
"""Policy name -> hit blocks and hit tokens of a window at capacities; the caches have seen all requests before it."""
