"""llm-d: a kustomize patch of its Deployment `decode`, the volume of the disk tier, and the router's values."""

from __future__ import annotations

from typing import Any

from kvplan.deploy.dialect import Dialect
from kvplan.deploy.dialects import vllm
from kvplan.deploy.manifests import CLAIM, claim, resources, shm_volume, variables, words
from kvplan.deploy.serving import Serving
from kvplan.deploy.write import Written, manifest, to_yaml

DIALECT = Dialect(
    title="llm-d with vLLM",
    unit=vllm.DIALECT.unit,
    dtypes=vllm.DIALECT.dtypes,
    stores=vllm.DIALECT.stores,
    policies=vllm.DIALECT.policies,
)


def write(serving: Serving) -> Written:
    placement = serving.placement
    lines = vllm.arguments_of(serving) + (vllm.offload_lines(serving) if placement.cpu_bytes else [])
    mounts = [{"name": "dshm", "mountPath": "/dev/shm"}]
    volumes = [shm_volume(serving)]
    if placement.disk_bytes:
        mounts.append({"name": CLAIM, "mountPath": placement.disk_path})
        volumes.append({"name": CLAIM, "persistentVolumeClaim": {"claimName": CLAIM}})
    container = {
        "name": "modelserver",
        "command": ["vllm", "serve"],
        "args": [placement.model, *words(lines)],
        "env": variables({"PYTHONHASHSEED": "0"}),
        "resources": resources(serving),
        "volumeMounts": mounts,
    }
    patch = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "decode"},
        "spec": {"template": {"spec": {"containers": [container], "volumes": volumes}}},
    }
    parts = [manifest(DIALECT, serving.version, "patch-vllm.yaml", [patch])]
    if placement.disk_bytes:
        parts.append(manifest(DIALECT, serving.version, "pvc.yaml", [claim(serving, CLAIM)]))
    if serving.router:
        comments = ["lruCapacityPerServer: blocks that one replica keeps in each tier, from the plan's pool and tiers"]
        parts.append(manifest(DIALECT, serving.version, "router-values.yaml", [router_values(serving)], comments))
    return parts, [vllm.unbounded(placement)] if placement.disk_bytes else []


def router_values(serving: Serving) -> dict[str, Any]:
    """Values of the router's chart: a prefix-cache producer and a scorer for each tier, with its capacity in blocks."""
    producers = [
        {
            "type": "approx-prefix-cache-producer",
            "name": f"{one.tier}-prefix-cache-producer",
            "parameters": {"autoTune": False, "blockSizeTokens": one.block_tokens, "lruCapacityPerServer": one.blocks},
        }
        for one in serving.router
    ]
    scorers = [
        {
            "type": "prefix-cache-scorer",
            "name": f"{one.tier}-prefix-cache-scorer",
            "parameters": {"prefixMatchInfoProducerName": f"{one.tier}-prefix-cache-producer"},
        }
        for one in serving.router
    ]
    names = ["queue-scorer", "kv-cache-utilization-scorer"]
    config = {
        "apiVersion": "llm-d.ai/v1",
        "kind": "EndpointPickerConfig",
        "plugins": [*producers, *({"type": name} for name in names), *scorers],
        "schedulingProfiles": [
            {"name": "default", "plugins": [{"pluginRef": name} for name in (*names, *(one["name"] for one in scorers))]},
        ],
    }
    return {"router": {"epp": {"pluginsConfigFile": "kvplan.yaml", "pluginsCustomConfig": {"kvplan.yaml": to_yaml(config)}}}}
