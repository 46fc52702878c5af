"""KServe's LLMInferenceService, v1alpha2: the first version with `spec.kvCacheOffloading`, a field of the spec itself.

It renders vLLM's OffloadingConnector with TieringOffloadingSpec, whose CPU tier is a mapping in /dev/shm; its templates mount a
/dev/shm of 1 GiB, so that the volume is given here.
"""

from __future__ import annotations

import shlex
from typing import Any

from kvplan.deploy.dialect import VLLM_DTYPES, Dialect, SizeUnit
from kvplan.deploy.dialects.vllm import arguments_of, unbounded
from kvplan.deploy.manifests import claim_spec, object_name, quantity, resources, shm_volume, variables, words
from kvplan.deploy.serving import Serving
from kvplan.deploy.write import Written, manifest

DIALECT = Dialect(
    title="KServe with vLLM",
    unit=SizeUnit(word="a quantity", scale_bytes=1, per_rank=False, source="spec.kvCacheOffloading.cpu becomes cpu_bytes_to_use"),
    dtypes=VLLM_DTYPES,
    stores={"write_through": ""},
    policies={"lru": "lru", "arc": "arc"},
)

MOUNT = "/mnt/kv-cache-0"
"""Where KServe mounts the first file tier."""

ABILITIES = {
    "fixed": ("load_rule", "load_min_tokens", "chunk_tokens", "store_generated"),
    "stores": ("write_through",),
}
"""What its fields cannot say."""


def write(serving: Serving) -> Written:
    placement = serving.placement
    spec: dict[str, Any] = {
        "model": {"uri": f"hf://{placement.model}", "name": placement.model},
        "replicas": 1,
        "parallelism": {"tensor": placement.tp},
    }
    if placement.cpu_bytes:
        spec["kvCacheOffloading"] = _offloading(serving)
    lines = [line for line in arguments_of(serving) if not line[0].startswith("--tensor-parallel-size")]
    environment = {"VLLM_ADDITIONAL_ARGS": shlex.join(words(lines)), "PYTHONHASHSEED": "0"}
    spec["template"] = {
        "containers": [{"name": "main", "env": variables(environment), "resources": resources(serving)}],
        "volumes": [shm_volume(serving)],
    }
    spec["router"] = {"gateway": {}, "route": {}, "scheduler": {}}
    document = {
        "apiVersion": "serving.kserve.io/v1alpha2",
        "kind": "LLMInferenceService",
        "metadata": {"name": object_name(serving)},
        "spec": spec,
    }
    comments = ["needs vLLM 0.22 or newer; the volume dshm replaces the template's, which is too small for the tier"]
    notices = [unbounded(placement)] if placement.disk_bytes else []
    return [manifest(DIALECT, serving.version, "llm-inference-service.yaml", [document], comments)], notices


def _offloading(serving: Serving) -> dict[str, Any]:
    placement = serving.placement
    found: dict[str, Any] = {"cpu": quantity(placement.cpu_bytes), "evictionPolicy": placement.policy}
    if placement.disk_bytes:
        found["secondary"] = [{"fileSystem": {"pvc": {"spec": claim_spec(serving)}}}]
    return found
