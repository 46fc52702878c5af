"""How sure the times are: from the provenance of the numbers that made them, weighted by where the time went."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import numpy as np

from kvplan.model import ModelSpec
from kvplan.provenance import SIGMA_REL, Z95, relative_sigma
from kvplan.results.simulate import Doubt, Interval, Stats
from kvplan.sim.outcome.record import RunRecord

MODEL_SIGMA = 0.03
"""Relative error of the time model itself where every number is measured: replays and requests alone of a dense model with full attention
come out within 1 to 6 % on an H100 and an H200 (tests/fidelity)."""

MIXED_SIGMA = 0.06
"""The same for models with windows, experts or latent attention: within some 10 % on an H200, but for a few rows (tests/fidelity)."""

HOST_SIGMA = 0.17
"""Relative scatter of what the host makes of one request within a run, however well its speed was probed: 483 repetitions of 96 requests
alone in 15 runs on seven hosts (tests/measured); hosts flip between two speeds."""

DISK_SIGMA = 0.2
"""Relative error of a disk's rates over minutes where probes of seconds gave them: two virtual disks fell to 0.67 and 0.79 of theirs
(tests/measured)."""

SAMPLE = 2000
"""Requests whose own host time is computed; more are sampled evenly."""


def interval(record: RunRecord, kept: Any, stats: dict[str, Stats]) -> Interval:
    """95 % intervals of mean time to first token and mean time between tokens.

    Prefill moves with the rate of matrix products, loads with the link and the disk, launches with the host, decoding with the rate of
    weight reads. Waiting moves more than the service that causes it: in an M/G/1 queue d ln W / d ln S = (2 - u) / (1 - u) at utilisation
    u (Pollaczek-Khinchine). Loads from a disk, waiting and service together, move by 1 / (1 - u) (M/M/1).
    """
    if stats["ttft"].mean is None:
        return Interval()
    columns = record.columns
    ttft = float(np.nansum(columns["ttft_s"][kept]))
    queue, load, held = (float(np.nansum(columns[f"{name}_s"][kept])) for name in ("queue", "load", "held"))
    used = min(USED_MOST, record.used_share)
    disk_tokens, lower = (int(columns[f"{name}_hit_tokens"][kept].sum()) for name in ("disk", "cpu"))
    disk = load * disk_tokens / max(1, disk_tokens + lower)
    disk_used = min(USED_MOST, max((tier.busy_s for tier in record.tiers if tier.name == "disk"), default=0.0) / record.finished_s)
    wait = queue / ttft * (2 - used) / (1 - used)
    moved = (load - disk + held) / ttft
    host = min(_host_share(record, kept), max(0.0, 1 - (queue + load + held) / ttft))
    by_host = record.scenario.engine.offload.copies == "host"
    doubts = [
        _doubt(record, "prefill speed", "gpu.gemm_efficiency", max(0.0, 1 - (queue + load + held) / ttft - host) + wait),
        _host_doubt(record, host + (moved if by_host else 0.0)),
        _doubt(record, "link to host memory", "link.h2d_Bps", 0.0 if by_host else moved),
        _doubt(record, "disk", "disk.read_Bps", disk / ttft / (1 - disk_used), least=DISK_SIGMA),
    ]
    decode = _doubt(record, "weight reads", "gpu.weight_read_efficiency", 1.0)
    return Interval(
        ttft_mean_s=_around(stats["ttft"].mean, doubts),
        itl_mean_s=_around(stats["itl"].mean, [decode]),
        rests_on=[doubt for doubt in doubts if doubt.share > 0.005],
    )


USED_MOST = 0.95
"""Utilisation beyond which waiting is not stretched further: an overloaded replica has no steady state, its queue grows with the run."""


HOST_AHEAD = NormalDist(1.0, HOST_SIGMA)
"""Of a step's host time over its GPU time: how likely the step waits for the host."""


def _host_share(record: RunRecord, kept: Any) -> float:
    """Of the time to first token, what the engine's host side takes: on the way to the scheduler, and steps that the GPU outruns."""
    columns, cost = record.columns, record.cost
    rows = np.flatnonzero(kept)
    rows = rows[:: -(-len(rows) // SAMPLE)] if len(rows) else rows
    host = total = 0.0
    for row in rows.tolist():
        prompt, computed, ttft = int(columns["prompt_tokens"][row]), int(columns["computed_tokens"][row]), float(columns["ttft_s"][row])
        waited = float(columns["queue_s"][row] + columns["load_s"][row] + columns["held_s"][row])
        chunk = [(max(1, min(computed, cost.engine.step_tokens)), prompt - computed)]
        outrun = HOST_AHEAD.cdf(cost.host_s(chunk, 0) / cost.busy_s(chunk, 0, 0.0, 1))
        entry_s = cost.overhead.entry_s(prompt) + cost.schedule_s(prompt, computed) + cost.overhead.prepare_s
        host += entry_s + outrun * max(0.0, ttft - waited - entry_s)
        total += ttft
    return host / total if total else 0.0


def _host_doubt(record: RunRecord, share: float) -> Doubt:
    """A host flips between two speeds within a run; where it was not measured any speed may be meant."""
    machine = record.scenario.machine
    part = "launch_s" if machine.host.launch_s else "python_s"  # where launches were not timed, they go by the Python
    source, value = machine.source(f"host.{part}"), getattr(machine.host, part)
    sigma = relative_sigma(source, value) if value else SIGMA_REL["assumed"]
    return Doubt(what="host of the engine", kind=source.kind, sigma_rel=max(HOST_SIGMA, sigma), share=share)


def _doubt(record: RunRecord, what: str, path: str, share: float, *, least: float = 0.0) -> Doubt:
    machine = record.scenario.machine
    part, name = path.split(".")
    source = machine.source(path)
    known = max(least, relative_sigma(source, getattr(getattr(machine, part), name)))
    return Doubt(what=what, kind=source.kind, sigma_rel=math.hypot(known, model_sigma(record.scenario.model)), share=share)


def model_sigma(model: ModelSpec) -> float:
    """The relative error of the time model for a model."""
    plain = all(group.kind == "full" and not group.window_tokens for group in model.layers) and not any(ffn.experts for ffn in model.ffn)
    return MODEL_SIGMA if plain else MIXED_SIGMA


def _around(mean: float | None, doubts: list[Doubt]) -> tuple[float, float] | None:
    if mean is None:
        return None
    factor = math.exp(Z95 * math.hypot(*(doubt.sigma_rel * doubt.share for doubt in doubts)))
    return mean / factor, mean * factor
