"""The GPU of a server from what its tools and files say: outputs recorded on servers, or as the makers document them."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from kvplan import catalog
from kvplan.hardware import detect
from kvplan.hardware.detect import Detected
from kvplan.units import MiB


def found(name: str, mib: int = 0) -> str | None:
    return detect.machine_name(Detected(name=name, memory_bytes=mib * MiB, count=1, how=""), catalog.names("machines"), catalog.machine)


@pytest.mark.parametrize(
    ("name", "mib", "machine"),
    [
        ("NVIDIA H100 80GB HBM3", 81559, "h100-sxm"),
        ("NVIDIA H100 PCIe", 81559, "h100-pcie"),
        ("NVIDIA H100 NVL", 95830, None),  # another part: fewer FLOPs, more memory
        ("NVIDIA H200", 143771, "h200-sxm"),
        ("NVIDIA H200 NVL", 143771, None),
        ("NVIDIA A100-SXM4-80GB", 81920, "a100-sxm-80gb"),
        ("NVIDIA A100-SXM4-40GB", 40960, "a100-sxm-40gb"),
        ("NVIDIA A100-PCIE-40GB", 40960, "a100-pcie-40gb"),
        ("NVIDIA A100 80GB PCIe", 81920, "a100-pcie-80gb"),
        ("NVIDIA L40S", 46068, "l40s"),
        ("NVIDIA L4", 23034, "l4"),
        ("NVIDIA A10G", 23028, None),
        ("NVIDIA GeForce RTX 4090", 24564, "rtx-4090"),
        ("NVIDIA GeForce RTX 4090 D", 24564, None),
        ("NVIDIA GeForce RTX 3090 Ti", 24564, None),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", 97887, "rtx-pro-6000"),
        ("NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", 97887, None),
        ("NVIDIA H20", 97871, "h20-sxm"),
        ("NVIDIA H20", 143771, None),  # the version with 141 GB is not in the catalog
        ("AMD Instinct MI300X", 196592, "mi300x"),
        ("Tesla T4", 15360, None),
        ("NVIDIA H200", 0, "h200-sxm"),
    ],
)
def test_names_of_drivers_lead_to_machines(name: str, mib: int, machine: str | None) -> None:
    assert found(name, mib) == machine


@pytest.mark.parametrize("name", catalog.names("machines"))
def test_every_shipped_machine_is_found_by_its_own_gpu(name: str) -> None:
    gpu = catalog.machine(name).gpu
    assert found(gpu.name, gpu.memory_bytes // MiB) == name


def test_nvidia_smi() -> None:
    assert detect.from_smi("NVIDIA H200, 143771\n" * 8) == Detected(
        name="NVIDIA H200", memory_bytes=143771 * MiB, count=8, how="nvidia-smi"
    )
    mixed = detect.from_smi("NVIDIA L4, 23034\nNVIDIA A10, 23028\nNVIDIA L4, 23034\n")
    assert mixed is not None
    assert (mixed.name, mixed.count) == ("NVIDIA L4", 2)
    assert detect.from_smi("NVIDIA GH200 480GB, [N/A]") == Detected(name="NVIDIA GH200 480GB", memory_bytes=0, count=1, how="nvidia-smi")
    assert detect.from_smi("") is None


def test_the_files_of_the_driver(tmp_path: Path) -> None:
    for bus in ("0000:18:00.0", "0000:2a:00.0"):
        (tmp_path / bus).mkdir()
        (tmp_path / bus / "information").write_text("Model: \t\t NVIDIA H100 80GB HBM3\nIRQ:   \t\t 18\nGPU UUID: \t GPU-1\n")
    gpu = detect.from_proc(tmp_path)
    assert gpu is not None
    assert (gpu.name, gpu.count, gpu.memory_bytes) == ("NVIDIA H100 80GB HBM3", 2, 0)
    assert detect.from_proc(tmp_path / "none") is None


def test_the_kernel_files_of_an_amd_gpu(tmp_path: Path) -> None:
    device = tmp_path / "renderD128" / "device"
    device.mkdir(parents=True)
    for name, text in (("vendor", "0x1002"), ("device", "0x74a1"), ("mem_info_vram_total", "206141652992")):
        (device / name).write_text(text + "\n")
    gpu = detect.from_drm(tmp_path)
    assert gpu == Detected(name="AMD Instinct MI300X", memory_bytes=206141652992, count=1, how=str(tmp_path))


def test_nothing_there_is_none_and_never_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def missing(*_: Any, **__: Any) -> None:
        raise FileNotFoundError("nvidia-smi")

    monkeypatch.setattr(subprocess, "run", missing)
    for name in ("_nvml", "_proc", "_amd"):
        monkeypatch.setattr(detect, name, missing)
    assert detect.gpu() is None
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 9, stdout="NVIDIA-SMI has failed", stderr=""))
    assert detect.gpu() is None


def test_a_tool_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*_: Any, **__: Any) -> None:
        raise subprocess.TimeoutExpired("nvidia-smi", detect.WAIT_S)

    monkeypatch.setattr(subprocess, "run", hang)
    monkeypatch.setattr(detect, "_nvml", lambda: Detected(name="NVIDIA L4", memory_bytes=0, count=1, how="the driver's library"))
    gpu = detect.gpu()
    assert gpu is not None
    assert gpu.name == "NVIDIA L4"
