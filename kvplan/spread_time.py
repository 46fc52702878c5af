"""What it costs to spread a model over GPUs: collectives of a layer, exchange between experts, stages of a pipeline, uneven experts.

Volumes per layer and rank are those of vLLM and SGLang: an all-reduce of the hidden state after attention and one after the feed-forward
part over tensor-parallel ranks; with data-parallel attention the hidden states of all ranks are gathered in front of the experts and
scattered behind them (`allgather_reducescatter`), or sent to the experts that they chose and back (DeepEP).
"""

from __future__ import annotations

import hashlib
import math
from functools import cache
from statistics import NormalDist

import msgspec

from kvplan.deployment import Deployment, Parallel
from kvplan.errors import InputError
from kvplan.hardware.collectives import collective_s, curves
from kvplan.hardware.spec import Interconnect, Machine, Operation

RANK_SIGMA_S = 5.6e-6
"""Standard deviation of when a rank of a step comes to a collective. Each waits for the slowest, so that one of n ranks takes longer than
in a loop of its own by the mean of the largest of n normal deviates: 3 us of 2 ranks, 8 us of 8. Steps of one sequence over 122 to 188
collectives are 1.0 to 2.3 ms longer than their parts on 8 ranks (Qwen3-235B and DeepSeek-R1 on B200, Llama-3.1-70B on A100, SGLang 0.5.6),
those of 72 on 2 ranks 0.0 to 0.2 ms (Qwen3-30B-A3B on H200, vLLM 0.24). Engines that fuse the all-reduce with the norm behind it wait less
(gpt-oss-120b on 8 B200)."""

DRAWS = 64
"""Placements of experts of uneven popularity over ranks, of which the mean of the fullest counts."""


def joint_tokens(parallel: Parallel, tokens: int, decodes: int) -> int:
    """Tokens that the experts see in a step in which one data-parallel rank has `tokens`, of which `decodes` are decoded.

    Decode steps run in CUDA graphs that are padded to the largest rank; beside a prefill nothing is padded, and the others are taken to
    decode as much.
    """
    return parallel.dp * tokens if tokens == decodes else tokens + (parallel.dp - 1) * max(1, decodes)


@cache
def fullest_share(experts: int, ranks: int, skew: float) -> float:
    """Tokens of the fullest rank over the mean of all when the popularity of experts follows Zipf's law with this exponent, and experts lie
    on ranks in no order.
    """
    if ranks < 2 or not skew:
        return 1.0
    weights, each = [1 / (place + 1) ** skew for place in range(experts)], experts // ranks
    total, mean = 0.0, sum(weights) / ranks
    for draw in range(DRAWS):
        dealt = sorted(range(experts), key=lambda expert: hashlib.sha256(f"{draw} {expert}".encode()).digest())  # noqa: B023
        total += max(sum(weights[expert] for expert in dealt[rank * each : (rank + 1) * each]) for rank in range(ranks)) / mean
    return total / DRAWS


