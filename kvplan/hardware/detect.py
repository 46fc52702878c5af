"""Which GPUs this server has, by what the driver says: no torch, no CUDA, some milliseconds."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import NamedTuple

_DRIVER = Path("/proc/driver/nvidia/gpus")
_SMI = ("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
_SMI_S = 5.0


class Detected(NamedTuple):
    """The GPUs of a server: their product name and how many; of several kinds the most frequent."""

    name: str
    gpus: int


def found(driver: Path = _DRIVER) -> Detected | None:
    """The GPUs of this server; None where it has none that the driver knows."""
    names = _of_driver(driver) or (_of_smi() if driver.exists() else [])
    if not names:
        return None
    name = max(sorted(set(names)), key=names.count)
    return Detected(name, names.count(name))


def _of_driver(driver: Path) -> list[str]:
    names = []
    for facts in sorted(driver.glob("*/information")):
        try:
            lines = facts.read_text().splitlines()
        except OSError:
            continue
        names += [line.partition(":")[2].strip() for line in lines if line.startswith("Model:")]
    return names


def _of_smi() -> list[str]:
    try:
        told = subprocess.run(_SMI, capture_output=True, text=True, timeout=_SMI_S, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in told.splitlines() if line.strip()]
