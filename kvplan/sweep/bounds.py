"""What closed forms and one pass over the trace say before anything is simulated: points that cannot meet a limit, and points that are
the same run."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from kvplan.memory.below import below
from kvplan.scenario import Scenario
from kvplan.sim.outcome import slo
from kvplan.sim.simulate import opened
from kvplan.step_time import StepCost
from kvplan.traces import columns
from kvplan.traces.reuse.reuse import analyse
from kvplan.units import format_seconds

SURE = 0.95
"""A lower bound counts when it exceeds the limit even at this share of it."""

MOST_COSTED = 400
"""Requests whose least time is worked out for one percentile."""

SHARE_ABOVE = {"p50": 0.5, "p90": 0.1, "p95": 0.05, "p99": 0.01}


class Demand(msgspec.Struct, frozen=True):
    """What one pass over a trace tells: lengths, what is not in any cache, and all that could ever be stored."""

    prompt_tokens: np.ndarray
    reused_tokens: np.ndarray  # per request, with memory for everything
    distinct_tokens: int  # of prompts
    output_tokens: int
    requests: int


def demand(one: Scenario) -> Demand:
    """The demand of a scenario's trace."""
    data = columns.load(opened(one))
    reused = np.zeros(data.requests, dtype=np.int64)
    distinct = int(data.prompt_tokens.sum())
    if data.block_tokens and data.one_in == 1:
        hit = analyse(data).before >= 0
        request = data.request_of_event()
        reused = np.bincount(request, weights=np.where(hit, data.tokens, 0), minlength=data.requests).astype(np.int64)
        distinct = int(data.prompt_tokens.sum() - np.where(hit, data.tokens, 0).sum())
    return Demand(data.prompt_tokens, reused, distinct, int(data.output_tokens.sum()), data.requests)


def refused(one: Scenario, known: Demand) -> int:
    """Requests that no size of memory can serve: their prompts are longer than the model takes."""
    longest = min(filter(None, (one.engine.max_context_tokens, one.model.max_context_tokens)), default=1 << 60)
    return int((known.prompt_tokens >= longest).sum())


def everything_bytes(one: Scenario, known: Demand) -> float:
    """An upper bound of what the traffic ever stores below the GPU: each distinct token and each answer once, in whole pieces."""
    made = below(one.deployment)
    grain = max(one.engine.offload.chunk_tokens, one.engine.block_tokens)
    tokens = known.distinct_tokens + known.output_tokens + 2 * grain * known.requests
    return tokens * made.token_bytes


def hopeless(one: Scenario, known: Demand, limits: Sequence[slo.Clause]) -> str:
    """Why a scenario misses a limit whatever its tiers: even an idle machine that finds all of the past in memory takes longer. Empty when
    it may meet them."""
    cost = StepCost(one.deployment)
    for clause in limits:
        if clause.metric == "ttft" and clause.statistic in SHARE_ABOVE:
            least = _least_ttft_s(one, known, cost, SHARE_ABOVE[clause.statistic])
        elif clause.metric == "itl" and clause.statistic != "max":
            least = cost.step_s([], 1, cost.decode_attention_s([1]), 1)
        else:
            continue
        if least * SURE > clause.limit_s:
            return f"{clause.name} is at least {format_seconds(least)} on an idle machine that finds everything in memory"
    return ""


def all_fit(one: Scenario, known: Demand) -> tuple[bool, ...]:
    """Which tiers hold all that is ever stored, so that a larger one gives the same run: CPU, disk, remote."""
    if one.cluster.replicas > 1 and one.cluster.router == "prefix_aware":
        return (False, False, False)  # that router reckons with the tiers' sizes
    most = everything_bytes(one, known)
    return tuple(size >= most for size in (one.tiers.cpu_bytes, one.tiers.disk_bytes, one.tiers.remote_bytes))


def _least_ttft_s(one: Scenario, known: Demand, cost: StepCost, share: float) -> float:
    """A lower bound of a percentile: the least of the times of that share of the requests that computes most."""
    computed = np.maximum(1, known.prompt_tokens - known.reused_tokens).astype(int)
    order = np.argsort(-computed, kind="stable")[: max(1, int(share * known.requests))]
    taken = order[:: max(1, len(order) // MOST_COSTED)]
    taken = np.append(taken, order[-1])
    overhead = one.deployment.overhead
    times = []
    for at in taken.tolist():
        prompt, fresh = int(known.prompt_tokens[at]), int(computed[at])
        times.append(overhead.first_token_s + cost.prefill_s(fresh, prompt - fresh, one.engine.step_tokens))
    return min(times)
