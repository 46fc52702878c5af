"""Hit rate against capacity."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from kvplan import catalog, units
from kvplan.errors import InputError, did_you_mean
from kvplan.memory.formats import logical_format, resolve_kv_dtype
from kvplan.memory.kv import growth_bytes
from kvplan.provenance import Z95
from kvplan.results.trace import CurvePoint, CurveResult, Rates, TierShare
from kvplan.traces import columns
from kvplan.traces.columns import MAX_EVENTS
from kvplan.traces.reuse.policies import POLICIES, lru
from kvplan.traces.reuse.reuse import NEVER, Window, analyse
from kvplan.traces.trace import Trace

_GRID = 24
_SHARES = (0.5, 0.9, 0.95, 0.99)
_CHUNK = 2**20


def curve(
    trace: Trace,
    *,
    policies: Sequence[str] = ("lru",),
    capacities: Sequence[str | int] = (),
    tiers: Sequence[str | int] = (),
    warmup: float = 0.0,
    model: str | None = None,
    kv_dtype: str = "auto",
    max_events: int = MAX_EVENTS,
) -> CurveResult:
    """Hit rates of caches of all `capacities` (blocks, or sizes such as `64GiB` when a `model` is named; a grid when
    none are given).

    `warmup` leaves the first share of the requests out of the rates, not out of the caches. `tiers` are capacities
    from the top down. Above `max_events` block events the blocks are sampled. Raises InputError when the trace names
    no content.
    """
    _check(policies, warmup)
    reuse = analyse(columns.load(trace, max_events=max_events), keep_keys=False)
    data = reuse.columns
    if not data.block_tokens:
        raise InputError(
            f"{trace.name}: this trace ({trace.format}) holds lengths only, so that no hit rate can be computed",
            hint="hit rates need a trace that names its content, such as Mooncake's hash_ids",
        )
    if data.one_in > 1 and (exact := [name for name in policies if name != "lru"]):
        raise InputError(
            f"{', '.join(exact)}: the trace is too long, and sampling works for lru only",
            hint="read fewer requests with --limit",
        )
    first = math.floor(data.requests * warmup)
    block_bytes = _block_bytes(model, kv_dtype, trace.block_tokens) if model else None
    window = Window(reuse, first)
    meter, wanted = _Meter(window, block_bytes), _blocks(capacities, block_bytes) or _grid(window)
    return CurveResult(
        trace=trace.name,
        format=trace.format,
        block_tokens=trace.block_tokens,
        requests=data.requests,
        warmup_requests=first,
        blocks=int(data.blocks.sum()),
        unique_blocks=int((reuse.before < 0).sum()) * data.one_in,
        ideal=meter.rates("lru", [NEVER])[0],
        curves={name: meter.points(name, wanted) for name in policies},
        knee=_knee(meter),
        share_of_ideal=_shares(window),
        tiers=_tiers(meter, _blocks(tiers, block_bytes)),
        sampled_one_in=data.one_in,
        model=model or "",
        bytes_per_block=block_bytes,
        provenance=_provenance(trace, model, kv_dtype),
        warnings=tuple(trace.report.sentences()),
    )


def _check(policies: Sequence[str], warmup: float) -> None:
    if not policies:
        raise InputError("which policy?", hint=f"one of {', '.join(POLICIES)}")
    for name in policies:
        if name not in POLICIES:
            raise InputError(f"no policy named {name!r}", hint=did_you_mean(name, POLICIES))
    if not 0 <= warmup < 1:
        raise InputError(f"warmup is a share of the requests from 0 to below 1, not {warmup:g}")


class _Meter:
    """Rates of a window of the trace."""

    def __init__(self, window: Window, block_bytes: int | None) -> None:
        self.window, self._block_bytes = window, block_bytes
        self._number = window.reuse.number[window.start :] if window.reuse.columns.one_in > 1 else None

    def rates(self, policy: str, capacities: Sequence[int]) -> list[Rates]:
        blocks, tokens = POLICIES[policy](self.window, capacities).tolist()
        return [
            Rates(block_hit=hit / max(1, self.window.blocks), token_hit=hit_tokens / max(1, self.window.prompt_tokens))
            for hit, hit_tokens in zip(blocks, tokens, strict=True)
        ]

    def points(self, policy: str, capacities: Sequence[int]) -> tuple[CurvePoint, ...]:
        return tuple(
            CurvePoint(
                capacity_blocks=capacity,
                block_hit=rate.block_hit,
                token_hit=rate.token_hit,
                capacity_bytes=self.bytes_of(capacity),
                error=self._error(capacity),
            )
            for capacity, rate in zip(capacities, self.rates(policy, capacities), strict=True)
        )

    def bytes_of(self, capacity: int) -> int | None:
        return capacity * self._block_bytes if self._block_bytes else None

    def _error(self, capacity: int) -> float | None:
        """Half width of the 95 % interval of a sampled block hit rate.

        Misses of sampled blocks are scaled by k, so that their sum has variance k (k - 1) sum m^2 over blocks with m
        misses; and a distance of C is off by sqrt((k - 1) C), which moves the curve sideways.
        """
        if self._number is None:
            return None
        reuse, k = self.window.reuse, self.window.reuse.columns.one_in
        distance = reuse.distance[self.window.start :]
        beyond, misses = min(capacity, np.iinfo(distance.dtype).max), np.zeros(int(self._number.max(initial=-1)) + 1)
        for at in range(0, len(distance), _CHUNK):
            part = self._number[at : at + _CHUNK]
            misses += np.bincount(part[distance[at : at + _CHUNK] >= beyond], minlength=len(misses))
        height = Z95 * math.sqrt(k * (k - 1) * float((misses**2).sum())) / max(1, self.window.blocks)
        shift = int(Z95 * math.sqrt((k - 1) * capacity))
        low, high = self.rates("lru", [max(1, capacity - shift), capacity + shift])
        return math.hypot(height, (high.block_hit - low.block_hit) / 2)


def _grid(window: Window) -> list[int]:
    """Capacities in equal ratios up to where LRU reaches the ideal."""
    most = _most(window)
    least = min(100, max(1, most // 100))
    return sorted({round(x) for x in np.geomspace(least, most, _GRID)})


def _most(window: Window) -> int:
    """The capacity from which on LRU hits all that can hit."""
    return int(window.reused.max(initial=0)) + 1


def _knee(meter: _Meter) -> CurvePoint | None:
    """The capacity where the curve stands farthest above the line between its ends, on linear axes (Satopaa et al.,
    Kneedle, 2011).
    """
    capacities = np.unique(np.linspace(1, _most(meter.window), 2000).astype(np.int64))
    hits = lru(meter.window, capacities.tolist())[1].astype(float)
    if hits[-1] <= hits[0]:
        return None
    height = (hits - hits[0]) / (hits[-1] - hits[0]) - (capacities - capacities[0]) / (capacities[-1] - capacities[0])
    return meter.points("lru", [int(capacities[height.argmax()])])[0]


def _shares(window: Window) -> dict[str, int]:
    """For some shares of the ideal token hit rate, the smallest LRU capacity that reaches them."""
    reused, hits = window.reused, lru(window, [NEVER])[1, 0]
    if not len(reused) or hits <= 0:
        return {}
    # the first event at which named tokens less those that miss, (event_tokens - tokens) x one_in, come to the share
    short = [(window.named_tokens - math.ceil(share * hits)) // window.reuse.columns.one_in for share in _SHARES]
    at = np.searchsorted(window.tokens[1:], window.event_tokens - np.array(short))
    return {f"{share:g}": int(reused[i]) + 1 for share, i in zip(_SHARES, at.tolist(), strict=True)}


def _tiers(meter: _Meter, capacities: list[int]) -> tuple[TierShare, ...]:
    if sorted(capacities) != capacities:
        raise InputError("tiers must grow downwards, as each also holds what the one above it holds")
    served, tiers = Rates(block_hit=0.0, token_hit=0.0), []
    for capacity, rate in zip(capacities, meter.rates("lru", capacities), strict=True):
        tiers.append(
            TierShare(
                capacity_blocks=capacity,
                block_hit=rate.block_hit - served.block_hit,
                token_hit=rate.token_hit - served.token_hit,
                capacity_bytes=meter.bytes_of(capacity),
            )
        )
        served = rate
    return tuple(tiers)


def _blocks(capacities: Sequence[str | int], block_bytes: int | None) -> list[int]:
    """Capacities in blocks, from blocks or sizes."""
    blocks = []
    for text in capacities:
        if isinstance(text, int) or text.strip().isdigit():
            count = int(text)
        elif block_bytes is None:
            raise InputError(f"{text!r} is not a number of blocks", hint="to give sizes such as 64GiB, name a model with --model")
        else:
            count = units.parse_bytes(text) // block_bytes
        if not 1 <= count < 2**53:
            raise InputError(f"a capacity of {text} is not at least one block")
        blocks.append(count)
    return blocks


def _block_bytes(model: str, kv_dtype: str, block_tokens: int) -> int:
    """Bytes of one block far into a context, where windows are full and only growing layers add."""
    spec = catalog.model(model)
    fmt = logical_format(resolve_kv_dtype(kv_dtype, spec))
    size = growth_bytes(spec, spec.max_context_tokens, fmt) * block_tokens
    if size <= 0:
        raise InputError(f"{model} keeps nothing per token far into a context: give capacities in blocks")
    return size


def _provenance(trace: Trace, model: str | None, kv_dtype: str) -> dict[str, str]:
    notes = {
        "trace": f"{trace.name}, read as {trace.format}",
        "lru": "stack distances, prefix hits only, tail evicted before head, blocks visible to the next request",
    }
    if model:
        notes["bytes_per_block"] = f"{model}, KV as {kv_dtype}: bytes that one more block adds at the full context"
    return notes
