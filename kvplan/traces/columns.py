"""A trace as columns: what the analyses over whole traces work on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import chain, islice

import numpy as np
import numpy.typing as npt

from kvplan.request import Request
from kvplan.traces.trace import Trace

Ints = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]

MAX_EVENTS = 8_000_000
"""Block events held at most: some 0.7 GB with what the analyses add. Longer traces are sampled."""
_BATCH = 65_536
_GOLDEN, _MIX1, _MIX2 = (np.uint64(x) for x in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


@dataclass(frozen=True, slots=True)
class Columns:
    """Requests in arrival order, and their block events in that order, head to tail within a request.

    The blocks of request t are `keys[starts[t]:starts[t + 1]]`. Equal keys mean equal prefixes: a key is a 64-bit hash
    of all ids up to its block. `one_in` above 1: only that share of the blocks is here, chosen by the hash of the key.
    """

    block_tokens: int
    arrival_s: npt.NDArray[np.float64]
    prompt_tokens: Ints
    output_tokens: Ints
    blocks: Ints  # per request, before sampling
    starts: Ints
    keys: Keys
    tokens: Ints  # per event: prompt tokens that its block covers
    one_in: int = 1

    @property
    def requests(self) -> int:
        return len(self.prompt_tokens)

    def request_of_event(self) -> Ints:
        """The request of each event."""
        return np.repeat(np.arange(self.requests), np.diff(self.starts))


def load(trace: Trace, *, max_events: int = MAX_EVENTS) -> Columns:
    """The columns of a trace.

    Above `max_events` only a share of the blocks is kept, halved as often as needed (spatial sampling by hash:
    Waldspurger et al., SHARDS, FAST 2015).
    """
    parts: list[Columns] = []
    events, one_in = 0, 1
    requests = iter(trace)
    while batch := list(islice(requests, _BATCH)):
        part = _thin(_columns(batch, trace.block_tokens), one_in)
        parts.append(part)
        events += len(part.keys)
        while events > max_events:
            one_in *= 2
            parts = [_thin(part, one_in) for part in parts]
            events = sum(len(part.keys) for part in parts)
    return _join(parts)


def _columns(batch: list[Request], block_tokens: int) -> Columns:
    blocks = np.array([len(request.blocks) for request in batch], dtype=np.int64)
    prompt = np.array([request.prompt_tokens for request in batch], dtype=np.int64)
    starts = _offsets(blocks)
    ids = _ids(batch, int(starts[-1]))
    position = np.arange(len(ids)) - np.repeat(starts[:-1], blocks)
    return Columns(
        block_tokens=block_tokens,
        arrival_s=np.array([request.arrival_s for request in batch]),
        prompt_tokens=prompt,
        output_tokens=np.array([request.output_tokens for request in batch], dtype=np.int64),
        blocks=blocks,
        starts=starts,
        keys=_chain(ids, position.astype(np.uint64), starts),
        tokens=np.clip(np.repeat(prompt, blocks) - block_tokens * position, 0, block_tokens),
    )


def _offsets(counts: Ints) -> Ints:
    offsets = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, out=offsets[1:])
    return offsets


def _ids(batch: list[Request], count: int) -> Keys:
    """All ids one after another; those above 2^63 are hashes that other tools write as unsigned numbers."""
    try:
        blocks = chain.from_iterable(request.blocks for request in batch)
        return np.fromiter(blocks, dtype=np.int64, count=count).astype(np.uint64)
    except OverflowError:
        wrapped = (block % 2**64 for request in batch for block in request.blocks)
        return np.fromiter(wrapped, dtype=np.uint64, count=count)


def _chain(ids: Keys, position: Keys, starts: Ints) -> Keys:
    """Prefix keys: within a request, the running sum (mod 2^64) of a hash of each id and its position."""
    total = np.cumsum(mix(ids + mix(position)), dtype=np.uint64)
    before = np.concatenate((np.zeros(1, dtype=np.uint64), total))[starts[:-1]]
    return total - np.repeat(before, np.diff(starts))


def mix(values: Keys) -> Keys:
    """The finaliser of splitmix64 (Steele et al., OOPSLA 2014): a bijection of 64-bit integers that looks random."""
    z = values + _GOLDEN
    z = (z ^ (z >> np.uint64(30))) * _MIX1
    z = (z ^ (z >> np.uint64(27))) * _MIX2
    return z ^ (z >> np.uint64(31))


def _thin(part: Columns, one_in: int) -> Columns:
    if one_in == part.one_in:
        return part
    keep = mix(part.keys) < np.uint64(2**64 // one_in)
    return replace(
        part,
        starts=_offsets(keep.astype(np.int64))[part.starts],
        keys=part.keys[keep],
        tokens=part.tokens[keep],
        one_in=one_in,
    )


def _join(parts: list[Columns]) -> Columns:
    def whole(name: str) -> npt.NDArray:
        return np.concatenate([getattr(part, name) for part in parts])

    return Columns(
        block_tokens=parts[0].block_tokens,
        arrival_s=whole("arrival_s"),
        prompt_tokens=whole("prompt_tokens"),
        output_tokens=whole("output_tokens"),
        blocks=whole("blocks"),
        starts=_offsets(np.concatenate([np.diff(part.starts) for part in parts])),
        keys=whole("keys"),
        tokens=whole("tokens"),
        one_in=parts[0].one_in,
    )
