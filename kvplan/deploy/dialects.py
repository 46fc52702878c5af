"""What each engine's configuration can say, and in which unit it counts the size of a tier.

The unit is the commonest configuration error: the same 100 is 100 GiB in all for one engine and 100 GB in each of
8 ranks for another. Sources: documentation and source of the versions stated.
"""

from __future__ import annotations

import msgspec

from kvplan.errors import InputError, did_you_mean
from kvplan.results.placement import Placement
from kvplan.units import GiB


class SizeUnit(msgspec.Struct, frozen=True, kw_only=True):
    """A number of a configuration times `scale_bytes` is the size in one rank (`per_rank`) or of the whole replica."""

    word: str  # as the engine's documentation calls it
    scale_bytes: int
    per_rank: bool
    source: str

    def number(self, total_bytes: int, tp: int) -> float:
        """The number to write for a tier of `total_bytes` over `tp` ranks."""
        return total_bytes / (tp if self.per_rank else 1) / self.scale_bytes

    def total_bytes(self, number: float, tp: int) -> int:
        """Bytes over all ranks that a number of the configuration means."""
        return round(number * self.scale_bytes * (tp if self.per_rank else 1))


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """An engine as the writer and the reader of configurations see it."""

    title: str
    version: str  # whose names are used
    unit: SizeUnit
    dtypes: dict[str, str]  # kvplan's name of a KV dtype -> the engine's
    stores: dict[str, str]  # kvplan's store rule -> the engine's word, empty where there is nothing to write
    policies: dict[str, str]  # kvplan's eviction policy -> the engine's
    disk: bool = True
    selective_disk: bool = True  # may stores be selective with a disk tier
    disk_alone: bool = False  # works without a CPU tier
    remote: bool = False  # takes the address of a remote store and nothing else
    min_load: bool = False  # can leave short hits unloaded
    prompt_only: bool = False  # can leave generated tokens out
    own_chunks: bool = False  # chunks below the GPU may differ from its blocks


_VLLM_DTYPES = {"auto": "auto", "bf16": "bfloat16", "fp8": "fp8", "fp8_e4m3": "fp8_e4m3", "fp8_e5m2": "fp8_e5m2"}

TARGETS: dict[str, Target] = {
    "vllm": Target(
        title="vLLM",
        version="0.24",
        unit=SizeUnit(
            word="GiB",
            scale_bytes=GiB,
            per_rank=False,
            source="kv_offloading_size x 2^30 = cpu_bytes_to_use, which is shared by all workers (KV offloading guide)",
        ),
        dtypes=_VLLM_DTYPES,
        stores={"write_through": "", "selective": "store_threshold"},
        policies={"lru": "lru", "arc": "arc"},
        selective_disk=False,
        prompt_only=True,
        own_chunks=True,
    ),
    "lmcache": Target(
        title="LMCache",
        version="0.5",
        unit=SizeUnit(word="GB", scale_bytes=GiB, per_rank=True, source="max_local_cpu_size x 1024^3, allocated by each worker"),
        dtypes=_VLLM_DTYPES,
        stores={"write_through": ""},
        policies={"lru": "LRU", "lfu": "LFU", "fifo": "FIFO", "mru": "MRU"},
        remote=True,
        min_load=True,
        prompt_only=True,
        own_chunks=True,
    ),
    "sglang": Target(
        title="SGLang",
        version="0.5",
        unit=SizeUnit(word="GB", scale_bytes=10**9, per_rank=True, source="hicache_size x 1e9, allocated by each rank"),
        dtypes={"auto": "auto", "bf16": "bf16", "fp8": "fp8_e4m3", "fp8_e4m3": "fp8_e4m3", "fp8_e5m2": "fp8_e5m2"},
        stores={"write_through": "write_through", "selective": "write_through_selective", "on_evict": "write_back"},
        policies={"lru": "lru", "lfu": "lfu"},
    ),
    "trtllm": Target(
        title="TensorRT-LLM",
        version="1.2",
        unit=SizeUnit(word="bytes", scale_bytes=1, per_rank=True, source="host_cache_size, allocated by each rank (PR 16106)"),
        dtypes={"auto": "auto", "bf16": "bfloat16", "fp8": "fp8", "fp8_e4m3": "fp8", "nvfp4": "nvfp4"},
        stores={"on_evict": ""},
        policies={"lru": ""},
        disk=False,
    ),
    "dynamo": Target(
        title="Dynamo KVBM",
        version="1.3",
        unit=SizeUnit(
            word="GB",
            scale_bytes=10**9,
            per_rank=False,
            source="size x 1e9 over the bytes of a block, which its leader sums over all workers",
        ),
        dtypes=_VLLM_DTYPES,
        stores={"write_through": ""},
        policies={"lru": ""},
        disk_alone=True,
    ),
}
"""Name that the user types -> the engine."""


