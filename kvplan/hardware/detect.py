"""Which GPUs this server has, by what its drivers say: no torch, no CUDA, some milliseconds."""

from __future__ import annotations

import contextlib
import ctypes
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

_DRIVER = Path("/proc/driver/nvidia/gpus")
_DRM = Path("/sys/class/drm")
_SMI = ("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
_SMI_S = 10.0  # it takes a second or two on a server of eight GPUs that nothing uses


class Detected(NamedTuple):
    """The GPUs of a server: their product name and how many; of several kinds the most frequent."""

    name: str
    gpus: int


def found(driver: Path = _DRIVER, drm: Path = _DRM) -> Detected | None:
    """The GPUs of this server; None where it has none that a driver knows. Never raises."""
    names = _of_driver(driver) or _of_library() or _of_smi() or _of_amd(drm)
    if not names:
        return None
    name = max(sorted(set(names)), key=names.count)
    return Detected(name, names.count(name))


def _of_driver(driver: Path) -> list[str]:
    names = []
    for facts in sorted(driver.glob("*/information")):
        with contextlib.suppress(OSError):
            lines = facts.read_text(errors="replace").splitlines()
            names += [line.partition(":")[2].strip() for line in lines if line.startswith("Model:")]
    return names


def _of_library() -> list[str]:
    """From NVML, where a container has the library and not the files."""
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL("libnvidia-ml.so.1")
        if library.nvmlInit_v2():
            return []
        try:
            count, names = ctypes.c_uint(), []
            library.nvmlDeviceGetCount_v2(ctypes.byref(count))
            for index in range(count.value):
                handle, name = ctypes.c_void_p(), ctypes.create_string_buffer(96)  # NVML_DEVICE_NAME_V2_BUFFER_SIZE
                failed = library.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle))
                if not failed and not library.nvmlDeviceGetName(handle, name, 96):
                    names.append(name.value.decode(errors="replace"))
            return names
        finally:
            library.nvmlShutdown()
    return []


def _of_smi() -> list[str]:
    if shutil.which(_SMI[0]) is None:
        return []
    try:
        told = subprocess.run(_SMI, capture_output=True, text=True, timeout=_SMI_S, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in told.splitlines() if line.strip()]


_AMD = {"0x74a1": "AMD Instinct MI300X", "0x74b5": "AMD Instinct MI300X"}  # devices of vendor 1002 (pci.ids); 74b5 is a virtual function


def _of_amd(drm: Path) -> list[str]:
    """From the kernel's files, by PCI id."""
    names = []
    for device in sorted(drm.glob("renderD*/device")):
        with contextlib.suppress(OSError):
            vendor, product = ((device / name).read_text().strip() for name in ("vendor", "device"))
            if vendor == "0x1002" and product in _AMD:
                names.append(_AMD[product])
    return names
