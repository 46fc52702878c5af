"""How far apart the uses of a block are, and what an LRU cache of any size makes of it, in one pass.

A block hits only if all earlier blocks of its request hit; a request's blocks are touched tail first, so that its tail
is evicted before its head. Then ancestors are always more recent than descendants, the depth of a block in the LRU
stack grows along a request, and a block hits in every cache larger than its own depth (Mattson et al., IBM Systems
Journal 1970).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from kvplan.traces.columns import Columns, Ints

NEVER = np.iinfo(np.int64).max
"""A distance that nothing reaches; in an array the largest number of its type stands for it."""

_CHUNK = 2**20
_TOKEN_BITS = 27
"""Enough for the tokens of a block (MAX_TOKENS); distances keep 36 bits."""


@dataclass(frozen=True, slots=True)
class Reuse:
    """Columns with, for each event, the event that used the same block before (-1: none) and its stack distance."""

    columns: Columns
    before: Ints
    distance: Ints
    number: Ints  # of a sample: equal for the events of one block; else empty

    @property
    def again(self) -> npt.NDArray[np.bool_]:
        """Which events are not the first of their block."""
        return self.distance < np.iinfo(self.distance.dtype).max


def analyse(columns: Columns, *, keep_keys: bool = True) -> Reuse:
    """Previous uses and stack distances of all events. Without `keep_keys` the columns lose their keys, which saves 8 bytes an event."""
    before, number = _previous(columns)
    if not keep_keys:
        columns = replace(columns, keys=columns.keys[:0].copy())
    return Reuse(columns, before, _stack_distances(columns, before), number)


def nodes(before: Ints) -> Ints:
    """A dense number for each distinct block, the same for all its events."""
    first = before < 0
    root = np.arange(len(before), dtype=before.dtype)
    np.copyto(root, before, where=~first)
    further = np.empty_like(root)
    while not np.array_equal(np.take(root, root, out=further), root):
        root, further = further, root
    del further
    return (np.cumsum(first, dtype=before.dtype) - 1)[root]


class Window:
    """The requests from `first` on: stack distances of the events that are not first uses, in order (`reused`), and
    the tokens that the first n of them cover (`tokens`).
    """

    def __init__(self, reuse: Reuse, first: int) -> None:
        columns = reuse.columns
        self.reuse, self.first, self.start = reuse, first, int(columns.starts[first])
        distance, covered = reuse.distance[self.start :], columns.tokens[self.start :]
        self.events, self.event_tokens = len(distance), int(covered.sum())
        again = reuse.again[self.start :]
        both = distance[again].astype(np.int64)
        both <<= _TOKEN_BITS  # distance and tokens in one number, which is sorted in place
        both |= covered[again]
        both.sort()
        self.tokens = np.zeros(len(both) + 1, dtype=np.int64)
        for at in range(0, len(both), _CHUNK):
            part = both[at : at + _CHUNK] & (1 << _TOKEN_BITS) - 1
            self.tokens[at + 1 : at + 1 + len(part)] = self.tokens[at] + np.cumsum(part)
        both >>= _TOKEN_BITS
        self.reused = both
        self.blocks = int(columns.blocks[first:].sum())
        self.prompt_tokens = int(columns.prompt_tokens[first:].sum())
        self.named_tokens = int(np.minimum(columns.blocks[first:] * columns.block_tokens, columns.prompt_tokens[first:]).sum())


_PARTS = 4  # as a power of two: sorting a part of the keys at a time needs a part of the memory


def _previous(columns: Columns) -> tuple[Ints, Ints]:
    """The event that used the same block before (-1: none), and of a sample the number of each event's block."""
    keys = columns.keys
    kind = np.int32 if len(keys) * columns.one_in < 2**31 else np.int64
    before: Ints = np.full(len(keys), -1, dtype=kind)
    number: Ints = np.empty(len(keys) if columns.one_in > 1 else 0, dtype=kind)
    part, blocks = (keys >> np.uint64(64 - _PARTS)).astype(np.uint8), 0
    for which in range(2**_PARTS):
        events = np.flatnonzero(part == which)
        events = events[np.argsort(keys[events], kind="stable")]
        same = keys[events[1:]] == keys[events[:-1]]
        before[events[1:][same]] = events[:-1][same]
        if len(number) and len(events):
            number[events] = blocks + np.concatenate(([0], np.cumsum(~same)))
            blocks += len(events) - int(same.sum())
    return before, number


def _stack_distances(columns: Columns, before: Ints) -> Ints:
    """For each event the number of other blocks above its block in the LRU stack when its request is looked up; NEVER
    for a first use.

    With touches numbered in stack order, the blocks above one last touched at p when request t starts (at s) are the
    touches in (p, s) less those that are used again before s, which are the touches j < s whose own previous touch
    lies after p. Deeper blocks of the same request come before it in touch order but have no previous touch after p,
    so that j may run up to the block's own touch.
    """
    counts = np.diff(columns.starts)
    mirror = np.repeat((columns.starts[:-1] + columns.starts[1:] - 1).astype(before.dtype), counts)
    touch = mirror - np.arange(len(before), dtype=before.dtype)  # tail first within a request; its own inverse
    del mirror
    reused = touch[before[touch] >= 0]  # events in the order of their touches
    at = touch[before[reused]]
    del touch
    above = -1 - at - _greater_before(at)
    above += np.repeat(columns.starts[:-1].astype(before.dtype), counts)[reused]
    above *= above.dtype.type(columns.one_in)
    distance = np.full(len(before), np.iinfo(before.dtype).max, dtype=before.dtype)
    distance[reused] = above
    return distance


def _greater_before(values: Ints) -> Ints:
    """For each i the number of j < i with values[j] > values[i]; values are distinct.

    Blocks that were used one after another mostly are so again: stretches in which values count up by one are taken
    as one, of their length, since no other value lies between theirs.
    """
    if not len(values):
        return values
    kind = values.dtype
    heads = np.concatenate(([0], np.flatnonzero(np.diff(values) != 1) + 1)).astype(kind)
    lengths = np.diff(heads, append=kind.type(len(values)))
    return np.repeat(_heavier_before(values[heads], lengths), lengths)


def _heavier_before(values: Ints, weights: Ints) -> Ints:
    """For each i the sum of weights[j] over j < i with values[j] > values[i]; values are distinct. O(n log n): one
    vectorised pass a bit of the rank.
    """
    n, kind = len(values), values.dtype  # as narrow as the values: their number bounds all that is counted
    row, place = np.arange(n, dtype=kind), np.arange(n, dtype=kind)
    rank = np.empty(n, dtype=kind)
    rank[np.argsort(values)] = row
    total = np.zeros(n, dtype=kind)
    for bit in reversed(range(max(1, n - 1).bit_length())):
        # Rows are grouped by the higher bits of their rank, in the original order within a group; ranks are dense, so
        # groups are aligned.
        high = (rank >> bit & 1).astype(bool)
        group = rank >> (bit + 1) << (bit + 1)
        heavy = _running(np.where(high, weights[row], 0))
        total[row] += np.where(high, 0, heavy[:-1] - heavy[group])
        del heavy
        ones = _running(high.astype(kind))
        ones_before = ones[:-1] - ones[group]
        del ones
        to = np.where(high, group + kind.type(1 << bit), place - ones_before)
        to[high] += ones_before[high]
        del group, ones_before
        for moved in (rank, row):
            moved[to] = moved.copy()
    return total


def _running(values: Ints) -> Ints:
    running = np.zeros(len(values) + 1, dtype=values.dtype)
    np.cumsum(values, out=running[1:])
    return running
