"""A trace as columns: what the analyses over whole traces work on."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kvplan.traces.packed import PackedRequests
from kvplan.traces.trace import Trace

Ints = npt.NDArray[np.signedinteger]
Keys = npt.NDArray[np.uint64]

MAX_EVENTS = 6_000_000
"""Block events held at most: the hit rates of a million requests take 0.3 GB with them. Longer traces are sampled."""
_CHUNK = 2**20
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
    session: npt.NDArray[np.int64]  # per request: equal numbers where the file names the same session, 0 where it names none
    blocks: Ints  # per request, before sampling
    starts: Ints
    keys: Keys
    tokens: npt.NDArray[np.int32]  # per event: prompt tokens that its block covers
    one_in: int = 1

    @property
    def requests(self) -> int:
        return len(self.prompt_tokens)

    @property
    def names_sessions(self) -> bool:
        return bool(self.session.any())

    def request_of_event(self) -> Ints:
        """The request of each event."""
        return np.repeat(np.arange(self.requests), np.diff(self.starts))


def load(trace: Trace, *, max_events: int = MAX_EVENTS) -> Columns:
    """The columns of a trace, which is not held for them.

    Above `max_events` only a share of the blocks is kept, halved as often as needed (spatial sampling by hash:
    Waldspurger et al., SHARDS, FAST 2015).
    """
    grown, one_in = _grown(), 1
    for batch in trace.chunks():
        names = np.array([hash(name) & 2**62 - 1 for name in batch.session_names])  # that of "" is 0
        _append(grown, batch, names, trace.declared_block_tokens, one_in)
        while len(grown["keys"]) > max_events:
            one_in *= 2
            _thin(grown, one_in)
    return _from_zero(trace.declared_block_tokens, one_in, grown)


_TYPES = {
    "arrival_s": "d",
    "prompt_tokens": "i",
    "output_tokens": "i",
    "session": "q",
    "blocks": "i",
    "kept": "i",
    "keys": "Q",
    "tokens": "i",
}
_Grown = dict[str, array]


def _grown() -> _Grown:
    """Columns that grow in place: joining parts would need twice their memory. `kept` are the events of a request."""
    return {name: array(code) for name, code in _TYPES.items()}


def _append(grown: _Grown, batch: PackedRequests, names: npt.NDArray[np.int64], block_tokens: int, one_in: int) -> None:
    prompt, (ids, starts) = np.frombuffer(batch.prompt_tokens, dtype=np.int32), batch.ids()
    blocks = np.diff(starts)
    position = np.arange(starts[-1]) - np.repeat(starts[:-1], blocks)
    keys = _chain(ids.view(np.uint64), position, starts)
    kept = blocks
    if one_in > 1:
        chosen = np.flatnonzero(_chosen(keys, one_in))
        keys, position, kept = keys[chosen], position[chosen], np.diff(np.searchsorted(chosen, starts))
    tokens = np.clip(np.repeat(prompt, kept) - block_tokens * position, 0, block_tokens)
    found: dict[str, npt.ArrayLike] = {"blocks": blocks, "kept": kept, "keys": keys, "tokens": tokens}
    found |= {"arrival_s": batch.arrival_s, "prompt_tokens": prompt, "output_tokens": batch.output_tokens}
    found["session"] = names[np.frombuffer(batch.session, dtype=np.int32)]
    for name, values in found.items():
        grown[name].frombytes(_bytes(name, values))


def _chosen(keys: Keys, one_in: int) -> npt.NDArray[np.bool_]:
    return mix(keys) < np.uint64(2**64 // one_in)


def _thin(grown: _Grown, one_in: int) -> None:
    """Leave out, in place, the blocks that a sample of one in `one_in` leaves out."""
    ends = np.cumsum(np.frombuffer(grown["kept"], dtype=np.int32), dtype=np.int64)  # of each request's events
    keys, tokens = np.frombuffer(grown["keys"], dtype=np.uint64), np.frombuffer(grown["tokens"], dtype=np.int32)
    left = first = 0
    for at in range(0, len(keys), _CHUNK):
        chosen = _chosen(keys[at : at + _CHUNK], one_in)
        to = left + _offsets(chosen)
        last = int(np.searchsorted(ends, at + len(chosen), side="right"))
        ends[first:last] = to[ends[first:last] - at]
        keys[left : to[-1]] = keys[at : at + _CHUNK][chosen]
        tokens[left : to[-1]] = tokens[at : at + _CHUNK][chosen]
        left, first = int(to[-1]), last
    del keys, tokens
    grown["kept"] = _array("kept", np.diff(ends, prepend=0))
    for name in ("keys", "tokens"):
        del grown[name][left:]


def _array(name: str, values: npt.NDArray) -> array:
    made = array(_TYPES[name])
    made.frombytes(_bytes(name, values))
    return made


def _bytes(name: str, values: npt.ArrayLike) -> memoryview:
    return np.ascontiguousarray(values, dtype=_TYPES[name]).data.cast("B")


def _offsets(counts: npt.NDArray) -> Ints:
    offsets = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, out=offsets[1:])
    return offsets


def _chain(ids: Keys, position: Ints, starts: Ints) -> Keys:
    """Prefix keys: within a request, the running sum (mod 2^64) of a hash of each id and its position."""
    places = mix(np.arange(int(position.max(initial=0)) + 1, dtype=np.uint64))
    total = np.cumsum(mix(ids + places[position]), dtype=np.uint64)
    before = np.concatenate((np.zeros(1, dtype=np.uint64), total))[starts[:-1]]
    return total - np.repeat(before, np.diff(starts))


def mix(values: Keys) -> Keys:
    """The finaliser of splitmix64 (Steele et al., OOPSLA 2014): a bijection of 64-bit integers that looks random."""
    z = values + _GOLDEN
    z = (z ^ (z >> np.uint64(30))) * _MIX1
    z = (z ^ (z >> np.uint64(27))) * _MIX2
    return z ^ (z >> np.uint64(31))


def _from_zero(block_tokens: int, one_in: int, grown: _Grown) -> Columns:
    """In order of arrival (stable), the first at 0 s."""
    found = {name: np.frombuffer(values, dtype=_TYPES[name]) for name, values in grown.items()}
    arrival_s, counts, keys, tokens = found["arrival_s"], found["kept"], found["keys"], found["tokens"]
    starts = _offsets(counts)
    order: npt.NDArray | slice = slice(None)
    if (np.diff(arrival_s) < 0).any():
        order = np.argsort(arrival_s, kind="stable")
        arrival_s, counts = arrival_s[order], counts[order]
        event = np.repeat(starts[order] - _offsets(counts)[:-1], counts) + np.arange(starts[-1])
        starts, keys, tokens = _offsets(counts), keys[event], tokens[event]
    if first_s := float(arrival_s[0]):
        arrival_s = np.round(arrival_s - first_s, 9)
    return Columns(
        block_tokens=block_tokens if found["blocks"].any() else 0,
        arrival_s=arrival_s,
        prompt_tokens=found["prompt_tokens"][order],
        output_tokens=found["output_tokens"][order],
        session=found["session"][order],
        blocks=found["blocks"][order],
        starts=starts,
        keys=keys,
        tokens=tokens,
        one_in=one_in,
    )
