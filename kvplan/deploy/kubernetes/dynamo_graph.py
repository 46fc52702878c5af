"""Dynamo's DynamoGraphDeployment, v1beta1, with KVBM under vLLM."""

from __future__ import annotations

import json
from typing import Any

from kvplan.deploy.dialects import dynamo
from kvplan.deploy.dialects.vllm import arguments_of
from kvplan.deploy.manifests import CLAIM, above, claim, object_name, resources, shm_bytes, variables, words
from kvplan.deploy.serving import Serving
from kvplan.deploy.write import Written, manifest

DIALECT = dynamo.DIALECT

IMAGE = "nvcr.io/nvidia/ai-dynamo/vllm-runtime"


def write(serving: Serving) -> Written:
    placement, image = serving.placement, f"{IMAGE}:{serving.version}"
    arguments = ["--model", placement.model, *words(arguments_of(serving))]
    if placement.offloads:
        arguments += ["--kv-transfer-config", json.dumps(dynamo.CONNECTOR)]
    main: dict[str, Any] = {
        "name": "main",
        "image": image,
        "command": ["python3", "-m", "dynamo.vllm"],
        "args": arguments,
        "env": variables({name: value for name, value, _ in dynamo.variables(serving)}),
        "resources": resources(serving),
    }
    pod: dict[str, Any] = {"containers": [main]}
    if placement.disk_bytes:
        main["volumeMounts"] = [{"name": CLAIM, "mountPath": placement.disk_path}]
        pod["volumes"] = [{"name": CLAIM, "persistentVolumeClaim": {"claimName": CLAIM}}]
    frontend = {"containers": [{"name": "main", "image": image}]}
    worker = {
        "name": "VllmWorker",
        "type": "worker",
        "replicas": 1,
        "sharedMemorySize": above(shm_bytes(serving)),
        "podTemplate": {"spec": pod},
    }
    graph = {
        "apiVersion": "nvidia.com/v1beta1",
        "kind": "DynamoGraphDeployment",
        "metadata": {"name": object_name(serving)},
        "spec": {
            "backendFramework": "vllm",
            "components": [{"name": "Frontend", "type": "frontend", "replicas": 1, "podTemplate": {"spec": frontend}}, worker],
        },
    }
    documents = [graph, claim(serving, CLAIM)] if placement.disk_bytes else [graph]
    return [manifest(DIALECT, serving.version, "dynamo-graph.yaml", documents)], dynamo.notices_of(placement)
