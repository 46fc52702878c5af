"""Which part of a prompt is due for a tier below."""

from __future__ import annotations

from collections.abc import Callable

from kvplan.sim.cache.pool import Pool
from kvplan.sim.cache.prefix import span
from kvplan.sim.replica.sequence import Sequence

Due = Callable[[Pool, Sequence, int, int], tuple[int, int]]
"""Of the first `upto` tokens of a sequence, which the GPU has, those that host memory should get: from the first token to the last; the
last argument is how often they must have been counted."""


def _everything(pool: Pool, seq: Sequence, upto: int, times: int) -> tuple[int, int]:
    return 0, upto


def _nothing(pool: Pool, seq: Sequence, upto: int, times: int) -> tuple[int, int]:
    return 0, 0


def _asked_for(pool: Pool, seq: Sequence, upto: int, times: int) -> tuple[int, int]:
    return 0, pool.asked_for(seq.request.blocks, 0, upto, times)


def _looked_for(pool: Pool, seq: Sequence, upto: int, times: int) -> tuple[int, int]:
    """Lookups begin behind what the GPU has: that part is not counted, nor stored with the rest."""
    start = min(seq.looked_from, upto)
    return start, pool.asked_for(seq.request.blocks, start, upto, times)


def _went_through(pool: Pool, seq: Sequence, upto: int, times: int) -> tuple[int, int]:
    """Requests are counted that go through a run while the GPU has it: its count is lost with the run."""
    leaf = seq.own_tail or seq.leaf
    assert leaf is not None
    path = span(leaf, 0)
    if not seq.inserted:
        seq.inserted = True
        for node in path:
            if node.entry is not None:
                node.entry.inserts += 1
    end = 0
    for node in path:
        if node.entry is None or node.entry.inserts < times:
            break
        end = node.end
    return 0, min(end, upto)


COUNTED: dict[str, Due] = {"requests": _asked_for, "misses": _looked_for, "inserts": _went_through}
"""What selective stores count -> what is due."""


def due(store: str, counts: str) -> Due:
    """The rule of an engine's stores into host memory."""
    return COUNTED[counts] if store == "selective" else _everything if store == "write_through" else _nothing
