"""How far apart the uses of a block are, and what an LRU cache of any size makes of it, in one pass.

A block hits only if all earlier blocks of its request hit; a request's blocks are touched tail first, so that its tail
is evicted before its head. Then ancestors are always more recent than descendants, the depth of a block in the LRU
stack grows along a request, and a block hits in every cache larger than its own depth (Mattson et al., IBM Systems
Journal 1970).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kvplan.traces.columns import Columns, Ints

NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class Reuse:
    """Columns with, for each event, the event that used the same block before (-1: none) and its stack distance."""

    columns: Columns
    before: Ints
    distance: Ints


def analyse(columns: Columns) -> Reuse:
    """Previous uses and stack distances of all events."""
    before = _previous(columns)
    return Reuse(columns, before, _stack_distances(columns, before))


def nodes(before: Ints) -> Ints:
    """A dense number for each distinct block, the same for all its events."""
    first = before < 0
    root = np.where(first, np.arange(len(before)), before)
    while not np.array_equal(further := root[root], root):
        root = further
    return (np.cumsum(first) - 1)[root]


class Window:
    """The requests from `first` on, with their events in order of stack distance."""

    def __init__(self, reuse: Reuse, first: int) -> None:
        columns = reuse.columns
        self.reuse, self.first, self.start = reuse, first, int(columns.starts[first])
        order = np.argsort(reuse.distance[self.start :], kind="stable")
        self.distance = reuse.distance[self.start :][order]
        self.tokens = np.concatenate(([0], np.cumsum(columns.tokens[self.start :][order])))  # covered by the first n
        self.blocks = int(columns.blocks[first:].sum())
        self.prompt_tokens = int(columns.prompt_tokens[first:].sum())
        self.named_tokens = int(np.minimum(columns.blocks[first:] * columns.block_tokens, columns.prompt_tokens[first:]).sum())

    @property
    def reused(self) -> Ints:
        """Stack distances of the events that are not first uses, in order."""
        return self.distance[: np.searchsorted(self.distance, NEVER)]


def _previous(columns: Columns) -> Ints:
    order = np.argsort(columns.keys, kind="stable")
    same = columns.keys[order[1:]] == columns.keys[order[:-1]]
    before = np.full(len(order), -1, dtype=np.int64)
    before[order[1:][same]] = order[:-1][same]
    return before


def _stack_distances(columns: Columns, before: Ints) -> Ints:
    """For each event the number of other blocks above its block in the LRU stack when its request is looked up; NEVER
    for a first use.

    With touches numbered in stack order, the blocks above one last touched at p when request t starts (at s) are the
    touches in (p, s) less those that are used again before s, which are the touches j < s whose own previous touch
    lies after p. Deeper blocks of the same request come before it in touch order but have no previous touch after p,
    so that j may run up to the block's own touch.
    """
    first = np.repeat(columns.starts[:-1], np.diff(columns.starts))
    last = np.repeat(columns.starts[1:], np.diff(columns.starts)) - 1
    touch = first + last - np.arange(len(before))  # tail first within a request; its own inverse
    reused = touch[before[touch] >= 0]  # events in the order of their touches
    at = touch[before[reused]]
    distance = np.full(len(before), NEVER, dtype=np.int64)
    distance[reused] = (first[reused] - at - 1 - _greater_before(at)) * columns.one_in
    return distance


def _greater_before(values: Ints) -> Ints:
    """For each i the number of j < i with values[j] > values[i]; values are distinct. O(n log n): one vectorised pass
    a bit of the rank.
    """
    n = len(values)
    row = np.arange(n)
    rank = np.empty(n, dtype=np.int64)
    rank[np.argsort(values)] = row
    count = np.zeros(n, dtype=np.int64)
    for bit in reversed(range(max(1, n - 1).bit_length())):
        # Rows are grouped by the higher bits of their rank, in the original order within a group; ranks are dense, so
        # groups are aligned.
        high = (rank >> bit) & 1
        group = rank >> (bit + 1) << (bit + 1)
        ones = np.concatenate(([0], np.cumsum(high)))
        ones_before = ones[:-1] - ones[group]
        count[row] += np.where(high, 0, ones_before)
        to = np.where(high, group + (1 << bit) + ones_before, np.arange(n) - ones_before)
        rank[to], row[to] = rank.copy(), row.copy()
    return count
