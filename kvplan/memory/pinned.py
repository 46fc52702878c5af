"""What a CPU tier really takes of host memory, where it lies, and the memory limit that a container needs."""

from __future__ import annotations

import msgspec

from kvplan.deployment import Deployment
from kvplan.engine.spec import HostPool
from kvplan.memory.below import below, kv_tensors
from kvplan.memory.formats import INDEX_SCALE_BYTES
from kvplan.memory.weights import rank_weight_bytes
from kvplan.units import GiB, format_bytes

SERVER_BYTES = 4 * GiB
"""Host memory of the API server and the engine's own process, assumed; vLLM 0.24 on one H200 took 1.0 GiB for the server."""

RANK_BYTES = 4 * GiB
"""Host memory of a worker process beside its tier: CUDA context, libraries, compiled graphs; assumed, 1.9 GiB on the same H200."""


class HostMemory(msgspec.Struct, frozen=True, kw_only=True):
    """Host memory of one replica over all its ranks, data-parallel ones too. What is in /dev/shm counts against a container's limit."""

    asked_bytes: int
    pinned_bytes: int = 0  # in the processes' own memory
    shm_bytes: int = 0  # in /dev/shm
    limit_bytes: int = 0  # that a container needs: the tier, the weights while they load, the processes

    @property
    def taken_bytes(self) -> int:
        return self.pinned_bytes + self.shm_bytes

    @property
    def words(self) -> str:
        """`asks 7.0 GiB, takes 8.0 GiB`, or only what it takes where that is the same."""
        asked, taken = format_bytes(self.asked_bytes), format_bytes(self.taken_bytes)
        place = " in /dev/shm" if self.shm_bytes else ""
        return f"asks {asked}, takes {taken}{place}" if asked != taken else f"takes {taken}{place}"


def host_memory(deployment: Deployment, cpu_bytes: int, *, lower_tier: bool = False) -> HostMemory:
    """What a CPU tier of `cpu_bytes` on each data-parallel rank takes; `lower_tier`: is there a disk or remote tier behind it.

    vLLM before 0.33 pins a tensor for each KV tensor of each rank, and torch rounds each up to a power of two (10 GiB
    over the 32 layers of Llama-3.1-8B take 16 GiB); with lower tiers, and from 0.33 on, the tier is an exact mapping in
    /dev/shm. SGLang keeps the keys of a sparse indexer beside the size.
    """
    pools = 1 if deployment.engine.host_pool.per_node else deployment.parallel.dp
    taken = taken_bytes(deployment, cpu_bytes, lower_tier=lower_tier) * pools
    shared = _in_shm(deployment, lower_tier=lower_tier)
    return HostMemory(
        asked_bytes=cpu_bytes * pools,
        pinned_bytes=0 if shared else taken,
        shm_bytes=taken if shared else 0,
        limit_bytes=limit_bytes(deployment, taken),
    )


def taken_bytes(deployment: Deployment, cpu_bytes: int, *, lower_tier: bool = False) -> int:
    """Bytes of host memory that the CPU tier of one data-parallel rank takes."""
    rules = deployment.engine.host_pool
    taken = cpu_bytes
    if cpu_bytes and rules.rounding == "power_of_two" and not _in_shm(deployment, lower_tier=lower_tier):
        taken = _rounded_bytes(deployment, cpu_bytes)
    return taken + (_indexer_bytes(deployment, cpu_bytes) if cpu_bytes and rules.indexer_beside else 0)


def _in_shm(deployment: Deployment, *, lower_tier: bool) -> bool:
    rule = deployment.engine.host_pool.shared
    return rule == "always" or (rule == "lower_tiers" and lower_tier)


def default_ratio(rules: HostPool, pool_bytes: int, free_bytes: int = 0) -> float:
    """A CPU tier whose size nobody asked for, in GPU pools of `pool_bytes`; on a host with `free_bytes` (0: not known) no more than the
    engine allows itself of them.

    8 ranks with 640 GB of KV on a host with 1 TB free, under SGLang: 0.76 x (1,000 - 10.7) / 640 = 1.17, not 2.
    """
    if not free_bytes or not pool_bytes:
        return rules.ratio
    return min(rules.ratio, max(0.0, rules.ratio_share * (free_bytes - rules.ratio_spare_bytes) / pool_bytes))


def limit_bytes(deployment: Deployment, taken: int) -> int:
    """Memory limit of a replica's container, in whole GiB: the tier, the weights of all ranks, the processes."""
    spread = deployment.parallel
    whole = taken + spread.all_gpus * (rank_weight_bytes(deployment) + RANK_BYTES) + spread.dp * SERVER_BYTES
    return -(-whole // GiB) * GiB


def largest_tier(deployment: Deployment, room_bytes: int, *, lower_tier: bool = False) -> int:
    """The largest CPU tier of one data-parallel rank that takes at most `room_bytes`; 0 when none does."""
    if taken_bytes(deployment, room_bytes, lower_tier=lower_tier) <= room_bytes:
        return room_bytes
    tensors = kv_tensors(deployment)
    piece = 1 << max(0, (room_bytes // tensors).bit_length() - 1)
    size = piece * tensors
    while size and taken_bytes(deployment, size, lower_tier=lower_tier) > room_bytes:
        size //= 2
    return size


def filled(deployment: Deployment, cpu_bytes: int, *, lower_tier: bool = False) -> int:
    """The largest CPU tier that takes no more host memory than one of `cpu_bytes` does."""
    taken = taken_bytes(deployment, cpu_bytes, lower_tier=lower_tier)
    return max(cpu_bytes, largest_tier(deployment, taken, lower_tier=lower_tier))


def _rounded_bytes(deployment: Deployment, cpu_bytes: int) -> int:
    """Each tensor holds its part of every chunk, and is rounded up to a power of two."""
    stored, tensors = below(deployment), kv_tensors(deployment)
    unit = stored.layout.unit_tokens or stored.chunk_tokens or 1
    row = max(1, stored.row_bytes * max(1, stored.chunk_tokens // unit))
    piece = cpu_bytes // row * row // tensors
    return tensors * (1 << (piece - 1).bit_length()) if piece else 0


def _indexer_bytes(deployment: Deployment, cpu_bytes: int) -> int:
    """Keys of sparse indexers for as many tokens as the tier holds, on each rank."""
    index = sum(layer.count * (layer.index_dim + INDEX_SCALE_BYTES) for layer in deployment.model.layers if layer.index_dim)
    token = below(deployment).token_bytes
    copies = deployment.parallel.tp
    return round(cpu_bytes / (token - index * copies) * index * copies) if index and token > index * copies else 0
