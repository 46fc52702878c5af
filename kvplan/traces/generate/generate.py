"""Generate traces: seeded sessions of clients, or a real trace with more or fewer users."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator
from itertools import count, islice
from pathlib import Path

import msgspec
import numpy as np

from kvplan.errors import InputError
from kvplan.request import Request
from kvplan.traces import columns
from kvplan.traces.generate.arrivals import starts
from kvplan.traces.generate.scale import scaled
from kvplan.traces.generate.spec import Client, Length, Spec, Spread
from kvplan.traces.trace import open_trace

_ZIPF_TABLE = 10_000_000
_Draw = Callable[[int], list[float]]


def generate(spec: Spec, *, folder: Path = Path()) -> tuple[int, Iterator[Request]]:
    """Block size, and requests in arrival order from 0 s, each numbered by its place.

    `folder` is where relative paths of traces in the specification start. The same specification and seed give the
    same requests.
    """
    if spec.scale:
        trace = open_trace(folder / Path(spec.scale.trace).expanduser())
        size, requests = trace.block_tokens, scaled(trace, spec.scale, spec.seed)
    else:
        size, requests = spec.block_tokens, _merged(spec, folder)
    limited = islice(requests, spec.max_requests or None)
    return size, (msgspec.structs.replace(request, index=index) for index, request in enumerate(limited))


def _merged(spec: Spec, folder: Path) -> Iterator[Request]:
    """Requests of all clients in arrival order; only sessions that have begun are held."""
    ids, order = _Ids(), count()
    sources = (
        _Sessions(spec, client, np.random.default_rng([spec.seed, number]), ids, f"{number}-", folder)
        for number, client in enumerate(spec.clients)
    )
    waiting: list[tuple[float, int, Request]] = []
    for start_s, source in heapq.merge(*(source.starts() for source in sources), key=lambda start: start[0]):
        while waiting and waiting[0][0] <= start_s:
            yield heapq.heappop(waiting)[2]
        for request in source.session(start_s):
            heapq.heappush(waiting, (request.arrival_s, next(order), request))
    while waiting:
        yield heapq.heappop(waiting)[2]


class _Ids:
    """Hands out runs of block keys that nobody else has."""

    def __init__(self) -> None:
        self._next = 0

    def run(self, blocks: int) -> range:
        first, self._next = self._next, self._next + blocks
        return range(first, self._next)


class _Sessions:
    """The sessions of one client."""

    def __init__(self, spec: Spec, client: Client, rng: np.random.Generator, ids: _Ids, prefix: str, folder: Path) -> None:
        self._spec, self._client, self._rng, self._ids, self._prefix = spec, client, rng, ids, prefix
        self._number = count()
        self._system = list(ids.run((client.system_tokens or 0) // spec.block_tokens))
        self._documents: dict[int, tuple[int, list[int]]] = {}
        self._popular = _zipf(client.documents or 0, client.zipf or 0.0)
        self._user = _draw(client.user_tokens or 0.0, rng, folder, "prompt_tokens")
        self._output = _draw(client.output_tokens or 0.0, rng, folder, "output_tokens")
        self._document = _draw(client.document_tokens or 0.0, rng, folder, "prompt_tokens")
        self._think = _draw(client.think_s or 0.0, rng, folder, "")

    def starts(self) -> Iterator[tuple[float, _Sessions]]:
        for start_s in starts(self._client, self._rng, self._spec.duration_s):
            yield start_s, self

    def session(self, start_s: float) -> Iterator[Request]:
        """The requests of one session; its context only grows, so that each prompt starts with the one before."""
        size, limit = self._spec.block_tokens, self._spec.max_context_tokens
        turns = int(self._rng.geometric(1 / (self._client.turns or 1.0)))
        said, answered = self._user(turns), self._output(turns)
        thought = self._think(turns) if turns > 1 else [0.0]
        context, keys = self._opening()
        name = f"{self._prefix}{next(self._number)}" if (self._client.turns or 1) > 1 else ""
        arrival_s, think_s, before = start_s, -1.0, 0
        for turn in range(turns):
            context = max(1, context + max(1, round(said[turn])))
            output = max(1, round(answered[turn]))
            if context + output > limit:
                return
            if turn:
                think_s = round(thought[turn], 6)
                arrival_s += think_s + before * self._spec.answer_token_s
            keys += self._ids.run(context // size - len(keys))
            yield Request(
                index=0,
                arrival_s=round(arrival_s, 6),
                prompt_tokens=context,
                output_tokens=output,
                blocks=tuple(keys),
                session=name,
                think_s=think_s,
                priority=self._client.priority,
            )
            context, before = context + output, output

    def _opening(self) -> tuple[int, list[int]]:
        """Tokens and keys of the system prompt and a document; a block that holds the end of one and more is the
        session's own.
        """
        system = self._client.system_tokens or 0
        if self._popular is None:
            return system, list(self._system)
        number = int(np.searchsorted(self._popular, self._rng.random()))
        if number not in self._documents:
            tokens = max(1, round(self._document(1)[0]))
            full = (system + tokens) // self._spec.block_tokens
            self._documents[number] = tokens, list(self._ids.run(full - len(self._system)))
        tokens, keys = self._documents[number]
        return system + tokens, self._system + keys


def _zipf(documents: int, exponent: float) -> np.ndarray | None:
    """Cumulative popularity of documents by rank; None without documents."""
    if not documents:
        return None
    if documents > _ZIPF_TABLE:
        raise InputError(f"{documents:,} documents are too many", hint=f"at most {_ZIPF_TABLE:,}")
    weights = np.arange(1, documents + 1) ** -exponent
    return np.cumsum(weights) / weights.sum()


def _draw(length: Length, rng: np.random.Generator, folder: Path, column: str) -> _Draw:
    """A function that draws n lengths: constant, log-normal, or as a trace has them (its quantiles, interpolated)."""
    if not isinstance(length, Spread):
        return lambda n: [length] * n
    if length.trace:
        if not column:
            raise InputError("think times cannot be taken from a trace")
        values = getattr(columns.load(open_trace(folder / Path(length.trace).expanduser())), column)
        quantiles, levels = np.quantile(values, np.linspace(0, 1, 1001)), np.linspace(0, 1, 1001)
        return lambda n: np.interp(rng.random(n), levels, quantiles).tolist()
    if length.mean is None:
        raise InputError("a spread needs a mean, or a trace to take lengths from")
    variance = math.log(1 + length.cv**2)  # of the logarithm
    middle = math.log(length.mean) - variance / 2
    return lambda n: rng.lognormal(middle, math.sqrt(variance), n).tolist()
