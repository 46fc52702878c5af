"""The host: what it is, and how fast one of its cores runs Python."""

from __future__ import annotations

import hashlib
import pickle
import statistics
import time
from collections.abc import Callable

from kvplan.calibrate.measure import facts as inventory
from kvplan.calibrate.records import Finding, Point, Sample, Value


class HostInstrument:
    """Points that need neither a GPU nor a disk."""

    def waived(self, point: Point) -> str:
        return "" if point.op == "host_python" else "needs torch and a GPU"

    def fresh(self, seed: int) -> None:
        pass

    def measure(self, point: Point, samples: int) -> list[Sample]:
        count, span_s = point.number("hashes"), float(point.params["span_s"])
        return [levels(lambda: hash_blocks_s(count), span_s) for _ in range(samples)]

    def facts(self) -> dict[str, Value]:
        return inventory.host_facts()

    def findings(self) -> list[Finding]:
        return []

    def close(self) -> None:
        pass


def levels(window: Callable[[], float], span_s: float) -> Sample:
    """Windows of a few milliseconds for `span_s`: shared hosts flip between two speeds, for tens of milliseconds or for seconds, and an
    engine meets both, so the mean and both ends are kept."""
    began = time.perf_counter()
    seen: list[float] = []
    while not seen or time.perf_counter() < began + span_s:
        seen.append(window())
    seen.sort()
    last = len(seen) - 1
    return Sample(seconds=statistics.fmean(seen), notes={"fast_s": seen[last // 10], "slow_s": seen[last - last // 10]})


def hash_blocks_s(count: int) -> float:
    """Seconds for each of `count` blocks of 16 tokens to be pickled and hashed behind its parent, as engines name blocks of a prefix."""
    tokens = list(range(1000, 1000 + 16 * count))
    began, parent = time.perf_counter(), bytes(32)
    for start in range(0, len(tokens), 16):
        block = pickle.dumps((parent, tuple(tokens[start : start + 16]), None), protocol=pickle.HIGHEST_PROTOCOL)
        parent = hashlib.sha256(block).digest()
    return (time.perf_counter() - began) / count
