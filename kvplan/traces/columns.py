"""A trace as columns: what the analyses over whole traces work on."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain, islice

import numpy as np
import numpy.typing as npt

from kvplan.traces.trace import Trace

Ints = npt.NDArray[np.int64]
_BATCH = 65_536
_GOLDEN, _MIX1, _MIX2 = (np.uint64(x) for x in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


@dataclass(frozen=True, slots=True)
class Columns:
    """Requests in arrival order, and their block events in that order, head to tail within a request.

    The blocks of request t are `keys[starts[t]:starts[t + 1]]`. Equal keys mean equal prefixes: a key is a 64-bit hash
    of all ids up to its block. When `weight` is above 1 only that share of the blocks was kept (one in `weight`, by
    hash of the key).
    """

    prompt_tokens: Ints
    blocks: Ints  # per request, before sampling
    starts: Ints
    keys: npt.NDArray[np.uint64]
    tokens: Ints  # per event: prompt tokens that its block covers
    weight: int = 1

    @property
    def requests(self) -> int:
        return len(self.prompt_tokens)

    def request_of_event(self) -> Ints:
        return np.repeat(np.arange(self.requests), np.diff(self.starts))


def load(trace: Trace, *, max_events: int = 20_000_000) -> Columns:
    """The columns of a trace. Above `max_events` block events only a share of the blocks is kept, halved as often as
    needed (SHARDS, FAST'15).
    """
    parts: list[Columns] = []
    kept, weight = 0, 1
    requests = iter(trace)
    while batch := list(islice(requests, _BATCH)):
        part = _thin(_columns(batch, trace.block_tokens), weight)
        parts.append(part)
        kept += len(part.keys)
        while kept > max_events:
            weight *= 2
            parts = [_thin(part, weight) for part in parts]
            kept = sum(len(part.keys) for part in parts)
    return _join(parts, weight)


def _columns(batch: list, block_tokens: int) -> Columns:
    blocks = np.array([len(request.blocks) for request in batch], dtype=np.int64)
    prompt = np.array([request.prompt_tokens for request in batch], dtype=np.int64)
    starts = np.concatenate(([0], np.cumsum(blocks)))
    ids = np.fromiter(chain.from_iterable(request.blocks for request in batch), dtype=np.int64, count=int(starts[-1]))
    position = np.arange(len(ids)) - np.repeat(starts[:-1], blocks)
    tokens = np.clip(np.repeat(prompt, blocks) - block_tokens * position, 0, block_tokens)
    return Columns(
        prompt_tokens=prompt, blocks=blocks, starts=starts, keys=_chain(ids, position, starts), tokens=tokens
    )


def _chain(ids: Ints, position: Ints, starts: Ints) -> npt.NDArray[np.uint64]:
    """Prefix keys: within a request, the running sum (mod 2^64) of a hash of each id and its position."""
    total = np.cumsum(mix(ids.astype(np.uint64) + mix(position.astype(np.uint64))))
    before = np.concatenate((np.zeros(1, dtype=np.uint64), total))[starts[:-1]]
    return total - np.repeat(before, np.diff(starts))


def mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele et al., OOPSLA 2014): a bijection of 64-bit integers that looks random."""
    z = values + _GOLDEN
    z = (z ^ (z >> np.uint64(30))) * _MIX1
    z = (z ^ (z >> np.uint64(27))) * _MIX2
    return z ^ (z >> np.uint64(31))


def _thin(part: Columns, weight: int) -> Columns:
    if weight == part.weight:
        return part
    keep = mix(part.keys) < np.uint64(2**64 // weight)
    starts = np.concatenate(([0], np.cumsum(keep)))[part.starts]
    return Columns(
        prompt_tokens=part.prompt_tokens,
        blocks=part.blocks,
        starts=starts,
        keys=part.keys[keep],
        tokens=part.tokens[keep],
        weight=weight,
    )


def _join(parts: list[Columns], weight: int) -> Columns:
    counts = np.concatenate([np.diff(part.starts) for part in parts])
    return Columns(
        prompt_tokens=np.concatenate([part.prompt_tokens for part in parts]),
        blocks=np.concatenate([part.blocks for part in parts]),
        starts=np.concatenate(([0], np.cumsum(counts))),
        keys=np.concatenate([part.keys for part in parts]),
        tokens=np.concatenate([part.tokens for part in parts]),
        weight=weight,
    )
