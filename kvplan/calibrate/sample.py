"""Blocked repetitions: every block has fresh buffers and a fresh order, and points leave once their interval is
narrow enough.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Iterable

import msgspec

from kvplan.calibrate.records import ContentError, Estimate, Instrument, Point, Sample
from kvplan.errors import MissingError
from kvplan.fit.intervals import median_interval, relative_half_width


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How long to go on: at least `blocks` blocks of `samples`, more while an interval is wider than `tolerance`,
    within `budget_s`.
    """

    blocks: int = 6
    max_blocks: int = 12
    samples: int = 3
    tolerance: float = 0.02
    budget_s: float = 30.0


class Measured(msgspec.Struct, kw_only=True):
    """What a probe left: rows, raw samples (block by block), and the points that failed with their reasons."""

    rows: list[Estimate]
    raw: list[dict[str, object]]
    failures: dict[str, str]


def measure(instrument: Instrument, points: Iterable[Point], plan: Plan, *, seed: int, clock: Callable[[], float]) -> Measured:
    """Measure points under a plan. A point that fails is recorded and dropped; the others go on.

    Raises MissingError, naming the point, when content arrived wrong: then no figure of this server can be trusted.
    """
    open_points = list(points)
    blocks: dict[str, list[list[Sample]]] = {p.key: [] for p in open_points}
    by_key = {p.key: p for p in open_points}
    raw: list[dict[str, object]] = []
    failures: dict[str, str] = {}
    order = random.Random(seed)
    began = clock()
    for block in range(plan.max_blocks):
        block_began = clock()
        instrument.fresh(order.getrandbits(31))
        for current in order.sample(open_points, len(open_points)):
            try:
                samples = instrument.measure(current, plan.samples)
            except ContentError as error:
                raise MissingError(
                    f"{error}, while measuring {current.key}: no figure of this server can be trusted",
                    hint="the run stopped and wrote no profile; check the memory, the driver and the drive",
                ) from None
            except Exception as error:  # whatever goes wrong with one point, the others can still be measured
                failures[current.key] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
                open_points.remove(current)
                continue
            blocks[current.key].append(samples)
            raw.extend(_raw(current, block, sample) for sample in samples)
        if block + 1 >= plan.blocks:
            open_points = [p for p in open_points if not _narrow(blocks[p.key], plan.tolerance)]
        spent, last = clock() - began, clock() - block_began
        if not open_points or spent + last > plan.budget_s:
            break
    rows = [estimate(by_key[key], seen, plan.tolerance) for key, seen in blocks.items() if seen and key not in failures]
    return Measured(rows=rows, raw=raw, failures=failures)


def estimate(current: Point, blocks: list[list[Sample]], tolerance: float) -> Estimate:
    """One row from the blocks of a point.

    The first block is left out when it is more than 10 % off the median of the rest.
    """
    medians = [statistics.median(s.seconds for s in block) for block in blocks]
    kept = medians
    if len(medians) >= 3 and abs(medians[0] / statistics.median(medians[1:]) - 1) > 0.10:
        kept = medians[1:]
    middle, lo, hi = median_interval(kept)
    samples = [s for block in blocks for s in block]
    notes = {name: statistics.median(s.notes[name] for s in samples if name in s.notes) for s in samples for name in s.notes}
    if kept is not medians:
        notes["warmup_effect"] = 1.0
    return Estimate(
        point=current,
        seconds=middle,
        lo=lo,
        hi=hi,
        blocks=len(blocks),
        samples=len(samples),
        converged=relative_half_width(middle, lo, hi) <= tolerance,
        block_medians=tuple(kept),
        notes=notes,
    )


def _narrow(blocks: list[list[Sample]], tolerance: float) -> bool:
    return relative_half_width(*median_interval([statistics.median(s.seconds for s in b) for b in blocks])) <= tolerance


def _raw(current: Point, block: int, sample: Sample) -> dict[str, object]:
    return {"point": current.key, "block": block, "seconds": sample.seconds, **sample.notes}
