"""The GPU of this server, without torch: asked of nvidia-smi, of the driver's library, or read from the kernel's own files."""

from __future__ import annotations

import contextlib
import ctypes
import re
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from kvplan.hardware.spec import Machine
from kvplan.units import MiB

WAIT_S = 10.0  # nvidia-smi takes a second or two on a server of eight GPUs that nothing uses


class Detected(msgspec.Struct, frozen=True, kw_only=True):
    """The first GPU by its driver's name, its memory (0: not known), how many such GPUs there are, and who said so."""

    name: str
    memory_bytes: int
    count: int
    how: str


def gpu() -> Detected | None:
    """The GPU of this server; None when there is none, or nothing here can tell. Never raises."""
    for ask in (_smi, _nvml, _proc, _amd):
        with contextlib.suppress(OSError, ValueError, AttributeError, subprocess.SubprocessError):
            found = ask()
            if found:
                return found
    return None


def _smi() -> Detected | None:
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S)
    return from_smi(run.stdout) if run.returncode == 0 else None


def from_smi(text: str) -> Detected | None:
    """From the lines `name, MiB` of nvidia-smi, one a GPU."""
    rows = [line.rpartition(",") for line in text.splitlines() if "," in line]
    if not rows:
        return None
    name, memory = rows[0][0].strip(), rows[0][2].strip()
    same = sum(row[0].strip() == name for row in rows)
    return Detected(name=name, memory_bytes=int(memory) * MiB if memory.isdigit() else 0, count=same, how="nvidia-smi")


class _Memory(ctypes.Structure):
    """nvmlMemory_t (nvml.h)."""

    _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]


def _nvml() -> Detected | None:
    library = ctypes.CDLL("libnvidia-ml.so.1")
    if library.nvmlInit_v2():
        return None
    try:
        count, handle, name, memory = ctypes.c_uint(), ctypes.c_void_p(), ctypes.create_string_buffer(96), _Memory()
        failed = library.nvmlDeviceGetCount_v2(ctypes.byref(count)) or not count.value
        failed = failed or library.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(handle))
        if failed or library.nvmlDeviceGetName(handle, name, 96):
            return None
        known = not library.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory))
        return Detected(name=name.value.decode(), memory_bytes=memory.total if known else 0, count=count.value, how="the driver's library")
    finally:
        library.nvmlShutdown()


def _proc() -> Detected | None:
    return from_proc(Path("/proc/driver/nvidia/gpus"))


def from_proc(folder: Path) -> Detected | None:
    """From the driver's `information` files; they do not tell the memory."""
    names = [_field(path.read_text(errors="replace"), "Model:") for path in sorted(folder.glob("*/information"))]
    names = [name for name in names if name]
    return Detected(name=names[0], memory_bytes=0, count=names.count(names[0]), how=str(folder)) if names else None


def _field(text: str, label: str) -> str:
    return next((line.removeprefix(label).strip() for line in text.splitlines() if line.startswith(label)), "")


_AMD = {"0x74a1": "AMD Instinct MI300X", "0x74b5": "AMD Instinct MI300X"}  # PCI ids 1002:74a1, and 74b5 of a virtual function (pci.ids)


def _amd() -> Detected | None:
    return from_drm(Path("/sys/class/drm"))


def from_drm(folder: Path) -> Detected | None:
    """An AMD GPU from the kernel's files by its PCI id."""
    found: list[tuple[str, int]] = []
    for device in sorted(folder.glob("renderD*/device")):
        vendor, product = ((device / name).read_text().strip() for name in ("vendor", "device"))
        if vendor == "0x1002" and product in _AMD:
            memory = device / "mem_info_vram_total"
            found.append((_AMD[product], int(memory.read_text()) if memory.exists() else 0))
    return Detected(name=found[0][0], memory_bytes=found[0][1], count=len(found), how=str(folder)) if found else None


SAME_PART = re.compile(r"SERVER|WORKSTATION|EDITION|\d+GB|HBM\w+")
"""Words of a driver's name that do not make another part of it; `NVL`, `PCIE`, `TI`, `D`, `MAX` do."""


def machine_name(detected: Detected, names: Iterable[str], machine: Callable[[str], Machine]) -> str | None:
    """The shipped machine with this GPU: the same part by its driver's name, with as much memory; None when there is none.

    `names` and `machine` are the catalog's.
    """
    wanted = _words(detected.name)
    best: tuple[int, str] | None = None
    for name in names:
        part = machine(name).gpu
        own = _words(part.name)
        fits = not detected.memory_bytes or abs(part.memory_bytes / detected.memory_bytes - 1) < 0.1
        if own <= wanted and all(SAME_PART.fullmatch(word) for word in wanted - own) and fits and (best is None or len(own) > best[0]):
            best = len(own), name
    return best[1] if best else None


def _words(name: str) -> frozenset[str]:
    return frozenset(name.upper().replace("-", " ").split())
