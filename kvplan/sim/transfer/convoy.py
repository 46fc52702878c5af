"""Loads under way, and those who wait for somebody else's (the convoy)."""

from __future__ import annotations

from kvplan.sim.cache.pool import Reservation
from kvplan.sim.cache.prefix import Node, span
from kvplan.sim.replica.sequence import Sequence
from kvplan.sim.transfer.prefetch import Done


class Load:
    """Tokens [start, end) of the path to `leaf` on their way to a tier; `waiters` go on when they have come."""

    __slots__ = ("leaf", "start", "end", "waiters", "over")

    def __init__(self, leaf: Node, start: int, end: int) -> None:
        self.leaf, self.start, self.end, self.over = leaf, start, end, False
        self.waiters: list[tuple[Sequence, Done, object]] = []  # with the group of each: a replica's


def under_way(seq: Sequence, leaf: Node, start: int, end: int) -> Load:
    """Mark tokens [start, end) of a path as on their way to a tier that has them pinned, on behalf of a seq."""
    seq.waiting_for_remote_kv = True
    return _marked(Load(leaf, start, end))


def being_written(reserved: Reservation, start: int, end: int) -> Load:
    """Mark tokens [start, end) of a tier that has them pinned as being written."""
    return _marked(Load(reserved.leaf, start, end))


def _marked(load: Load) -> Load:
    for node in span(load.leaf, load.start):
        entry = node.entry
        if node.start < load.end and entry is not None and (entry.load is None or entry.load.over):
            entry.load = load
    return load


def written(load: Load) -> None:
    """It is written: who waits for it asks again."""
    ended(load)
    for waiter, done, _ in load.waiters:
        waiter.waiting_for_remote_kv = False
        done(False)


def ended(load: Load) -> None:
    """Nobody can join it any more; a run that has left the tier meanwhile may still name it."""
    load.over = True
    node, above = load.leaf, load.leaf.parent
    while above is not None:
        entry = node.entry
        if entry is not None and entry.load is load:
            entry.load = None
        node, above = above, above.parent


def let_go(load: Load, seq: Sequence, group: object, done: Done, *, on_gpu: bool) -> None:
    """Whom it was for, and who joined it, can go on: those of its `group` in one scheduling pass."""
    own = [waiter for waiter, _, theirs in load.waiters if theirs is group]
    for each in (seq, *(waiter for waiter, _, _ in load.waiters)):
        each.waiting_for_remote_kv = False
    done(on_gpu, own)
    for _, other, theirs in load.waiters:
        if theirs is not group:
            other(False)


def wait_for(seq: Sequence, group: object, done: Done, leaf: Node, start: int, end: int) -> bool:
    """Is some of tokens [start, end) of a path on its way to a tier for another seq; if so the seq waits for that load."""
    for node in span(leaf, start):
        load: Load | None = node.entry.load if node.entry is not None else None
        if load is not None and not load.over and max(start, load.start, node.start) < min(end, load.end, node.end):
            seq.waiting_for_remote_kv = True
            load.waiters.append((seq, done, group))
            return True
    return False
