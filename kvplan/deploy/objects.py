"""Kubernetes objects read as what their containers are told: flags, environment, sizes of memory, /dev/shm and volumes."""

from __future__ import annotations

import json
import shlex
from typing import Any

import msgspec

from kvplan.deploy.syntax import Config, read_shell, read_words
from kvplan.errors import InputError
from kvplan.units import GiB, parse_bytes

CONTAINER_SHM_BYTES = 64 * 2**20
"""/dev/shm of a container without a volume there."""

Fault = tuple[str, str, str]  # code, sentence, hint


class PodSizes(msgspec.Struct, kw_only=True):
    """What a pod is given; None: not said."""

    target: str = ""  # the name of what writes such objects
    limit_bytes: int | None = None
    shm_bytes: int | None = None
    claim_bytes: int = 0
    faults: list[Fault] = []


def absorbed(config: Config, where: str) -> PodSizes | None:
    """The sizes of the objects of a configuration, whose containers' flags and variables are added to it; None when it has none."""
    if not config.objects:
        return None
    found = PodSizes(faults=[])
    for one in config.objects:
        kind = str(one.get("kind", "values"))
        if kind in _READERS:
            _READERS[kind](one, config, found, where)
    return found


def _size(value: object) -> int:
    """Bytes of a Kubernetes quantity. Raises InputError."""
    text = str(value)
    return int(text) if text.isdigit() else parse_bytes(text + "B" if text[-1:].isalpha() and not text.endswith("B") else text)


def _at(record: Any, *path: str | int) -> Any:
    """What lies at a path of keys, or {}."""
    for key in path:
        if isinstance(key, int):
            record = record[key] if isinstance(record, list) and len(record) > key else {}
        else:
            record = record.get(key, {}) if isinstance(record, dict) else {}
    return record


def _container(pod: Any, name: str = "") -> dict[str, Any]:
    """The container of a name, or the first."""
    containers = [one for one in _at(pod, "containers") or [] if isinstance(one, dict)]
    return next((one for one in containers if one.get("name") == name), containers[0] if containers else {})


def _pod(pod: Any, config: Config, found: PodSizes, where: str, name: str = "") -> dict[str, Any]:
    """A pod's command, environment, memory limit and /dev/shm; its container."""
    container = _container(pod, name)
    command = [str(word) for word in [*(container.get("command") or []), *(container.get("args") or [])]]
    if "-c" in command[:3]:
        read_shell(command[command.index("-c") + 1], where, config)
    else:
        read_words(command, config)
    for one in container.get("env") or []:
        if "value" in one:
            config.environment[str(one["name"])] = str(one["value"])
    if limit := _at(container, "resources", "limits", "memory"):
        found.limit_bytes = _size(limit)
    found.shm_bytes = CONTAINER_SHM_BYTES if found.shm_bytes is None else found.shm_bytes
    for volume in _at(pod, "volumes") or []:
        if _at(volume, "emptyDir", "medium") == "Memory":
            found.shm_bytes = _size(volume["emptyDir"].get("sizeLimit", found.limit_bytes or 0))
    return container


def _kserve(one: dict[str, Any], config: Config, found: PodSizes, where: str) -> None:
    found.target = "kserve"
    spec = _at(one, "spec")
    if not str(one.get("apiVersion", "")).endswith("/v1alpha2"):
        sentence = f"{one.get('apiVersion')} has no kvCacheOffloading: it is dropped without a word."
        found.faults.append(("api_version", sentence, "serving.kserve.io/v1alpha2"))
    if "workload" in spec:
        sentence = "spec.workload is no field of an LLMInferenceService: what stands there is dropped without a word."
        found.faults.append(("unknown_field", sentence, "spec.kvCacheOffloading"))
    if uri := str(_at(spec, "model", "uri") or ""):
        config.flags["--model"] = uri.removeprefix("hf://")
    for kind in ("tensor", "pipeline", "data"):
        if ranks := _at(spec, "parallelism", kind):
            config.flags[f"--{kind}-parallel-size"] = str(ranks)
    _pod(_at(spec, "template"), config, found, where, "main")
    if found.shm_bytes == CONTAINER_SHM_BYTES:
        found.shm_bytes = GiB  # of KServe's own template
    read_words(shlex.split(config.environment.pop("VLLM_ADDITIONAL_ARGS", "")), config)
    offloading = _at(spec, "kvCacheOffloading")
    if not offloading:
        return
    extra: dict[str, Any] = {"cpu_bytes_to_use": _size(offloading.get("cpu", 0)), "spec_name": "TieringOffloadingSpec"}
    extra["eviction_policy"] = offloading.get("evictionPolicy", "lru")
    tiers = offloading.get("secondary") or []
    extra |= {"secondary_tiers": [{"type": "fs", "root_dir": f"/mnt/kv-cache-{at}"} for at in range(len(tiers))]} if tiers else {}
    for tier in tiers:
        system = _at(tier, "fileSystem")
        size = _at(system, "pvc", "spec", "resources", "requests", "storage") or _at(system, "emptyDir", "size")
        found.claim_bytes += _size(size) if size else 0
    connector = {"kv_connector": "OffloadingConnector", "kv_role": "kv_both", "kv_connector_extra_config": extra}
    config.flags["--kv-transfer-config"] = json.dumps(connector)