@cache
def balanced_share(experts: int, ranks: int, skew: float, redundant: int) -> float:
    """The same where experts are placed by their load: the busiest of each copy is copied again, `redundant` times, and all copies go, the
    busiest first, to the rank that has the least and room (DeepSeek's EPLB, which vLLM and SGLang use)."""
    if ranks < 2 or not skew:
        return 1.0
    weights, copies = [1 / (place + 1) ** skew for place in range(experts)], [1] * experts
    for _ in range(redundant):
        copies[max(range(experts), key=lambda one: weights[one] / copies[one])] += 1
    pieces = sorted((weight / count for weight, count in zip(weights, copies, strict=True) for _ in range(count)), reverse=True)
    loads, room = [0.0] * ranks, [(experts + redundant) // ranks] * ranks
    for piece in pieces:
        rank = min((rank for rank in range(ranks) if room[rank]), key=loads.__getitem__)
        loads[rank] += piece
        room[rank] -= 1
    return max(loads) / (sum(loads) / ranks)


@cache
def chances(experts: int, chosen: float, skew: float) -> tuple[float, ...]:
    """Probability that a token chooses each expert, `chosen` on the mean, when their popularity follows Zipf's law with this exponent.

    Those that would be chosen more than always are chosen always.
    """
    weights, always = [1 / (place + 1) ** skew for place in range(experts)], 0
    while always < experts and (rate := max(0.0, chosen * experts - always) / sum(weights[always:])) * weights[always] > 1:
        always += 1
    return tuple(1.0 if place < always else rate * weight for place, weight in enumerate(weights))


def spread_s(machine: Machine, op: Operation, gpus: int, size: float, *, library: str = "nccl", least_s: float = 0.0) -> float:
    """Seconds of one collective over `gpus` GPUs, over several servers where one has fewer.

    Between servers each GPU brings in what lies on the others, `size` / GPUs of a server at a time on its own port, while NVLink spreads
    it: the longer of both, and one trip. Where exchanges of experts over several servers were measured, these count.
    """
    link = machine.interconnect
    if gpus <= machine.gpus or (link is not None and _measured(link, op, gpus, library)):
        return collective_s(link, op, gpus, size, library=library, least_s=least_s)
    fabric = machine.fabric or machine.network
    if fabric is None:
        raise InputError(f"{machine.name} has no network to other servers", hint="--set machine.fabric.Bps=50GB/s")
    servers = -(-gpus // machine.gpus)
    inside_s = collective_s(link, op, machine.gpus, size, library=library, least_s=least_s)
    twice = 2 if op == "all_reduce" else 1
    own = 1 if op in ("dispatch", "combine", "send") else machine.gpus
    return fabric.latency_s + max(inside_s, twice * (servers - 1) / servers * size / own / fabric.Bps)


def _measured(link: Interconnect, op: Operation, gpus: int, library: str) -> bool:
    known = (*link.curves, *(curves(link.table) if link.table else ()))
    return any(curve.op == op and curve.library == library and curve.gpus >= gpus for curve in known)


@cache
def slowest_rank_s(ranks: int) -> float:
    """What each of so many ranks waits for the slowest, on the mean; the largest of normal deviates as G. Blom estimates it (1958)."""
    return RANK_SIGMA_S * NormalDist().inv_cdf((ranks - 0.375) / (ranks + 0.25)) if ranks > 1 else 0.0


def reduced_layers_s(deployment: Deployment, size: float, *, least_s: float) -> float:
    """Seconds of the all-reduces of all layers over tensor-parallel ranks, of hidden states of `size` bytes: two a layer; not the second
    where data-parallel ranks exchange tokens with the experts."""
    model, spread = deployment.model, deployment.parallel
    reduced_s = spread_s(deployment.machine, "all_reduce", spread.tp, size, library="engine", least_s=least_s)
    return (2 * model.depth - _exchanging(deployment)) * (reduced_s + slowest_rank_s(spread.tp))


def exchanged_layers_s(deployment: Deployment, joint: int, *, captured: bool, row_bytes: float, least_s: float) -> float:
    """Seconds in which `joint` tokens of all data-parallel ranks, `row_bytes` each, are brought to the experts of all layers, and what they
    give back."""
    machine, spread, layers = deployment.machine, deployment.parallel, _exchanging(deployment)
    ranks = spread.tp * spread.dp
    if spread.exchange == "all_gather":
        size = joint * row_bytes
        gathered_s = spread_s(machine, "all_gather", ranks, size, least_s=least_s)
        return layers * (gathered_s + spread_s(machine, "reduce_scatter", ranks, size, least_s=least_s) + 2 * slowest_rank_s(ranks))
    chosen = max((group.experts_per_token for group in deployment.model.ffn if group.experts), default=0)
    sent = max(1.0, joint / ranks) * chosen * row_bytes  # with copies for each expert, bf16; dispatched in fp8
    library = "low_latency" if captured else "normal"
    out_s = spread_s(machine, "dispatch", ranks, sent / 2, library=library, least_s=least_s)
    return layers * (out_s + spread_s(machine, "combine", ranks, sent, library=library, least_s=least_s) + 2 * slowest_rank_s(ranks))


def _exchanging(deployment: Deployment) -> int:
    """Layers whose experts get tokens from several data-parallel ranks."""
    return sum(group.count for group in deployment.model.ffn if group.experts) if deployment.in_lockstep else 0


def passes(parallel: Parallel, tokens: int, decodes: int, step_tokens: int) -> tuple[int, int]:
    """(Batches in which a step of `tokens` passes the stages, tokens of the largest): running sequences fall into as many as there are
    stages, prompts fill one budget after the other.
    """
    count = max(1, min(parallel.pp, max(decodes, -(-(tokens - decodes) // step_tokens))))
    return count, -(-tokens // count)


def handed_over_s(deployment: Deployment, tokens: int, row_bytes: float) -> float:
    """Seconds in which a batch is sent through all boundaries between stages: hidden state and residual, a part by each tensor-parallel
    rank, gathered by the receivers.
    """
    machine, spread = deployment.machine, deployment.parallel
    if spread.pp == 1:
        return 0.0
    size = 2 * tokens * row_bytes
    apart = spread.tp * spread.pp > machine.gpus
    sent_s = spread_s(machine, "send", machine.gpus + 1 if apart else 2, size / spread.tp)
    return (spread.pp - 1) * (sent_s + spread_s(machine, "all_gather", spread.tp, size))


class Held(msgspec.Struct, frozen=True):
    """Experts of a layer on one rank: how many, the share of each one's width, ranks among which they lie, and how full the fullest is of
    the mean; `skew` is the exponent of their popularity, `unlike` how many different ones there are on all ranks (0: all that are held)."""

    experts: float
    width_share: float
    ranks: int = 1
    fullest: float = 1.0
    skew: float = 0.0
    unlike: int = 0

    def active(self, chosen: float, tokens: int) -> float:
        """Experts that at least one of `tokens` chooses, each with probability `chosen` on the mean, on the rank that has most of them."""
        if self.skew:
            every = chances(self.unlike or round(self.experts * self.ranks), chosen, self.skew)
            mean = sum(_by_one_of(tokens, chance) for chance in every) / self.ranks
        else:
            mean = self.experts * _by_one_of(tokens, chosen)
        return min(self.experts, mean + self._beyond(mean * (1 - mean / self.experts)))

    def routed(self, pairs: float) -> float:
        """Of `pairs` of a token and its expert, those on the fullest rank."""
        mean = pairs / self.ranks
        return min(pairs, self.fullest * mean + self._beyond(mean))

    def _beyond(self, variance: float) -> float:
        """How far the fullest of the ranks lies above the mean by chance: sqrt(2 ln n) standard deviations of a normal distribution."""
        return math.sqrt(2 * math.log(self.ranks) * max(0.0, variance))


def _by_one_of(tokens: int, chance: float) -> float:
    """Probability that at least one of `tokens` does what each does with this probability."""
    return -math.expm1(tokens * math.log1p(-chance)) if chance < 1 else 1.0


def experts_on_rank(deployment: Deployment, experts: int) -> Held:
    """The experts of a layer that one rank computes: whole ones with expert parallelism, else a part of each."""
    spread = deployment.parallel
    if not spread.ep:
        return Held(experts, 1 / (spread.tp * spread.dp), skew=spread.expert_skew)
    placed = (experts, spread.ep, spread.expert_skew)
    fullest = balanced_share(*placed, spread.redundant_experts) if spread.eplb else fullest_share(*placed)
    return Held((experts + spread.redundant_experts) / spread.ep, 1.0, spread.ep, fullest, spread.expert_skew, experts)