def target(name: str) -> Target:
    """The target of a name. Raises InputError with the nearest names."""
    if name not in TARGETS:
        raise InputError(f"no engine to configure is named {name!r}", hint=did_you_mean(name, TARGETS))
    return TARGETS[name]


def refuse(name: str, what: str, instead: str) -> InputError:
    """The error for a decision that an engine cannot carry out, and what to do about it."""
    return InputError(f"{TARGETS[name].title} {TARGETS[name].version} cannot {what}", hint=instead)


def check(placement: Placement, name: str) -> None:
    """Raises InputError when a placement is not sound, or when the engine cannot do what it decides."""
    _check_sound(placement)
    engine = target(name)
    if placement.kv_dtype not in engine.dtypes:
        raise refuse(name, f"keep KV as {placement.kv_dtype}", f"it offers {', '.join(engine.dtypes)}")
    if not placement.offloads:
        return
    if placement.store not in engine.stores:
        raise refuse(name, f"store by the rule {placement.store}", f"it offers {', '.join(engine.stores)}")
    if placement.policy not in engine.policies:
        raise refuse(name, f"evict by {placement.policy}", f"it offers {', '.join(engine.policies)}")
    if placement.disk_bytes and not engine.disk:
        raise refuse(name, "keep KV on disk", "emit dynamo, lmcache, sglang or vllm, or drop the disk tier")
    if (placement.disk_bytes or placement.remote_url) and not placement.cpu_bytes and not engine.disk_alone:
        raise refuse(name, "use a lower tier without CPU memory", "its transfers pass through CPU memory: give it cpu_bytes")
    if (placement.remote_bytes or placement.remote_url) and not engine.remote:
        raise refuse(name, "use a remote tier by its address alone", "emit lmcache, or set its remote store up by hand")
    if placement.load_rule == "break_even":
        raise refuse(name, "weigh each load against computing", "set load_rule to always")
    if placement.load_min_tokens and not engine.min_load:
        raise refuse(name, "leave short hits unloaded", "drop load_min_tokens, or emit lmcache")
    if not placement.store_generated and not engine.prompt_only:
        raise refuse(name, "leave generated tokens out", "it stores every full block; set store_generated")
    if placement.chunk_tokens not in (0, placement.block_tokens) and not engine.own_chunks:
        raise refuse(name, "use chunks that differ from its blocks", "make chunk_tokens and block_tokens equal")


def _check_sound(placement: Placement) -> None:
    if placement.tp < 1:
        raise InputError(f"tp = {placement.tp}: a replica has at least one rank")
    if not 0 < placement.gpu_fraction <= 1:
        raise InputError(f"gpu_fraction = {placement.gpu_fraction}: must lie above 0 and at most 1")
    if min(placement.cpu_bytes, placement.disk_bytes) < 0:
        raise InputError("a tier cannot have a negative size")
    if bool(placement.disk_bytes) != bool(placement.disk_path):
        raise InputError("a disk tier needs both a size and a directory", hint="set disk_bytes and disk_path, or neither")
    if placement.remote_bytes and not placement.remote_url:
        raise InputError("a remote tier needs an address", hint="set remote_url")
