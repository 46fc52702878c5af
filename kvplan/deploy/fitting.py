"""A configuration held against its model, machine and container: what it takes, and what will not start."""

from __future__ import annotations

from kvplan.deploy.manifests import SHM_BESIDE_BYTES
from kvplan.deploy.objects import PodSizes
from kvplan.deploy.reading import Reading
from kvplan.deploy.serving import host_notice, host_of, longest_context, pool_bytes, pool_tokens, told
from kvplan.deployment import Deployment
from kvplan.errors import InputError
from kvplan.memory.pinned import HostMemory
from kvplan.memory.pool import beyond_gpus
from kvplan.results.placement import Notice, Placement
from kvplan.units import format_bytes, format_count, format_tokens


def against(deployment: Deployment, placement: Placement, reading: Reading, pool: int) -> tuple[HostMemory | None, int, list[Notice]]:
    """Host memory that a placement takes, the GPU's pool in bytes where it is known, and what is wrong with both."""
    try:
        placed = told(deployment, placement)
        placed.check_ranks()
        pool = pool or pool_bytes(placed, placement)
        host = host_of(placed, placement)
    except InputError as error:
        return None, pool, [Notice(code="will_not_start", level="error", sentence=f"{error.message}.", hint=error.hint)]
    note = host_notice(host, reading.dialect.title)
    found = [note] if note else []
    if placed.server and not pool:
        sentence = (
            f"The weights of {deployment.model.name} leave no room for KV on {format_count(placement.gpus, 'GPU')} of {placed.server.name}."
        )
        found.append(Notice(code="will_not_start", level="error", sentence=sentence, hint="more ranks, or narrower weights"))
    if pool:
        found += _told_pool(placed, placement) + _length(placed, placement, reading, pool)
    if placed.server and host.taken_bytes > placed.server.host.memory_bytes * placed.server.host.usable_fraction >= host.asked_bytes:
        room = placed.server.host.memory_bytes * placed.server.host.usable_fraction
        sentence = f"The CPU tier takes {format_bytes(host.taken_bytes)} of host memory, {format_bytes(room)} can be used."
        found.append(Notice(code="host_exhausted", level="error", sentence=sentence, hint="ask for less"))
    return host, pool, found


def _told_pool(placed: Deployment, placement: Placement) -> list[Notice]:
    """Do weights and a pool of a given size fit the GPUs."""
    beyond = beyond_gpus(placed, placement.gpu_kv_bytes) if placement.gpu_kv_bytes else ""
    sentence = f"{beyond[:1].upper()}{beyond[1:]}."
    return [Notice(code="will_not_start", level="error", sentence=sentence, hint="a smaller pool, or more ranks")] if beyond else []


def _length(placed: Deployment, placement: Placement, reading: Reading, pool: int) -> list[Notice]:
    """Does the pool hold the longest request that is served; engines refuse to start where it does not."""
    asked = placement.max_context_tokens or placed.model.max_context_tokens
    if not reading.pool_tokens:
        reading.pool_tokens = pool_tokens(placed, pool, asked)
    reading.mean("(pool)", format_bytes(pool), f"the GPU's KV pool holds {reading.pool_tokens:,} tokens")
    longest = longest_context(placed, pool)
    if asked <= longest or asked > placed.model.max_context_tokens:
        return []
    whose = (
        f"a served length of {format_tokens(asked)} tokens"
        if placement.max_context_tokens
        else f"the model's {format_tokens(asked)} tokens"
    )
    sentence = f"The GPU's pool of {format_bytes(pool)} does not hold {whose}: the engine refuses to start."
    return [
        Notice(code="will_not_start", level="error", sentence=sentence, hint=f"serve at most {longest} tokens (--max-model-len {longest})")
    ]


def pod_checks(pod: PodSizes, host: HostMemory | None, placement: Placement) -> list[Notice]:
    """Tier, /dev/shm and memory limit of a container belong together."""
    found = [Notice(code=code, level="error", sentence=sentence, hint=hint) for code, sentence, hint in pod.faults]
    taken = host or HostMemory(asked_bytes=placement.cpu_bytes, pinned_bytes=placement.cpu_bytes)
    outside = pod.target == "lmcache-operator"  # the tier belongs to another container
    needed = (taken.limit_bytes or taken.taken_bytes) - (taken.taken_bytes if outside else 0)
    if pod.limit_bytes is not None and pod.limit_bytes < needed:
        sentence = (
            f"The memory limit of {format_bytes(pod.limit_bytes)} does not cover weights, processes and tier: {format_bytes(needed)}."
        )
        found.append(Notice(code="memory_limit", level="error", sentence=sentence, hint="the container is killed when the tier is touched"))
    shm = taken.shm_bytes or (placement.cpu_bytes if pod.target == "kserve" else 0)
    if pod.shm_bytes is not None and pod.shm_bytes < shm:
        sentence = f"The CPU tier maps {format_bytes(shm)} in /dev/shm, which holds {format_bytes(pod.shm_bytes)}."
        hint = f"an emptyDir of medium Memory and {format_bytes(shm + SHM_BESIDE_BYTES)} there"
        found.append(Notice(code="shm_too_small", level="error", sentence=sentence, hint=hint))
    if placement.disk_path and not pod.claim_bytes:
        sentence = f"No volume bounds the disk tier in {placement.disk_path}: it grows until the node's disk is full."
        found.append(Notice(code="no_volume", sentence=sentence, hint="a claim of the tier's size"))
    return found