def _deployment(one: dict[str, Any], config: Config, found: PodSizes, where: str) -> None:
    found.target = found.target or "llm-d"
    template = _at(one, "spec", "template")
    container = _pod(_at(template, "spec"), config, found, where, "modelserver")
    if "command" not in container:  # the image's own: vllm serve
        model = next((str(word) for word in container.get("args") or [] if not str(word).startswith("-")), "")
        config.flags.setdefault("--model", model)
    if _at(template, "metadata", "labels", "lmcache.ai/lmcache-inject"):
        found.target, found.shm_bytes = "lmcache-operator", None  # of the node
        config.flags.setdefault("--kv-transfer-config", json.dumps({"kv_connector": "LMCacheMPConnector", "kv_role": "kv_both"}))


def _dynamo(one: dict[str, Any], config: Config, found: PodSizes, where: str) -> None:
    found.target = "dynamo-k8s"
    for component in _at(one, "spec", "components") or []:
        if component.get("type") == "worker":
            _pod(_at(component, "podTemplate", "spec"), config, found, where, "main")
            found.shm_bytes = _size(component.get("sharedMemorySize", "8Gi"))  # the operator's default


def _lmcache(one: dict[str, Any], config: Config, found: PodSizes, where: str) -> None:
    found.target = "lmcache-operator"
    spec = _at(one, "spec")
    values = {"--l1-size-gb": _at(spec, "l1", "sizeGB"), "--chunk-size": _at(spec, "server", "chunkSize")}
    config.flags.update({name: str(value) for name, value in values.items() if value})
    raw = _at(spec, "l2Backend", "raw")
    if raw:
        config.flags["--l2-adapter"] = json.dumps({"type": raw.get("type"), **_at(raw, "config")})
    for volume in spec.get("volumes") or []:
        if size := _at(volume, "emptyDir", "sizeLimit"):
            found.claim_bytes += _size(size)


def _claim(one: dict[str, Any], config: Config, found: PodSizes, where: str) -> None:
    found.claim_bytes += _size(_at(one, "spec", "resources", "requests", "storage") or 0)


def _values(one: dict[str, Any], config: Config, found: PodSizes, where: str) -> None:
    """Values of the production stack; those of a router say nothing of the engine."""
    model = _at(one, "servingEngineSpec", "modelSpec", 0)
    if not model:
        return
    found.target = "production-stack"
    vllm, lmcache = _at(model, "vllmConfig"), _at(model, "lmcacheConfig")
    named = {
        "--model": model.get("modelURL"),
        "--max-model-len": vllm.get("maxModelLen"),
        "--max-num-seqs": vllm.get("maxNumSeqs"),
        "--tensor-parallel-size": vllm.get("tensorParallelSize"),
        "--gpu-memory-utilization": vllm.get("gpuMemoryUtilization"),
    }
    config.flags.update({name: str(value) for name, value in named.items() if value})
    read_words([str(word) for word in vllm.get("extraArgs") or []], config)
    if lmcache.get("enabled"):
        config.document["max_local_cpu_size"] = lmcache.get("cpuOffloadingBufferSize", 5)
    found.limit_bytes = _size(model["limitMemory"]) if "limitMemory" in model else None
    found.shm_bytes = _size(model["shmSize"]) if "shmSize" in model else CONTAINER_SHM_BYTES


_READERS = {
    "LLMInferenceService": _kserve,
    "Deployment": _deployment,
    "DynamoGraphDeployment": _dynamo,
    "LMCacheEngine": _lmcache,
    "PersistentVolumeClaim": _claim,
    "values": _values,
}


def quantities_of(config: Config, where: str) -> PodSizes | None:
    """As `absorbed`, with any fault of form as a sentence. Raises InputError."""
    try:
        return absorbed(config, where)
    except (TypeError, AttributeError, KeyError, ValueError) as error:
        raise InputError(f"{where}: not an object that kvplan can read: {error}") from None
