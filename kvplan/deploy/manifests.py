"""Kubernetes objects: what every pod of a served model carries, whichever operator or chart runs it."""

from __future__ import annotations

import re
import shlex
from typing import Any

from kvplan.deploy.serving import Serving
from kvplan.deploy.write import Line
from kvplan.errors import InputError
from kvplan.units import GiB

SHM_BESIDE_BYTES = 2 * GiB
"""What collectives and message queues of the ranks take of /dev/shm beside a tier, assumed."""

CLAIM = "kv-cache"
"""Name of the volume that a disk tier lives on."""


def quantity(size: int) -> str:
    """Bytes as Kubernetes writes them: whole GiB, or a plain number where they are none."""
    return f"{size // GiB}Gi" if size and size % GiB == 0 else str(size)


def above(size: int) -> str:
    """The next whole GiB."""
    return quantity(-(-size // GiB) * GiB)


def object_name(serving: Serving) -> str:
    """A name for the objects of a model: lower case, digits and hyphens."""
    tail = serving.placement.model.rstrip("/").rpartition("/")[2].lower()
    return re.sub(r"[^a-z0-9]+", "-", tail).strip("-")[:50] or "model"


def words(lines: list[Line]) -> list[str]:
    """Arguments as a container takes them, without comments."""
    return [word for text, _ in lines for word in shlex.split(text)]


def resources(serving: Serving, *, tier: bool = True) -> dict[str, Any]:
    """GPUs and memory of a container that holds the ranks, and the CPU tier unless another process does."""
    memory = above(memory_limit(serving, tier=tier))
    return {
        "limits": {"nvidia.com/gpu": str(serving.placement.gpus), "memory": memory},
        "requests": {"nvidia.com/gpu": str(serving.placement.gpus), "memory": memory},
    }


def memory_limit(serving: Serving, *, tier: bool = True) -> int:
    """Bytes that the container needs: weights, processes, /dev/shm and the tier. Raises InputError where the model is not known."""
    if not serving.host.limit_bytes:
        raise InputError("a manifest needs the model and the machine, for the memory limit of its container")
    return serving.host.limit_bytes + SHM_BESIDE_BYTES - (0 if tier else serving.host.taken_bytes)


def shm_bytes(serving: Serving) -> int:
    """Size of /dev/shm: what the tier maps there, and the ranks' own part."""
    return serving.host.shm_bytes + SHM_BESIDE_BYTES


def shm_volume(serving: Serving, name: str = "dshm") -> dict[str, Any]:
    return {"name": name, "emptyDir": {"medium": "Memory", "sizeLimit": above(shm_bytes(serving))}}


def claim(serving: Serving, name: str) -> dict[str, Any]:
    """A volume of the disk tier's size: engines whose tier has no bound stop there."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name},
        "spec": claim_spec(serving),
    }


def claim_spec(serving: Serving) -> dict[str, Any]:
    size = above(serving.placement.disk_bytes)
    return {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}}


def variables(values: dict[str, str]) -> list[dict[str, str]]:
    """An environment as a container takes it."""
    return [{"name": name, "value": value} for name, value in values.items()]
