"""A server that exists only as numbers: the whole pipeline without hardware, deterministic."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable

from kvplan.calibrate.fits import one_call
from kvplan.calibrate.predict import DIRECTIONS, PREDICT, prefill_step_s
from kvplan.calibrate.records import Finding, Point, Sample, Value
from kvplan.calibrate.shapes import shape
from kvplan.hardware.collectives import collective_s
from kvplan.hardware.spec import Disk, Gpu, Host, Interconnect, Link, Machine
from kvplan.hardware.timing import OUT, disk_Bps, elementwise_s, transfer_s
from kvplan.units import GiB

_GPU = Gpu(name="Fake GPU", memory_bytes=80 * GiB, hbm_Bps=3.35e12, bf16_flops=989e12, sustained_fraction=0.8)
_LINK = Link(
    h2d_Bps=55e9, d2h_Bps=54e9, copy_s=4e-7, small_copy_bytes=28 * 1024, small_copy_s=2e-6, mapped_read_Bps=40e9, mapped_write_Bps=45e9
)
PYTHON_S, LAUNCH_S = 2e-6, 3e-4
TRUTH = Machine(
    name="fake",
    title="Fake server (no hardware was measured)",
    gpu=_GPU,
    link=_LINK,
    host=Host(memory_bytes=256 * GiB, python_s=PYTHON_S, launch_s=LAUNCH_S),
    disk=Disk(capacity_bytes=10**12, read_Bps=6.5e9, write_Bps=3e9, duplex_fraction=0.6),
    interconnect=Interconnect(Bps=150e9, latency_s=10e-6),
)
CALL_S = 2e-6  # of one copy that torch calls, in a row of them
NOISE = 0.01  # log-normal, relative
HICCUP = 0.05  # share of samples that take 1.3 times as long


class FakeInstrument:
    """Answers every point with what `TRUTH` predicts, times seeded noise that depends on the point and the block
    only.
    """

    def __init__(self, truth: Machine = TRUTH, *, gpus: int = 4) -> None:
        self.truth, self.gpus = truth, gpus
        self.seed = 0

    def waived(self, point: Point) -> str:
        needed = point.number("gpus")
        return f"needs {needed} GPUs" if needed > self.gpus else ""

    def fresh(self, seed: int) -> None:
        self.seed = seed

    def measure(self, point: Point, samples: int) -> list[Sample]:
        digest = hashlib.sha256(f"{self.seed} {point.key}".encode()).digest()
        noise = random.Random(digest)
        exact = _ANSWERS[point.op](self.truth, point)
        taken = []
        for _ in range(samples):
            factor = math.exp(noise.gauss(0, NOISE)) * (1.3 if noise.random() < HICCUP else 1.0)
            taken.append(Sample(seconds=exact * factor, notes=_notes(self.truth, point, exact * factor)))
        return taken

    def facts(self) -> dict[str, Value]:
        gpu, disk = self.truth.gpu, self.truth.disk
        return {
            "gpu_name": gpu.name,
            "uuid": "fake",
            "gpus": self.gpus,
            "memory_bytes": gpu.memory_bytes,
            "link_gen": 5,
            "link_width": 16,
            "link_gen_max": 5,
            "link_width_max": 16,
            "host_memory_bytes": self.truth.host.memory_bytes,
            "cpus": 32,
            "disk_capacity_bytes": disk.capacity_bytes,
            "disk_device": "fake",
            "disk_virtual": 0,
        }

    def findings(self) -> list[Finding]:
        return []

    def close(self) -> None:
        pass


def _notes(truth: Machine, point: Point, seconds: float) -> dict[str, float]:
    if point.op == "sustained":
        return {"first_s": seconds * truth.gpu.sustained_fraction}
    if point.op.startswith("disk_"):
        rate, disk = point.number("bytes") / seconds, truth.disk
        beside = disk.duplex_fraction * disk_Bps(disk, OUT, point.number("bytes"), point.number("threads") / 2)
        return {"Bps": rate, "write_Bps": beside, "burst_Bps": rate, "sustained_Bps": rate}
    return {}


def _copy(truth: Machine, p: Point) -> float:
    alone = truth.link.launch_s if p.text("memory") == "alone" else 0.0
    return alone + PREDICT["copy"](one_call(truth, CALL_S), p)


def _scatter(truth: Machine, p: Point) -> float:
    link = truth.link if p.text("path") == "batch" else one_call(truth, 3 * CALL_S).link
    return transfer_s(link, DIRECTIONS[p.text("direction")], p.number("bytes") * p.number("pieces"), p.number("pieces"))


def _elementwise(truth: Machine, p: Point) -> float:
    width = {"rms_norm": 2, "residual": 3}[p.text("what")] * shape(p.text("model")).hidden
    return 2e-6 + elementwise_s(truth.gpu, 2.0 * p.number("m") * width)


def _mapped(truth: Machine, p: Point) -> float:
    return p.number("bytes") / (truth.link.mapped_read_Bps if p.text("direction") == "h2d" else truth.link.mapped_write_Bps)


def _mixed(truth: Machine, p: Point) -> float:
    half = Point(op="disk_read", params={**p.params, "threads": p.number("threads") // 2})
    return PREDICT["disk_read"](truth, half) / truth.disk.duplex_fraction


_ANSWERS: dict[str, Callable[[Machine, Point], float]] = {
    **PREDICT,
    "copy": _copy,
    "scatter": _scatter,
    "duplex": lambda m, p: _copy(m, p) / m.link.duplex_fraction,
    "mapped": _mapped,
    "collective": lambda m, p: collective_s(m.interconnect, p.text("what"), p.number("gpus"), p.number("bytes")),  # type: ignore[arg-type]
    "pin": lambda m, p: p.number("bytes") * m.host.pin_s_per_byte,
    "hbm": lambda m, p: p.number("bytes") / (0.9 * m.gpu.hbm_Bps),
    "elementwise": _elementwise,
    "sustained": lambda m, p: prefill_step_s(m, p) / m.gpu.sustained_fraction,
    "launch": lambda m, _: m.host.launch_s or LAUNCH_S,
    "host_python": lambda m, _: m.host.python_s or PYTHON_S,
    "disk_mixed": _mixed,
    "disk_again": lambda m, p: p.number("bytes") / m.disk.read_Bps,
    "disk_sustained": lambda m, p: p.number("bytes") / (m.disk.read_Bps if p.text("what") == "read" else m.disk.write_Bps),
}
