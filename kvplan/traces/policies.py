"""What FIFO and Belady's optimum hit at given capacities: per request, how many leading blocks."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence

import numpy as np

from kvplan.traces.columns import Columns, Ints

_LANES = 2**26
"""Capacities simulated together are limited so that blocks x capacities stays below this many numbers."""


def lru(columns: Columns, before: Ints, distances: Ints, capacities: Sequence[int]) -> Ints:
    """Hit blocks, shape (requests, capacities), by stack distance (see reuse.stack_distances)."""
    hits = distances[:, None] < np.array(capacities)
    sums = np.zeros((len(hits) + 1, len(capacities)), dtype=np.int64)
    np.cumsum(hits, axis=0, out=sums[1:])
    return sums[columns.starts[1:]] - sums[columns.starts[:-1]]


def fifo(columns: Columns, before: Ints, distances: Ints, capacities: Sequence[int]) -> Ints:
    """Hit blocks, shape (requests, capacities). Missing blocks are inserted head first, each pushing out the oldest
    insertion.

    The m-th insertion is resident while fewer than `capacity` have followed it, so one number a block and capacity is
    the whole state.
    """
    nodes = _nodes(before)
    lanes = max(1, _LANES // max(1, len(nodes)))
    parts = [_fifo(columns, nodes, capacities[i : i + lanes]) for i in range(0, len(capacities), lanes)]
    return np.concatenate(parts, axis=1)


def _fifo(columns: Columns, nodes: Ints, capacities: Sequence[int]) -> Ints:
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
        oldest = total - room
        missing = age < oldest
        hits[request] = np.where(missing.any(axis=0), missing.argmax(axis=0), len(path))
        while True:
            # An insertion for a block nearer to the head may push out a block further along before its turn comes.
            order = np.cumsum(missing, axis=0)
            now = age < oldest + order - missing
            if np.array_equal(now, missing):
                break
            missing = now
        inserted[path] = np.where(missing, total + order - 1, age)
        total = total + order[-1]
    return hits


def opt(columns: Columns, before: Ints, distances: Ints, capacities: Sequence[int]) -> Ints:
    """Hit blocks, shape (requests, capacities), of Belady's optimum with bypass: of what is needed again, what is
    needed last goes first.

    A block used by request t and next by request e is worth keeping from t to e. Blocks of one request with the same e
    move together; along a request e never falls, so the deepest blocks go first and what stays is a prefix.
    """
    request = columns.request_of_event()
    reuse = np.flatnonzero(before >= 0)
    pair = request[reuse] * columns.requests + (columns.requests - 1 - request[before[reuse]])
    spans, size = np.unique(
        -pair, return_counts=True
    )  # last needed first; of those the least recently used, which lie deepest
    end = -spans // columns.requests
    start = columns.requests - 1 - (-spans) % columns.requests
    hits = np.zeros((columns.requests, len(capacities)), dtype=np.int64)
    by_start, by_end = _buckets(start), _buckets(end)
    for lane, capacity in enumerate(capacities):
        kept = np.array(_belady(by_start, by_end, size.tolist(), capacity), dtype=np.int64)
        np.add.at(hits[:, lane], end, kept)
    return hits


def _belady(starting: dict[int, list[int]], ending: dict[int, list[int]], size: list[int], capacity: int) -> list[int]:
    """Blocks of each span that survive to its end; spans are numbered in the order in which they give way."""
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


def _nodes(before: Ints) -> Ints:
    """A dense number for each distinct block, the same for all its events."""
    first = before < 0
    number = np.cumsum(first) - 1
    root = np.where(first, np.arange(len(before)), before)
    while True:
        further = root[root]
        if np.array_equal(further, root):
            return number[root]
        root = further


POLICIES: dict[str, Callable[[Columns, Ints, Ints, Sequence[int]], Ints]] = {"lru": lru, "fifo": fifo, "opt": opt}
"""Policy name -> function of columns, previous uses, stack distances and capacities."""
