"""How sure the times are: from the provenance of the numbers that made them, weighted by where the time went."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from kvplan.provenance import relative_sigma
from kvplan.results.simulate import Doubt, Interval, Stats
from kvplan.sim.outcome.record import RunRecord

MODEL_SIGMA = 0.03
"""Relative error of the time model itself where every number is measured: replays and single requests of a real vLLM on an H100 come out
within 1 to 6 % (tests/fidelity)."""

Z95 = 1.96


def interval(record: RunRecord, kept: Any, stats: dict[str, Stats]) -> Interval:
    """95 % intervals of mean time to first token and mean time between tokens.

    Prefill moves with the rate of matrix products, loads with the link and the disk, decoding with the rate of weight reads. Waiting moves
    more than the service that causes it: in an M/G/1 queue d ln W / d ln S = (2 - u) / (1 - u) at utilisation u (Pollaczek-Khinchine).
    """
    if stats["ttft"].mean is None:
        return Interval()
    columns = record.columns
    ttft = float(np.nansum(columns["ttft_s"][kept]))
    queue, load = (float(np.nansum(columns[f"{name}_s"][kept])) for name in ("queue", "load"))
    used = min(0.95, record.used_share)
    disk_tokens, lower = (int(columns[f"{name}_hit_tokens"][kept].sum()) for name in ("disk", "cpu"))
    disk = load * disk_tokens / max(1, disk_tokens + lower)
    wait = queue / ttft * (2 - used) / (1 - used)
    prefill = max(0.0, 1 - (queue + load) / ttft) + wait
    doubts = [
        _doubt(record, "prefill speed", "gpu.gemm_efficiency", prefill),
        _doubt(record, "link to host memory", "link.h2d_Bps", (load - disk) / ttft),
        _doubt(record, "disk", "disk.read_Bps", disk / ttft),
    ]
    decode = _doubt(record, "weight reads", "gpu.weight_read_efficiency", 1.0)
    return Interval(
        ttft_mean_s=_around(stats["ttft"].mean, doubts),
        itl_mean_s=_around(stats["itl"].mean, [decode]),
        rests_on=[doubt for doubt in doubts if doubt.share > 0.005],
    )


def _doubt(record: RunRecord, what: str, path: str, share: float) -> Doubt:
    machine = record.scenario.machine
    part, name = path.split(".")
    source = machine.source(path)
    known = relative_sigma(source, getattr(getattr(machine, part), name))
    return Doubt(what=what, kind=source.kind, sigma_rel=math.hypot(known, MODEL_SIGMA), share=share)


def _around(mean: float | None, doubts: list[Doubt]) -> tuple[float, float] | None:
    if mean is None:
        return None
    factor = math.exp(Z95 * math.hypot(*(doubt.sigma_rel * doubt.share for doubt in doubts)))
    return mean / factor, mean * factor
