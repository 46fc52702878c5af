"""A designed probe: requests alone, hits, bursts and batches of decodes, which together tell an engine's overheads apart."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import msgspec

from kvplan.request import Request

BLOCK = 64
"""Tokens of a block of the probe's content; a multiple of every engine's usual block."""
NEW = 64
"""Tokens that a hit adds to its prefix."""
LENGTHS = (64, 192, 448, 1024, 2048, 4096, 8192, 16384, 32768)
BATCHES = ((2, 512), (4, 512), (8, 512), (16, 512), (32, 512), (64, 512), (2, 4096), (8, 4096))
BURSTS = ((4, 512), (8, 1024), (4, 4096), (16, 256))
MIXED = ((4, 512, 4096), (8, 256, 8192))
TIER_LENGTHS = (1024, 4096, 12288)
FILL, TIER_SHARE = 1.1, 0.5
"""The pool is filled with so much of its size, if that takes no more than so much of the time."""
MARGIN, PAUSE_S = 1.3, 0.25
"""A group of requests starts after the ones before it by the prediction times the margin, and a pause."""
ALONE_OUTPUT, BATCH_OUTPUT, BURST_OUTPUT = 12, 48, 4


class ProbeGroup(msgspec.Struct, frozen=True, kw_only=True):
    """One question to the server: requests that are sent together, and what kind they are."""

    kind: str
    requests: tuple[Request, ...]
    after_s: float = 0.0  # each request this long after the one before it

    @property
    def tokens(self) -> int:
        """All tokens that it asks for."""
        return sum(request.prompt_tokens + request.output_tokens for request in self.requests)


class Design(msgspec.Struct, frozen=True, kw_only=True):
    """The probes in order, one trace of all their requests, and which probe each request belongs to."""

    probes: list[ProbeGroup]
    requests: list[Request]
    probe_of: list[int]


def design(
    context_tokens: int,
    pool_tokens: int,
    most: int,
    seconds_of: Callable[[Sequence[Request]], float],
    budget_s: float,
    *,
    tier: bool = False,
) -> Design:
    """Probes that fit the context and the pool and, as predicted by `seconds_of`, the time; `most` sequences at once. With a `tier`
    below the GPU, prefixes that other content has pushed off the GPU are asked for again at the end.

    What does not fit is left out, the longest first. The order is drawn, so that a drift is no trend over the lengths.
    """
    fresh = _Fresh()
    probes = [probe for probe in _all(fresh, most) if _fits(probe, context_tokens, pool_tokens)]
    last = _below(fresh, context_tokens, pool_tokens) if tier else []
    if sum(MARGIN * seconds_of(probe.requests) + PAUSE_S for probe in last) > TIER_SHARE * budget_s:
        last = []  # the pool is too large to be filled on the way
    need_s = {id(probe): MARGIN * seconds_of(probe.requests) + PAUSE_S for probe in probes}
    while len(probes) > 8 and sum(need_s[id(probe)] for probe in probes) > budget_s:
        probes.remove(max(probes, key=lambda probe: need_s[id(probe)]))
    pairs = _paired(probes)
    random.Random(0).shuffle(pairs)
    ordered = [probe for pair in pairs for probe in pair] + last
    need_s |= {id(probe): MARGIN * seconds_of(probe.requests) + PAUSE_S for probe in last}
    requests: list[Request] = []
    probe_of: list[int] = []
    now_s = 0.0
    for number, probe in enumerate(ordered):
        for at, request in enumerate(probe.requests):
            requests.append(msgspec.structs.replace(request, index=len(requests), arrival_s=now_s + at * probe.after_s))
            probe_of.append(number)
        now_s += need_s[id(probe)]
    return Design(probes=ordered, requests=requests, probe_of=probe_of)


def held_out(probes: Sequence[ProbeGroup], seed: int) -> set[int]:
    """A third of the probes of each kind, by seed: never fitted. What only fills the pool is no probe."""
    draw = random.Random(seed)
    found: set[int] = set()
    for kind in sorted({probe.kind for probe in probes} - {"fill"}):
        numbers = [number for number, probe in enumerate(probes) if probe.kind == kind]
        found |= set(draw.sample(numbers, len(numbers) // 3))
    return found


def _all(fresh: _Fresh, most: int) -> list[ProbeGroup]:
    """Every probe, each with content of its own."""
    probes: list[ProbeGroup] = []
    for tokens in LENGTHS:
        for _ in range(2):
            cold = fresh.request(tokens, ALONE_OUTPUT)
            probes.append(ProbeGroup(kind="cold", requests=(cold,)))
            if tokens > 2 * NEW:
                hit = msgspec.structs.replace(cold, prompt_tokens=tokens + NEW)
                probes.append(ProbeGroup(kind="hit", requests=(hit,)))
    for count, tokens in BATCHES:
        if count <= most:
            probes.append(ProbeGroup(kind="batch", requests=fresh.several(count, tokens, BATCH_OUTPUT)))
    for count, tokens in BURSTS:
        if count <= most:
            probes.append(ProbeGroup(kind="burst", requests=fresh.several(count, tokens, BURST_OUTPUT)))
            probes.append(ProbeGroup(kind="burst", requests=fresh.several(count, tokens, BURST_OUTPUT), after_s=0.02))
    probes.append(
        ProbeGroup(kind="mixed", requests=(*fresh.several(4, 512, 2 * BATCH_OUTPUT), fresh.request(4096, BURST_OUTPUT)), after_s=0.05)
    )
    probes.append(
        ProbeGroup(kind="mixed", requests=(*fresh.several(8, 256, 2 * BATCH_OUTPUT), fresh.request(8192, BURST_OUTPUT)), after_s=0.05)
    )
    return probes


def _below(fresh: _Fresh, context_tokens: int, pool_tokens: int) -> list[ProbeGroup]:
    """Prefixes, then content that fills the pool, then the prefixes again, from the tier below."""
    prefixes = [fresh.request(tokens, 2) for tokens in TIER_LENGTHS for _ in range(2) if tokens + NEW + 2 <= context_tokens]
    each = min(8192, context_tokens - 2) // BLOCK * BLOCK
    fill = [fresh.request(each, 2) for _ in range(-(-int(FILL * pool_tokens) // each))]
    again = [msgspec.structs.replace(one, prompt_tokens=one.prompt_tokens + NEW) for one in prefixes]
    return [
        *(ProbeGroup(kind="cold", requests=(one,)) for one in prefixes),
        *(ProbeGroup(kind="fill", requests=(one,)) for one in fill),
        *(ProbeGroup(kind="tier", requests=(one,)) for one in again),
    ]


class _Fresh:
    """Requests of content that no other has."""

    def __init__(self) -> None:
        self._next = 0

    def request(self, tokens: int, output: int) -> Request:
        count = tokens // BLOCK
        first = self._next
        self._next += count
        return Request(index=0, arrival_s=0.0, prompt_tokens=tokens, output_tokens=output, blocks=tuple(range(first, first + count)))

    def several(self, count: int, tokens: int, output: int) -> tuple[Request, ...]:
        return tuple(self.request(tokens, output) for _ in range(count))


def _fits(probe: ProbeGroup, context_tokens: int, pool_tokens: int) -> bool:
    longest = max(request.prompt_tokens + request.output_tokens for request in probe.requests)
    return longest <= context_tokens and probe.tokens <= 0.9 * pool_tokens


def _paired(probes: list[ProbeGroup]) -> list[list[ProbeGroup]]:
    """A hit stays behind the request whose prefix it shares, and goes with it."""
    pairs: list[list[ProbeGroup]] = []
    for probe in probes:
        if probe.kind == "hit":
            if pairs and pairs[-1][-1].kind == "cold" and pairs[-1][-1].requests[0].blocks == probe.requests[0].blocks:
                pairs[-1].append(probe)
        else:
            pairs.append([probe])
    return pairs
