"""Points that no probe's grid holds, to tell how well the fitted machine predicts."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from kvplan.calibrate.fits import one_call, torch_machine
from kvplan.calibrate.predict import PREDICT
from kvplan.calibrate.probes import Context
from kvplan.calibrate.records import Estimate, Family, Point, point
from kvplan.hardware.spec import Machine
from kvplan.units import KiB, MiB


def _between(order: random.Random, low: int, high: int) -> int:
    """A whole number, log-uniform in [low, high]."""
    return round(math.exp(order.uniform(math.log(low), math.log(high))))


def points(context: Context, families: set[Family], order: random.Random) -> list[Point]:
    """About twenty points of the families that were probed."""
    make: dict[Family, list[Callable[[], Point]]] = {
        "gpu": [lambda: _copy(order)] * 8,
        "compute": [
            *[lambda: _gemm(context, order)] * 4,
            *[lambda: _prefill(context, order)] * 4,
            *[lambda: _decode(context, order)] * 4,
        ],
        "disk": [lambda: _read(context, order)] * 4,
        "host": [],
    }
    return [one() for family in sorted(families) for one in make[family]]


def _copy(order: random.Random) -> Point:
    size = _between(order, 32 * KiB, 200 * MiB) // 4096 * 4096
    return point("copy", direction=order.choice(("h2d", "d2h")), memory="pinned", bytes=size)


def _gemm(context: Context, order: random.Random) -> Point:
    what, (n, k) = order.choice(sorted(context.model.products().items()))
    return point("gemm", model=context.model.name, what=what, m=_between(order, 2, 6000), n=n, k=k)


def _prefill(context: Context, order: random.Random) -> Point:
    new, before = _between(order, 512, 7000), order.choice((0, _between(order, 2000, 60000)))
    return point("prefill_step", model=context.model.name, new=new, context=before)


def _decode(context: Context, order: random.Random) -> Point:
    batch, before = _between(order, 1, 100), _between(order, 300, 12000)
    return point("decode_step", model=context.model.name, batch=batch, context=before)


def _read(context: Context, order: random.Random) -> Point:
    size = _between(order, 16 * KiB, 12 * MiB) // 4096 * 4096
    return point("disk_read", bytes=size, threads=_between(order, 1, 24), pages=context.pages)


_FAMILY = {
    "copy": "copies",
    "gemm": "matrix products",
    "prefill_step": "prefill",
    "decode_step": "decode",
    "disk_read": "disk reads",
}


def errors(machine: Machine, kept: dict[str, float], rows: list[Estimate]) -> dict[str, list[float]]:
    """Relative errors of predictions, by family: whole models against torch's own kernels, single copies against what one call costs."""
    whole = torch_machine(machine, kept)
    found: dict[str, list[float]] = {}
    for row in rows:
        op = row.point.op
        judge = whole if op in ("prefill_step", "decode_step") else machine
        if op == "copy":
            judge = one_call(machine, kept[f"call_{row.point.text('direction')}_s"])
        found.setdefault(_FAMILY[op], []).append(abs(PREDICT[op](judge, row.point) / row.seconds - 1))
    return found
