"""Why a target was missed: the parts of the time of the requests, or tokens, that came too late, as the run measured
them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from kvplan.results.simulate import TargetCheck
from kvplan.sim.outcome.record import SlowTokens
from kvplan.sim.outcome.slo import Clause
from kvplan.step_time import StepCost

SAMPLE = 2000
"""Late requests whose own prefill is computed; more are sampled evenly."""


def largest(clauses: list[Clause], checks: list[TargetCheck], columns: dict[str, Any], cost: StepCost, slow: SlowTokens) -> str:
    """A sentence on the missed clause that is missed by most; empty when all are met."""
    missed = [
        (check.value_s / check.limit_s, clause, check)
        for clause, check in zip(clauses, checks, strict=True)
        if not check.met and check.value_s
    ]
    if not missed:
        return ""
    over, clause, check = max(missed, key=lambda entry: entry[0])
    parts = _of_tokens(slow) if clause.metric == "itl" else _of_requests(clause, columns, cost)
    total = sum(parts.values())
    head = f"{check.name} misses its target by {over - 1:.0%}" if over < 3 else f"{check.name} is {over:,.0f} times its target"
    if total <= 0:
        return f"{head}."
    name, seconds = max(parts.items(), key=lambda part: part[1])
    return f"{head}. Largest cause: {name} ({seconds / total:.0%})."


def _of_requests(clause: Clause, columns: dict[str, Any], cost: StepCost) -> dict[str, float]:
    """Seconds by cause, summed over the requests beyond the limit."""
    values = columns[f"{clause.metric}_s"]
    late = np.flatnonzero(values > clause.limit_s)
    late = late[:: -(-len(late) // SAMPLE)] if len(late) else np.argsort(values)[-1:]  # a mean can be missed by none
    queue, load, held = (float(columns[f"{name}_s"][late].sum()) for name in ("queue", "load", "held"))
    if clause.metric == "queue":
        return {"queueing for the GPU": queue}
    own = sum(
        cost.prefill_s(int(computed), int(prompt - computed), cost.engine.step_tokens)
        for computed, prompt in zip(columns["computed_tokens"][late], columns["prompt_tokens"][late], strict=True)
    )
    span = float(columns["ttft_s"][late].sum()) - queue - load - held
    parts = {
        "queueing for the GPU": queue,
        "loads from lower tiers": load,
        "store interference: tokens wait behind stores": held,
        "prefill compute": min(own, span),
        "other requests' work in the same steps": max(0.0, span - own),
    }
    if clause.metric == "e2e":
        parts["decoding"] = float((columns["e2e_s"] - columns["ttft_s"])[late].sum())
    return parts


def _of_tokens(slow: SlowTokens) -> dict[str, float]:
    return {
        "prefill chunks in mixed steps": slow.chunks_s,
        "store interference: tokens wait behind stores": slow.held_s,
        "decoding itself": slow.decode_s,
        "waits: preemption, loads and the host": slow.other_s,
    }
