"""How long collectives take: measured latencies by message size, interconnect and number of GPUs.

`collectives.jsonl` holds one curve a line, each with its source. Message sizes are those of nccl-tests: an all-reduce's tensor, the whole
buffer of an all-gather, reduce-scatter or all-to-all; of a dispatch or combine of experts what one rank sends, in fp8 and bf16.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import msgspec

from kvplan.hardware.spec import Curve, Interconnect, Network, Operation

_SHARE: dict[str, tuple[int, int]] = {
    "all_reduce": (2, 1),
    "all_gather": (1, 1),
    "reduce_scatter": (1, 1),
    "all_to_all": (1, 1),
    "dispatch": (1, 0),
    "combine": (1, 0),
    "send": (1, 0),
}
"""Of a message, what one rank sends on a ring: a factor, and whether its own part, one of n, stays (Patarasu and Yuan 2009)."""


class _Row(msgspec.Struct, frozen=True):
    system: str
    op: Operation
    library: str
    gpus: int
    size_bytes: tuple[float, ...]
    seconds: tuple[float, ...]
    source: str


@cache
def curves(system: str) -> tuple[Curve, ...]:
    """The measured curves of an interconnect by its name in the table; none for a name that is not there."""
    text = (Path(__file__).parent / "collectives.jsonl").read_bytes()
    rows = [msgspec.json.decode(line, type=_Row) for line in text.splitlines()]
    return tuple(
        Curve(op=row.op, library=row.library, gpus=row.gpus, size_bytes=row.size_bytes, seconds=row.seconds)
        for row in rows
        if row.system == system
    )


def collective_s(link: Interconnect | None, op: Operation, gpus: int, size: float, *, library: str = "nccl", least_s: float = 0.0) -> float:
    """Seconds of one collective of `size` bytes over `gpus` GPUs of a server, at least `least_s`, a kernel's launch.

    From the server's own curves, else the measured ones of its interconnect, else a ring at `Bps`. Where `library` has no curve for this
    operation, NCCL's stands for it. 0 for a single GPU, for nothing to send, and without an interconnect.
    """
    if gpus < 2 or not size or link is None:
        return 0.0
    found, rate = _nearest(link.curves, op, library) if link.curves else [], 1.0
    if not found and link.table:
        found, rate = _tabled(link.table, op, library), link.table_rate
    if not found:
        return max(least_s, ring_s(link, op, gpus, size))
    return max(least_s, _between([(curve.gpus, _at(curve, size, rate)) for curve in found], gpus))


_LIKE: dict[str, tuple[Operation, str]] = {"dispatch": ("all_to_all", "nccl"), "combine": ("all_to_all", "nccl")}


def ring_s(link: Network | Interconnect, op: Operation, gpus: int, size: float) -> float:
    """Seconds of a collective at one rate and one latency, where none was measured."""
    factor, own = _SHARE[op]
    return link.latency_s + factor * (gpus - own) / gpus * size / link.Bps


def _nearest(known: Sequence[Curve], op: Operation, library: str) -> list[Curve]:
    """The curves that stand for an operation of a library, by the number of GPUs."""
    return _of(known, op, library) or _of(known, op, "nccl") or _of(known, *_LIKE.get(op, (op, "nccl")))


@cache
def _tabled(system: str, op: Operation, library: str) -> list[Curve]:
    return _nearest(curves(system), op, library)


def _of(known: Sequence[Curve], op: Operation, library: str) -> list[Curve]:
    return sorted((curve for curve in known if curve.op == op and curve.library == library), key=lambda curve: curve.gpus)


def _at(curve: Curve, size: float, rate: float) -> float:
    """Seconds at a size: straight lines between logarithms; below the smallest its time, beyond the largest in proportion.

    On a link of the same kind with `rate` times the bandwidth what lies above the smallest message's time shrinks.
    """
    sizes, times = curve.size_bytes, curve.seconds
    if size >= sizes[-1]:
        taken = times[-1] * size / sizes[-1]
    elif size <= sizes[0]:
        taken = times[0]
    else:
        right = bisect_right(sizes, size)
        taken = _log_line(sizes[right - 1], times[right - 1], sizes[right], times[right], size)
    return times[0] + (taken - times[0]) / rate if taken > times[0] else taken


def _between(points: Sequence[tuple[int, float]], gpus: int) -> float:
    """Seconds for a number of GPUs between those measured, again in logarithms; of more or fewer than those the nearest's."""
    counts = [count for count, _ in points]
    if gpus <= counts[0]:
        return points[0][1]
    if gpus >= counts[-1]:
        return points[-1][1]
    right = bisect_right(counts, gpus)
    return _log_line(*points[right - 1], *points[right], gpus)


def _log_line(x0: float, y0: float, x1: float, y1: float, x: float) -> float:
    share = math.log(x / x0) / math.log(x1 / x0)
    return math.exp(math.log(y0) + share * math.log(y1 / y0))
