"""What users needed to be told and were not: each function looks at one trap and returns a notice, or nothing."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from kvplan.deployment import Deployment
from kvplan.engine.spec import EngineSpec
from kvplan.hardware.spec import Host, Machine
from kvplan.loading import Loading
from kvplan.memory.below import below
from kvplan.model import ModelSpec
from kvplan.results.placement import Notice, Placement
from kvplan.units import format_bytes, format_seconds, format_tokens

SHORT_PREFIX_TOKENS = 10_000
"""Disk raised the time to first token at 10k tokens (GKE: +121 %) and lowered it from 50k on (-68 to -79 %)."""

HEAVY_TOKEN_BYTES = 300_000
"""Bytes per token that make a multi-head model heavy to move: Llama-2-7B keeps 524,288, Llama-3.1-8B 131,072."""

CONVOY_REQUESTS = 8
"""Requests that share blocks being loaded wait for one another (vLLM issue 44294: 267 to 158 tokens/s)."""

LONG_LOAD_S = 0.1
"""A wait that a user would notice in a time to first token."""

LONG_PIN_S = 10.0


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """What the warnings need to know of the traffic; 0 means unknown."""

    longest_prompt_tokens: int = 0
    reused_prefix_tokens: int = 0  # median prefix that an earlier request has left behind
    prefix_sharers: int = 0  # most requests in flight at once that begin with the same prefix
    shared_prefix_tokens: int = 0  # length of that prefix


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """A placement where it is to run."""

    deployment: Deployment  # as the placement decides
    placement: Placement
    workload: Workload
    pool_bytes: int  # of the GPU's KV, over all ranks
    pool_tokens: int  # of prefixes that it keeps
    token_bytes: float  # of one token's KV in a tier below the GPU
    replicas: int = 1  # on this machine

    @property
    def model(self) -> ModelSpec:
        return self.deployment.model

    @property
    def machine(self) -> Machine:
        return self.deployment.machine

    @property
    def engine(self) -> EngineSpec:
        return self.deployment.engine


def small_tier(placement: Placement, pool_bytes: int) -> Notice | None:
    """A write-through CPU tier repeats what the GPU holds; hits come from beyond it (SGLang issue 29049)."""
    cpu = placement.cpu_bytes
    if not cpu or not pool_bytes or placement.store == "on_evict" or cpu >= 2 * pool_bytes:
        return None
    sizes = f"The CPU tier ({format_bytes(cpu)})"
    pool = f"the GPU's KV pool ({format_bytes(pool_bytes)})"
    hint = f"give it at least {format_bytes(2 * pool_bytes)}, or no CPU tier"
    if cpu <= pool_bytes:
        sentence = f"{sizes} is not larger than {pool}: under write-through it repeats what the GPU holds and adds no hits."
        return Notice(code="tier_adds_nothing", sentence=sentence, hint=hint)
    sentence = f"{sizes} is under twice {pool}: under write-through most of it repeats what the GPU holds."
    return Notice(code="small_tier", sentence=sentence, hint=hint)


def host_exhausted(placement: Placement, host: Host, replicas: int = 1) -> Notice | None:
    """Pinned memory cannot be swapped out: what does not fit ends in the out-of-memory killer."""
    wanted, usable = placement.cpu_bytes * replicas, host.memory_bytes * host.usable_fraction
    if wanted <= usable:
        return None
    of = f" for {replicas} replicas" if replicas > 1 else ""
    sentence = (
        f"The CPU tier pins {format_bytes(wanted)}{of}, more than the {format_bytes(usable)} "
        f"({host.usable_fraction:.0%} of {format_bytes(host.memory_bytes)}) of host memory that can be used."
    )
    return Notice(code="host_exhausted", level="error", sentence=sentence, hint="make the tier smaller, or set host.memory_bytes")


def slow_start(placement: Placement, host: Host) -> Notice | None:
    """Pinning takes time at every start (38 s for 500 GiB, vLLM blog 2026-05-18)."""
    pin_s = placement.cpu_bytes * host.pin_s_per_byte
    if pin_s < LONG_PIN_S:
        return None
    size = format_bytes(placement.cpu_bytes)
    return Notice(code="slow_start", level="note", sentence=f"Pinning {size} adds about {format_seconds(pin_s)} to each start.")


def disk_without_cpu(placement: Placement, title: str, allowed: bool = False) -> Notice | None:
    """Most engines read the disk into pinned CPU memory first."""
    if not placement.disk_bytes or placement.cpu_bytes:
        return None
    if allowed:
        sentence = f"{title} calls a disk tier without a CPU tier experimental."
        return Notice(code="disk_without_cpu", sentence=sentence, hint="add a CPU tier larger than the GPU's KV")
    sentence = f"{title} moves disk blocks through CPU memory: a disk tier without a CPU tier does not work."
    return Notice(code="disk_without_cpu", level="error", sentence=sentence, hint="add a CPU tier")


def multi_head(case: Case) -> Notice | None:
    """A model without grouped queries moves so many bytes a token that loading gains little over computing."""
    heads = max((group.kv_heads for group in case.model.layers if group.kv_heads == group.query_heads), default=0)
    if heads <= 1 or case.token_bytes <= HEAVY_TOKEN_BYTES or not case.placement.offloads:
        return None
    sentence = (
        f"{case.model.name} has as many KV heads as query heads ({heads}): {format_bytes(case.token_bytes)} a token "
        "must be moved for little computing saved."
    )
    return Notice(code="multi_head", sentence=sentence, hint="an 8-bit KV dtype halves what is moved")


def small_copies(case: Case) -> Notice | None:
    """Below a cliff at 24 to 28 KiB the cost of a copy no longer depends on its size (vLLM PR 42212)."""
    if not case.placement.offloads:
        return None
    cliff = case.machine.link.small_copy_bytes
    piece = _smallest_copy(case)
    if not 0 < piece < cliff:
        return None
    sentence = f"A block is copied in pieces of {format_bytes(piece)}, below {format_bytes(cliff)} where copies become slow."
    hint = "larger blocks or chunks, or a layout with all layers of a block together"
    return Notice(code="small_copies", sentence=sentence, hint=hint)


def _smallest_copy(case: Case) -> int:
    """Bytes of a contiguous piece of what is loaded on one rank."""
    made = below(case.deployment)
    moved = made.loaded(made.chunk_tokens)
    return moved.rank_bytes // moved.pieces if moved.pieces else 0


def disk_for_short_prefixes(case: Case) -> Notice | None:
    """Reading a short prefix from disk has often been slower than computing it again."""
    reused = case.workload.reused_prefix_tokens
    if not case.placement.disk_bytes or not 0 < reused < SHORT_PREFIX_TOKENS:
        return None
    sentence = (
        f"Half of the reused prefixes are under {format_tokens(reused)} tokens; "
        f"below about {SHORT_PREFIX_TOKENS:,} reading from disk has often taken longer than computing."
    )
    return Notice(code="disk_short_prefix", sentence=sentence, hint="set a least length for loading, or drop the disk tier")


def convoy(case: Case) -> Notice | None:
    """While a shared prefix is loaded, all requests that begin with it wait."""
    sharers, prefix = case.workload.prefix_sharers, case.workload.shared_prefix_tokens
    waits = case.engine.offload.load in ("whole_request", "blocking")
    if not case.placement.offloads or not waits or sharers < CONVOY_REQUESTS or not prefix:
        return None
    load_s = Loading(case.deployment).path_s("cpu", prefix)
    if load_s < LONG_LOAD_S:
        return None
    sentence = (
        f"Up to {sharers} requests share a prefix of {format_tokens(prefix)} tokens: when it has left the GPU, "
        f"all of them wait for one load of {format_seconds(load_s)}."
    )
    return Notice(code="convoy", sentence=sentence, hint="keep the shared prefix on the GPU: a larger pool, or fewer sequences")


def latent_per_rank(case: Case) -> Notice | None:
    """A latent vector is equal on all ranks: storing it on each wastes the tier (PegaFlow: 65.2 % hits, not 97.2)."""
    latent = any(group.kind == "latent" for group in case.model.layers)
    if not latent or case.placement.tp == 1 or not case.engine.offload.latent_per_rank or not case.placement.offloads:
        return None
    tp = case.placement.tp
    sentence = (
        f"{case.engine.name} stores the latent KV of {case.model.name} on each of {tp} ranks: the tiers hold 1/{tp} of what they could."
    )
    return Notice(code="latent_per_rank", sentence=sentence, hint="an engine that stores it once, or data-parallel attention")


def pool_too_small(case: Case) -> Notice | None:
    """Offloading extends reuse, not the context of a running request (TensorRT-LLM issue 7281, LMCache issue 1241)."""
    longest = case.workload.longest_prompt_tokens
    pool_tokens = case.pool_tokens
    if not longest or not pool_tokens or pool_tokens >= 2 * longest:
        return None
    sentence = f"The GPU's KV pool holds {format_tokens(pool_tokens)} tokens, the longest prompt {format_tokens(longest)}: "
    hint = "an 8-bit KV dtype, more ranks, or a smaller model"
    if pool_tokens < longest:
        sentence += "it cannot run, with or without offloading."
        return Notice(code="pool_too_small", level="error", sentence=sentence, hint=hint)
    return Notice(code="pool_too_small", sentence=sentence + "such requests run one at a time.", hint=hint)


WARNINGS: dict[str, Callable[[Case], Notice | None]] = {
    "pool_too_small": pool_too_small,
    "host_exhausted": lambda case: host_exhausted(case.placement, case.machine.host, case.replicas),
    "small_tier": lambda case: small_tier(case.placement, round(case.pool_tokens * case.token_bytes) or case.pool_bytes),
    "disk_short_prefix": disk_for_short_prefixes,
    "multi_head": multi_head,
    "small_copies": small_copies,
    "convoy": convoy,
    "latent_per_rank": latent_per_rank,
    "slow_start": lambda case: slow_start(case.placement, case.machine.host),
}
"""Trap -> what looks for it, the gravest first."""


def warnings(case: Case) -> tuple[Notice, ...]:
    """All notices that apply to a case, the gravest first."""
    found = [look(case) for look in WARNINGS.values()]
    return tuple(notice for notice in found if notice)
