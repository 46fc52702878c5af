"""Small schemas of the objects that are emitted: only their fields, unknown ones refused.

Sources: KServe pkg/apis/serving/v1alpha2/llm_inference_service_types.go; llm-d guides/tiered-prefix-cache (patch-vllm.yaml, pvc.yaml,
router values); Dynamo deploy/operator/config/crd/bases/nvidia.com_dynamographdeployments.yaml, v1beta1; LMCache
operator/config/crd/bases/lmcache.lmcache.ai_lmcacheengines.yaml; vLLM production-stack helm/values.schema.json; Kubernetes core v1.
"""

from __future__ import annotations

import re
from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
COUNT: Schema = {"type": "integer", "minimum": 0}
NUMBER: Schema = {"type": "number", "exclusiveMinimum": 0}
YES_OR_NO: Schema = {"type": "boolean"}
QUANTITY: Schema = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(Ki|Mi|Gi|Ti|k|M|G|T)?$"}


def only(required: str = "", **fields: Schema) -> Schema:
    """An object of these fields and no others."""
    return {"type": "object", "properties": fields, "additionalProperties": False, "required": required.split()}


def these(item: Schema) -> Schema:
    return {"type": "array", "items": item, "minItems": 1}


def mapping(value: Schema) -> Schema:
    return {"type": "object", "additionalProperties": value}


def constant(value: str) -> Schema:
    return {"const": value}


