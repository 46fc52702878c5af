"""What an engine is told beside its tiers: the model's repository, how long a request may be, how many run at once, the pool."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from kvplan.deployment import Deployment
from kvplan.memory.layout import layout
from kvplan.memory.pinned import HostMemory, host_memory
from kvplan.memory.pool import kv_pool, told_batch
from kvplan.model import ModelSpec
from kvplan.results.deploy import RouterCapacity
from kvplan.results.placement import Notice, Placement
from kvplan.units import format_bytes, format_tokens

LENGTH_STEP = 1024
"""The served length is the longest request of the traffic, up to a multiple of this."""

_REPOSITORY = re.compile(r"Hugging Face ([\w.-]+/[\w.-]+)")


class Serving(msgspec.Struct, frozen=True, kw_only=True):
    """All that a writer of configurations needs to know."""

    placement: Placement
    version: str  # of the engine
    host: HostMemory  # what the CPU tier takes
    prefetch: str = "none"  # from lower tiers while a request is queued
    block_tokens: int = 16  # of the engine, where the placement names none
    pool_tokens: int = 0  # that the GPU's pool holds; 0: unknown
    router: tuple[RouterCapacity, ...] = ()  # what a router should assume of each tier
    joint: bool = False  # do data-parallel ranks share a step


def repository(model: ModelSpec) -> str:
    """What the engine is given to load: a Hugging Face repository, the folder of a config.json, or the bare name when neither is known."""
    if found := _REPOSITORY.match(model.source):
        return found[1]
    path = Path(model.source)
    if path.name == "config.json" and path.is_file():
        return str(path.resolve().parent)
    return model.name


def told(deployment: Deployment, placement: Placement) -> Deployment:
    """The deployment of an engine that is told a placement: what the placement leaves open stays as it is.

    An engine told how many sequences run at once measures its activations with so many.
    """
    engine = told_batch(deployment.engine, placement.max_batch) if placement.max_batch else deployment.engine
    numbers = {"gpu_fraction": placement.gpu_fraction}
    numbers |= {name: getattr(placement, name) for name in ("step_tokens", "block_tokens") if getattr(placement, name)}
    return deployment.changed(
        engine=msgspec.structs.replace(engine, **numbers),
        kv_dtype=placement.kv_dtype,
        **ranks_of(placement),
    )


def ranks_of(placement: Placement) -> dict[str, int]:
    """How a placement spreads a replica, as `Deployment.changed` takes it."""
    return {kind: getattr(placement, kind) for kind in ("tp", "pp", "dp", "ep")}


def pool_bytes(deployment: Deployment, placement: Placement) -> int:
    """KV pool over all ranks of an engine that is told a placement; 0 where the machine is not known and no size is told."""
    return placement.gpu_kv_bytes or (kv_pool(deployment).kv_bytes if deployment.server else 0)


def served(placement: Placement, deployment: Deployment, longest_tokens: int) -> Placement:
    """The placement with what the engine is told beside its tiers, as it was simulated.

    Served is what the traffic's longest request (prompt and answer) needs, at most what the model and the pool hold;
    without traffic as much as they hold. Engines refuse to start for a length that their pool cannot hold. A pool that was
    given is told; one that the engine makes is left to it.
    """
    engine, ranks = deployment.engine, deployment.parallel.gpus
    plain = all(layer.kind == "full" for layer in deployment.model.layers)
    placement = msgspec.structs.replace(
        placement,
        model=repository(deployment.model),
        gpu_fraction=engine.gpu_fraction,
        max_batch=engine.max_batch,
        step_tokens=engine.step_tokens,
        gpu_kv_bytes=deployment.tiers.gpu_kv_bytes // ranks * ranks,
        block_tokens=placement.block_tokens or (engine.block_tokens if plain else 0),
    )
    placed = told(deployment, placement)
    most = longest_context(placed, pool_bytes(placed, placement))
    wanted = -(-longest_tokens // LENGTH_STEP) * LENGTH_STEP if longest_tokens else most
    return msgspec.structs.replace(placement, max_context_tokens=min(wanted, most))


def longest_context(deployment: Deployment, pool_bytes: int) -> int:
    """The longest request that the model takes and the pool holds, in tokens; 0 when it holds none."""
    made, longest = layout(deployment), deployment.model.max_context_tokens
    blocks = made.blocks(pool_bytes) - deployment.engine.null_blocks
    if made.request_blocks(longest) <= blocks:
        return longest
    low, high = 0, longest
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if made.request_blocks(middle) <= blocks else (low, middle)
    return low // LENGTH_STEP * LENGTH_STEP or low


def pool_tokens(deployment: Deployment, pool_bytes: int, context_tokens: int) -> int:
    """The number of tokens that the engine prints for a pool, serving requests of at most `context_tokens`."""
    made = layout(deployment)
    return made.tokens(made.blocks(pool_bytes), context_tokens)


def served_notices(placement: Placement, deployment: Deployment, longest_tokens: int, pool: int) -> list[Notice]:
    """What does not follow from the traffic alone."""
    found = []
    if placement.model == deployment.model.name:
        sentence = f"No repository is known for {deployment.model.name}: put its name or folder where {placement.model} stands."
        found.append(Notice(code="repository_unknown", sentence=sentence))
    if longest_tokens > placement.max_context_tokens:
        sentence = (
            f"The longest request takes {format_tokens(longest_tokens)} tokens, the pool of {format_bytes(pool)} "
            f"holds {format_tokens(placement.max_context_tokens)}: longer ones are refused."
        )
        found.append(Notice(code="length_cut", sentence=sentence, hint="an 8-bit KV dtype, more ranks, or a larger GPU"))
    return found


def host_of(deployment: Deployment, placement: Placement) -> HostMemory:
    """What a placement's CPU tier takes of host memory."""
    return host_memory(deployment, placement.cpu_bytes, lower_tier=bool(placement.disk_bytes or placement.remote_url))


def host_notice(host: HostMemory, title: str) -> Notice | None:
    """What a CPU tier takes beyond what it asks for, where it lies, and the limit that a container needs."""
    if not host.asked_bytes:
        return None
    sentence = f"{title}'s CPU tier {host.words}; a container needs a memory limit of {format_bytes(host.limit_bytes)}"
    sentence += f" and a /dev/shm of {format_bytes(host.shm_bytes)}." if host.shm_bytes else "."
    wasteful = host.taken_bytes > host.asked_bytes
    hint = f"ask for {format_bytes(host.taken_bytes)} as well: it takes no more" if wasteful and not host.shm_bytes else ""
    return Notice(code="host_memory", level="note", sentence=sentence, hint=hint)
