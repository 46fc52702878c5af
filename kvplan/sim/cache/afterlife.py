"""What no later request names is forgotten by tiers that never evict: a replay knows what will be asked for.

Nothing that a run reports changes by it; the memory of a long run is that of the content which is still to be used.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Sequence

import numpy as np

from kvplan.sim.cache.pool import Keys, Pool
from kvplan.traces.columns import Keys as Hashes
from kvplan.traces.columns import mix
from kvplan.traces.packed import PackedRequests
from kvplan.traces.trace import RequestSource, Trace

LONG_REQUESTS = 100_000
"""In shorter replays forgetting saves less than some 60 MB."""

DELAY = 2_000
"""Requests by which forgetting lags behind the last one that has ended before all later ones: its stores have ended as well."""

_SLOTS = 27
_BATCH = 4096


def afterlife(trace: RequestSource, pools: Iterable[Pool]) -> Afterlife | None:
    """That of a long trace whose rows are in order; None where nothing is to be forgotten."""
    endless = [pool for pool in pools if pool.endless]
    if not endless or not isinstance(trace, Trace) or not trace.block_tokens or len(trace) < LONG_REQUESTS:
        return None
    requests = trace.requests()
    in_order = bool((np.diff(np.frombuffer(requests.index, dtype=np.int64)) > 0).all())
    return Afterlife(requests, endless) if in_order else None


class Afterlife:
    """Tells pools without an end which content is over. `requests` are in the order of rows."""

    def __init__(self, requests: PackedRequests, pools: Sequence[Pool]) -> None:
        self._requests, self._pools, self._names = requests, pools, list(requests.session_names)
        self._kept = named_later(requests)
        self._ended = bytearray(len(requests) + 1)  # by place
        self._upto = 0  # all before this place have ended

    def ended(self, row: int) -> None:
        """The request of a row has its answer, or was refused."""
        self._ended[bisect_left(self._requests.index, row)] = True
        while self._ended[self._upto]:
            self._upto += 1
            if self._upto > DELAY:
                self._forget(self._upto - DELAY - 1)

    def _forget(self, place: int) -> None:
        keys = self._requests.request(place, self._names).blocks
        for pool in self._pools if self._kept[place] < len(keys) else ():
            _forget(pool, keys, self._kept[place] * pool.tree.key_tokens)


def _forget(pool: Pool, keys: Keys, start: int) -> None:
    """Forget what a pool has of some content from token `start` on, and is not about to use. It takes its space as before."""
    tree = pool.tree
    start = -(-start // tree.grain_tokens) * tree.grain_tokens
    leaf = tree.known(keys, len(keys) * tree.key_tokens)
    node = tree.path(keys, leaf.end, start) if leaf.end > start else leaf
    while node.end > start and not node.children:
        entry, above = node.entry, node.parent
        if entry is None or above is None or entry.order is None or entry.coming:  # pinned, or on its way
            break
        pool.tier.forget(entry)
        node = above


def named_later(requests: PackedRequests) -> array[int]:
    """For each request how many of its leading blocks a later one names.

    Perhaps a few more: names are remembered in a Bloom filter of two hashes (Bloom, CACM 1970), since a set of them would take a hundred
    times its memory.
    """
    kept, seen = array("i", [0]) * len(requests), np.zeros(2**_SLOTS, dtype=np.bool_)
    for first in reversed(range(0, len(requests), _BATCH)):
        last = min(first + _BATCH, len(requests))
        ids, starts = requests.ids(first, last)
        hashes: Hashes = mix(ids.view(np.uint64))
        one, two = hashes >> np.uint64(64 - _SLOTS), hashes & np.uint64(2**_SLOTS - 1)
        for place in reversed(range(first, last)):
            mine = slice(starts[place - first], starts[place - first + 1])
            found = np.flatnonzero(seen[one[mine]] & seen[two[mine]])
            if len(found):
                kept[place] = int(found[-1]) + 1
            seen[one[mine]] = seen[two[mine]] = True
    return kept