METADATA = only(
    "name", name={"type": "string", "pattern": r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"}, labels=mapping(TEXT), annotations=mapping(TEXT)
)
CLAIM_SPEC = only("accessModes resources", accessModes=these(TEXT), resources=only("requests", requests=only("storage", storage=QUANTITY)))
CONTAINER = only(
    "name",
    name=TEXT,
    image=TEXT,
    command=these(TEXT),
    args=these(TEXT),
    env={"type": "array", "items": only("name value", name=TEXT, value=TEXT)},
    resources=only("limits requests", limits=mapping(QUANTITY), requests=mapping(QUANTITY)),
    volumeMounts=these(only("name mountPath", name=TEXT, mountPath=TEXT)),
)
VOLUME = only(
    "name",
    name=TEXT,
    emptyDir=only("medium sizeLimit", medium=constant("Memory"), sizeLimit=QUANTITY),
    persistentVolumeClaim=only("claimName", claimName=TEXT),
)
POD = only("containers", containers=these(CONTAINER), volumes=these(VOLUME), runtimeClassName=TEXT)

KSERVE = only(
    "apiVersion kind metadata spec",
    apiVersion=constant("serving.kserve.io/v1alpha2"),
    kind=constant("LLMInferenceService"),
    metadata=METADATA,
    spec=only(
        "model template",
        model=only("uri", uri=TEXT, name=TEXT),
        replicas=COUNT,
        parallelism=only(tensor=COUNT),
        kvCacheOffloading=only(
            "cpu",
            cpu=QUANTITY,
            evictionPolicy={"enum": ["lru", "arc"]},
            secondary=these(only("fileSystem", fileSystem=only("pvc", pvc=only("spec", spec=CLAIM_SPEC)))),
        ),
        template=POD,
        router=only(gateway=only(), route=only(), scheduler=only()),
    ),
)
CLAIM = only(
    "apiVersion kind metadata spec",
    apiVersion=constant("v1"),
    kind=constant("PersistentVolumeClaim"),
    metadata=METADATA,
    spec=CLAIM_SPEC,
)
DEPLOYMENT = only(
    "apiVersion kind metadata spec",
    apiVersion=constant("apps/v1"),
    kind=constant("Deployment"),
    metadata=METADATA,
    spec=only(
        "template",
        replicas=COUNT,
        selector=only("matchLabels", matchLabels=mapping(TEXT)),
        template=only("spec", spec=POD, metadata=only(labels=mapping(TEXT), annotations=mapping(TEXT))),
    ),
)
DYNAMO = only(
    "apiVersion kind metadata spec",
    apiVersion=constant("nvidia.com/v1beta1"),
    kind=constant("DynamoGraphDeployment"),
    metadata=METADATA,
    spec=only(
        "components",
        backendFramework={"enum": ["sglang", "vllm", "trtllm"]},
        components=these(
            only(
                "name",
                name={"type": "string", "minLength": 1, "maxLength": 63},
                type={"enum": ["frontend", "worker", "prefill", "decode", "planner", "epp"]},
                replicas=COUNT,
                sharedMemorySize=QUANTITY,
                podTemplate=only("spec", spec=POD),
            )
        ),
    ),
)
LMCACHE_ENGINE = only(
    "apiVersion kind metadata spec",
    apiVersion=constant("lmcache.lmcache.ai/v1alpha1"),
    kind=constant("LMCacheEngine"),
    metadata=METADATA,
    spec=only(
        "l1",
        l1=only("sizeGB", sizeGB=NUMBER),
        eviction=only(policy=constant("LRU"), triggerWatermark=NUMBER, evictionRatio=NUMBER),
        server=only(chunkSize=COUNT),
        volumes=these(only("name emptyDir", name=TEXT, emptyDir=only("sizeLimit", sizeLimit=QUANTITY))),
        volumeMounts=these(only("name mountPath", name=TEXT, mountPath=TEXT)),
        l2Backend=only(raw=only("type config", type=TEXT, config=mapping(TEXT))),
        resourceOverrides=only(limits=only(memory=QUANTITY)),
    ),
)
STACK = only(
    "servingEngineSpec",
    servingEngineSpec=only(
        "modelSpec",
        modelSpec=these(
            only(
                "name repository tag modelURL replicaCount requestCPU requestMemory requestGPU",
                name=TEXT,
                repository=TEXT,
                tag=TEXT,
                modelURL=TEXT,
                replicaCount=COUNT,
                requestCPU=COUNT,
                limitCPU=COUNT,
                requestMemory=QUANTITY,
                limitMemory=QUANTITY,
                requestGPU=COUNT,
                shmSize=QUANTITY,
                vllmConfig=only(
                    enablePrefixCaching=YES_OR_NO,
                    maxModelLen=COUNT,
                    tensorParallelSize=COUNT,
                    maxNumSeqs=COUNT,
                    gpuMemoryUtilization=NUMBER,
                    extraArgs=these(TEXT),
                ),
                lmcacheConfig=only("enabled", enabled=YES_OR_NO, cpuOffloadingBufferSize=TEXT),
            )
        ),
    ),
)
ROUTER = only("router", router=only(epp=only(pluginsConfigFile=TEXT, pluginsCustomConfig=mapping(TEXT))))
PICKER = only(
    "apiVersion kind plugins schedulingProfiles",
    apiVersion=constant("llm-d.ai/v1"),
    kind=constant("EndpointPickerConfig"),
    plugins=these(
        only(
            "type",
            type=TEXT,
            name=TEXT,
            parameters=only(autoTune=YES_OR_NO, blockSizeTokens=COUNT, lruCapacityPerServer=COUNT, prefixMatchInfoProducerName=TEXT),
        )
    ),
    schedulingProfiles=these(only("name plugins", name=TEXT, plugins=these(only("pluginRef", pluginRef=TEXT)))),
)

SCHEMAS: dict[str, Schema] = {
    "LLMInferenceService": KSERVE,
    "PersistentVolumeClaim": CLAIM,
    "Deployment": DEPLOYMENT,
    "DynamoGraphDeployment": DYNAMO,
    "LMCacheEngine": LMCACHE_ENGINE,
    "servingEngineSpec": STACK,
    "router": ROUTER,
}
"""Kind of an object, or the first key of a chart's values -> its schema."""


_TYPES: dict[str, Any] = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": (int, float)}


def faults(value: Any, schema: Schema, at: str = "$") -> list[str]:
    """Where a value does not hold to a schema; the keywords are JSON Schema's, those used above."""
    if "const" in schema:
        return [] if value == schema["const"] else [f"{at}: {value!r} is not {schema['const']!r}"]
    if "enum" in schema:
        return [] if value in schema["enum"] else [f"{at}: {value!r} is none of {schema['enum']}"]
    kind = schema["type"]
    if not isinstance(value, _TYPES[kind]) or (isinstance(value, bool) and kind != "boolean"):
        return [f"{at}: {value!r} is no {kind}"]
    found = []
    if kind == "object":
        fields, others = schema.get("properties", {}), schema["additionalProperties"]
        found += [f"{at}.{name}: missing" for name in schema.get("required", ()) if name not in value]
        for name, one in value.items():
            inner = fields.get(name, others)
            found += [f"{at}.{name}: unknown"] if inner is False else faults(one, inner, f"{at}.{name}")
    elif kind == "array":
        found += [f"{at}: empty"] if len(value) < schema.get("minItems", 0) else []
        for index, one in enumerate(value):
            found += faults(one, schema["items"], f"{at}[{index}]")
    elif kind == "string":
        short, long = schema.get("minLength", 0), schema.get("maxLength", 10**9)
        fits = re.search(schema.get("pattern", ""), value) and short <= len(value) <= long
        found += [] if fits else [f"{at}: {value!r} has another form"]
    elif not schema.get("minimum", value) <= value or not schema.get("exclusiveMinimum", value - 1) < value:
        found.append(f"{at}: {value} is too small")
    return found
