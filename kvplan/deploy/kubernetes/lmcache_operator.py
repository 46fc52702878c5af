"""The LMCache operator's LMCacheEngine, a server on each node, and the vLLM Deployment that its webhook connects to it.

The operator shares the node's /dev/shm with both (hostIPC): a volume mounted there would break the exchange between them, so that
none is.
"""

from __future__ import annotations

from typing import Any

from kvplan.deploy.dialects import lmcache_server
from kvplan.deploy.dialects.vllm import arguments_of
from kvplan.deploy.manifests import CLAIM, above, object_name, resources, variables, words
from kvplan.deploy.serving import Serving
from kvplan.deploy.write import Written, manifest
from kvplan.units import GiB

DIALECT = lmcache_server.DIALECT

SERVER_BYTES = 8 * GiB
"""Memory of the server's container beside its pool, assumed."""


def write(serving: Serving) -> Written:
    placement, name = serving.placement, object_name(serving)
    number, total = DIALECT.size(placement.cpu_bytes, placement.ranks)
    spec: dict[str, Any] = {
        "l1": {"sizeGB": float(number)},
        "eviction": {"policy": DIALECT.policies[placement.policy], "triggerWatermark": 0.8, "evictionRatio": 0.2},
        "server": {"chunkSize": placement.chunk_tokens or lmcache_server.CHUNK_TOKENS},
        "resourceOverrides": {"limits": {"memory": above(placement.cpu_bytes + SERVER_BYTES)}},
    }
    if placement.disk_bytes:
        spec["l2Backend"] = {"raw": {"type": "fs", "config": {"base_path": placement.disk_path}}}
        spec["volumes"] = [{"name": CLAIM, "emptyDir": {"sizeLimit": above(placement.disk_bytes)}}]  # of each node's own disk
        spec["volumeMounts"] = [{"name": CLAIM, "mountPath": placement.disk_path}]
    engine = {"apiVersion": "lmcache.lmcache.ai/v1alpha1", "kind": "LMCacheEngine", "metadata": {"name": name}, "spec": spec}
    container = {
        "name": "vllm",
        "image": "lmcache/vllm-openai:latest",
        "args": [placement.model, *words(arguments_of(serving))],
        "env": variables({"PYTHONHASHSEED": "0"}),
        "resources": resources(serving, tier=False),
    }
    labels = {"app": name}
    template = {
        "metadata": {
            "labels": {**labels, "lmcache.ai/lmcache-inject": "true"},
            "annotations": {"lmcache.ai/lmcache-engine": name},
        },
        "spec": {"runtimeClassName": "nvidia", "containers": [container]},
    }
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": f"{name}-vllm", "labels": labels},
        "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": template},
    }
    documents = [engine, deployment] if placement.offloads else [deployment]
    comments = [
        f"sizeGB counts 2^30 bytes on each node, for all engines there: {total}",
        "the webhook adds --kv-transfer-config and hostIPC",
    ]
    return [manifest(DIALECT, serving.version, "lmcache-engine.yaml", documents, comments)], lmcache_server.notices_of(placement)
