"""What the server says of itself: nvidia-smi, /proc and /sys. No timing, nothing is changed."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import subprocess
from pathlib import Path

from kvplan.calibrate.records import Finding, Value

_QUERY = {
    "uuid": "uuid",
    "driver": "driver_version",
    "link_gen": "pcie.link.gen.gpucurrent",
    "link_gen_max": "pcie.link.gen.max",
    "link_width": "pcie.link.width.current",
    "link_width_max": "pcie.link.width.max",
    "sm_clock_MHz": "clocks.sm",
    "sm_clock_max_MHz": "clocks.max.sm",
    "memory_clock_MHz": "clocks.mem",
    "power_limit_W": "power.limit",
    "utilization_percent": "utilization.gpu",
    "memory_used_MiB": "memory.used",
    "mig": "mig.mode.current",
}


def _smi(arguments: list[str]) -> str:
    try:
        run = subprocess.run(["nvidia-smi", *arguments], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return run.stdout if run.returncode == 0 else ""


def _value(text: str) -> Value:
    text = text.strip()
    with contextlib.suppress(ValueError):
        number = float(text)
        return int(number) if number.is_integer() else number
    return text


def gpu_facts(index: int) -> dict[str, Value]:
    """Identity, link, clocks and use of one GPU from nvidia-smi; empty when it cannot be asked."""
    names = list(_QUERY)
    for missing in ("", "link_gen"):  # drivers before 530 know the current generation by another name
        fields = [_QUERY[n] if n != missing else "pcie.link.gen.current" for n in names]
        line = _smi([f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits", "-i", str(index)]).strip()
        parts = line.split(",")
        if len(parts) == len(names):
            return {name: _value(part) for name, part in zip(names, parts, strict=True) if "N/A" not in part}
    return {}


def other_processes(index: int) -> list[str]:
    """Names of other compute processes on a GPU."""
    listing = _smi(["--query-compute-apps=pid,process_name", "--format=csv,noheader", "-i", str(index)])
    rows = [line.split(",", 1) for line in listing.splitlines() if "," in line]
    return [name.strip() for pid, name in rows if pid.strip() != str(os.getpid())]


def host_facts() -> dict[str, Value]:
    """CPU, memory (and the control group's limit), kernel, hypervisor, huge pages."""
    memory = _memory_total()
    limit = _memory_limit()
    return {
        "host": platform.node(),
        "kernel": platform.release(),
        "cpu": _cpu_name(),
        "cpus": len(os.sched_getaffinity(0)),
        "host_memory_bytes": min(memory, limit) if limit else memory,
        "memory_total_bytes": memory,
        "memory_limit_bytes": limit,
        "huge_pages": _first_line("/sys/kernel/mm/transparent_hugepage/enabled"),
        "hypervisor": _hypervisor(),
        "python": platform.python_version(),
    }


def _memory_total() -> int:
    match = re.search(r"MemTotal:\s+(\d+) kB", _read("/proc/meminfo"))
    return int(match[1]) * 1024 if match else 0


def _memory_limit() -> int:
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        text = _read(path).strip()
        if text.isdigit() and int(text) < 2**60:
            return int(text)
    return 0


def _cpu_name() -> str:
    match = re.search(r"model name\s*:\s*(.+)", _read("/proc/cpuinfo"))
    return match[1] if match else platform.machine()


def _hypervisor() -> str:
    if platform.release() == "4.4.0" and "gVisor" in _read("/proc/version"):
        return "gVisor"
    if "microsoft" in _read("/proc/version").lower():
        return "WSL"
    for path in ("/sys/hypervisor/type", "/sys/class/dmi/id/sys_vendor"):
        if name := _first_line(path):
            return name
    return "virtual" if " hypervisor" in _read("/proc/cpuinfo") else ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def _first_line(path: str) -> str:
    return _read(path).strip().split("\n")[0]


# NVML clock event reasons that mean the GPU was held back (nvml.h: nvmlClocksEventReason*).
_HELD_BACK = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x20: "thermal (software)",
    0x40: "thermal",
    0x80: "power brake",
}


class Monitor:
    """Clocks and throttle reasons twice a second while probes run, through nvidia-smi's own loop."""

    def __init__(self, index: int) -> None:
        fields = "clocks.sm,clocks_event_reasons.active,utilization.gpu"
        command = [
            "nvidia-smi",
            f"--query-gpu={fields}",
            "--format=csv,noheader,nounits",
            "-lms",
            "500",
            "-i",
            str(index),
        ]
        try:
            self.process: subprocess.Popen[str] | None = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
            os.set_blocking(self.process.stdout.fileno(), False)  # type: ignore[union-attr]
        except OSError:
            self.process = None
        self.rest = ""

    def readings(self) -> list[tuple[float, int, float]]:
        """(SM clock in MHz, reason bits, utilisation in percent) since the last call."""
        if self.process is None or self.process.stdout is None:
            return []
        with contextlib.suppress(BlockingIOError, TypeError):
            self.rest += self.process.stdout.read() or ""
        *lines, self.rest = self.rest.split("\n")
        found = []
        for line in lines:
            parts = line.split(",")
            with contextlib.suppress(ValueError, IndexError):
                found.append((float(parts[0]), int(parts[1], 16), float(parts[2])))
        return found

    def findings(self) -> list[Finding]:
        """G02 when the clock dropped by more than a tenth under load, with the reason the driver gives."""
        busy = [(clock, bits) for clock, bits, use in self.readings() if use >= 50]
        if len(busy) < 4:
            return []
        clocks = sorted(clock for clock, _ in busy)
        drop = 1 - clocks[0] / clocks[-1]
        reasons = sorted({name for _, bits in busy for bit, name in _HELD_BACK.items() if bits & bit})
        if drop <= 0.10 or not reasons:
            return []
        why = ", ".join(reasons)
        text = f"GPU clock fell by {drop:.0%} under load ({why}): the figures are those of this power and cooling."
        return [Finding(code="G02", level="warning", text=text)]

    def close(self) -> None:
        """Stop asking."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait()
            self.process = None
