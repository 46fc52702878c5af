"""Helm values of vLLM's production stack, with LMCache in the engine's process."""

from __future__ import annotations

from typing import Any

from kvplan.deploy.dialects import lmcache
from kvplan.deploy.dialects.vllm import arguments_of
from kvplan.deploy.manifests import above, memory_limit, object_name, shm_bytes, words
from kvplan.deploy.serving import Serving
from kvplan.deploy.write import Written, manifest

DIALECT = lmcache.DIALECT

ABILITIES = {
    "fixed": ("load_rule", "load_min_tokens", "chunk_tokens", "store_generated"),
    "policies": ("lru",),
    "disk": False,
    "remote": False,
}
"""What its values cannot say; of a disk tier they name a size and no folder."""

_OWN = ("--max-model-len", "--max-num-seqs", "--tensor-parallel-size", "--gpu-memory-utilization")
"""Options that have a value of their own in the chart."""


def write(serving: Serving) -> Written:
    placement = serving.placement
    rest = [line for line in arguments_of(serving) if line[0].split()[0] not in _OWN]
    memory = above(memory_limit(serving))
    config: dict[str, Any] = {"enablePrefixCaching": True}
    config |= {"maxModelLen": placement.max_context_tokens} if placement.max_context_tokens else {}
    config |= {"tensorParallelSize": placement.tp}
    config |= {"maxNumSeqs": placement.max_batch} if placement.max_batch else {}
    config |= {"gpuMemoryUtilization": placement.gpu_fraction, "extraArgs": words(rest)}
    model: dict[str, Any] = {
        "name": object_name(serving),
        "repository": "lmcache/vllm-openai",
        "tag": "latest",
        "modelURL": placement.model,
        "replicaCount": 1,
        "requestCPU": 8,
        "limitCPU": 16,
        "requestMemory": memory,
        "limitMemory": memory,
        "requestGPU": placement.gpus,
        "shmSize": above(shm_bytes(serving)),
        "vllmConfig": config,
    }
    comments = []
    if placement.cpu_bytes:
        number, total = DIALECT.size(placement.cpu_bytes, placement.ranks)
        model["lmcacheConfig"] = {"enabled": True, "cpuOffloadingBufferSize": number}
        comments.append(f"cpuOffloadingBufferSize counts 2^30 bytes in each worker: {total}")
    return [manifest(DIALECT, serving.version, "values.yaml", [{"servingEngineSpec": {"modelSpec": [model]}}], comments)], []
