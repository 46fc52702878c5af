"""The GPUs of a server from what its tools and files say: outputs recorded on servers, or as the makers document them."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from kvplan import catalog
from kvplan.catalog.machines import of_gpu
from kvplan.hardware import detect
from kvplan.hardware.detect import Detected


@pytest.mark.parametrize(
    ("name", "machine"),
    [
        ("NVIDIA H100 80GB HBM3", "h100-sxm"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H100 NVL", ""),  # another part: fewer FLOPs, more memory
        ("NVIDIA H200", "h200-sxm"),
        ("NVIDIA H200 NVL", ""),
        ("NVIDIA A100-SXM4-80GB", "a100-sxm-80gb"),
        ("NVIDIA A100-SXM4-40GB", "a100-sxm-40gb"),
        ("NVIDIA A100 80GB PCIe", "a100-pcie-80gb"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("NVIDIA GeForce RTX 4090 D", ""),
        ("NVIDIA GeForce RTX 3090 Ti", ""),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "rtx-pro-6000"),
        ("AMD Instinct MI300X", "mi300x"),
        ("Tesla T4", ""),
    ],
)
def test_names_of_drivers_lead_to_machines(name: str, machine: str) -> None:
    assert of_gpu(name) == machine


@pytest.mark.parametrize("name", catalog.names("machines"))
def test_every_shipped_machine_is_found_by_its_own_gpu(name: str) -> None:
    assert of_gpu(catalog.machine(name).gpu.name) == name


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that does not exist; no library, no tool."""
    monkeypatch.setattr(detect, "_of_library", list)
    monkeypatch.setattr(detect.shutil, "which", lambda _: None)
    return tmp_path / "nowhere"


def _smi(monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    monkeypatch.setattr(detect.shutil, "which", lambda name: name)
    monkeypatch.setattr(subprocess, "run", answer)


def test_nvidia_smi(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _smi(monkeypatch, lambda *_, **__: subprocess.CompletedProcess([], 0, stdout="NVIDIA H200\n" * 8, stderr=""))
    assert detect.found(nowhere, nowhere) == Detected("NVIDIA H200", 8)
    _smi(monkeypatch, lambda *_, **__: subprocess.CompletedProcess([], 0, stdout="NVIDIA L4\nNVIDIA A10\nNVIDIA L4\n", stderr=""))
    assert detect.found(nowhere, nowhere) == Detected("NVIDIA L4", 2)


@pytest.mark.parametrize(
    "error", [FileNotFoundError("nvidia-smi"), subprocess.TimeoutExpired("nvidia-smi", 10), subprocess.CalledProcessError(9, "nvidia-smi")]
)
def test_a_tool_that_fails_or_hangs_is_given_up(nowhere: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    _smi(monkeypatch, fail)
    assert detect.found(nowhere, nowhere) is None


def test_the_files_of_the_driver(nowhere: Path, tmp_path: Path) -> None:
    for bus in ("0000:18:00.0", "0000:2a:00.0"):
        (tmp_path / bus).mkdir()
        (tmp_path / bus / "information").write_text("Model: \t\t NVIDIA H100 80GB HBM3\nIRQ:   \t\t 18\nGPU UUID: \t GPU-1\n")
    assert detect.found(tmp_path, nowhere) == Detected("NVIDIA H100 80GB HBM3", 2)
    assert detect.found(nowhere, nowhere) is None


def test_the_kernel_files_of_an_amd_gpu(nowhere: Path, tmp_path: Path) -> None:
    device = tmp_path / "renderD128" / "device"
    device.mkdir(parents=True)
    for name, text in (("vendor", "0x1002"), ("device", "0x74a1")):
        (device / name).write_text(text + "\n")
    assert detect.found(nowhere, tmp_path) == Detected("AMD Instinct MI300X", 1)
    (device / "vendor").write_text("0x8086\n")
    assert detect.found(nowhere, tmp_path) is None
