"""A server that exists only as numbers: the whole pipeline without hardware, deterministic."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable

from kvplan.calibrate import predict
from kvplan.calibrate.records import Finding, Point, Sample, Value
from kvplan.calibrate.shapes import shape
from kvplan.hardware.spec import Disk, Gpu, Host, Link, Machine
from kvplan.units import GiB

TRUTH = Machine(
    name="fake",
    title="Fake server (no hardware was measured)",
    gpu=Gpu(name="Fake GPU", memory_bytes=80 * GiB, hbm_Bps=3.35e12, bf16_flops=989e12),
    link=Link(h2d_Bps=55e9, d2h_Bps=54e9),
    host=Host(memory_bytes=256 * GiB),
    disk=Disk(capacity_bytes=10**12, read_Bps=6.5e9, write_Bps=3e9),
)
NOISE = 0.01  # log-normal, relative
HICCUP = 0.05  # share of samples that take 1.3 times as long
PAGEABLE_Bps = 8e9


class FakeInstrument:
    """Answers every point with what `TRUTH` predicts, times seeded noise that depends on the point and the block
    only.
    """

    def __init__(self, truth: Machine = TRUTH, *, gpus: int = 1) -> None:
        self.truth, self.gpus = truth, gpus
        self.seed = 0

    def waived(self, point: Point) -> str:
        return "the fake server has no GPUDirect Storage" if point.op == "gds" else ""

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
            "numa_nodes": 2,
            "disk_capacity_bytes": disk.capacity_bytes,
            "disk_device": "fake",
            "disk_virtual": 0,
        }

    def findings(self) -> list[Finding]:
        return []

    def close(self) -> None:
        pass


def _notes(truth: Machine, point: Point, seconds: float) -> dict[str, float]:
    if point.op.startswith("disk_") or point.op == "pipeline":
        rate = point.number("bytes") / seconds
        return {"Bps": rate, "write_Bps": rate / 2, "burst_Bps": rate, "sustained_Bps": rate, "first_s": seconds}
    return {}


def _copy(truth: Machine, p: Point) -> float:
    if p.text("memory") == "pageable":
        return 2e-5 + p.number("bytes") / PAGEABLE_Bps
    alone = truth.link.launch_s if p.text("memory") == "alone" else 0.0
    return alone + predict.copy_s(truth.link, p.text("direction"), p.number("bytes"))


def _scatter(truth: Machine, p: Point) -> float:
    rate = truth.link.h2d_Bps if p.text("direction") == "h2d" else truth.link.d2h_Bps
    each = {"loop": 6e-6, "batch": truth.link.copy_s, "gather": 0.0}[p.text("path")]
    return truth.link.launch_s + p.number("pieces") * (each + p.number("bytes") / rate)


def _elementwise(truth: Machine, p: Point) -> float:
    dims = shape(p.text("model"))
    width = {"rms_norm": 2 * dims.hidden, "silu_mul": 3 * dims.ffn, "residual": 3 * dims.hidden}
    size = 2.0 * p.number("m") * width.get(p.text("what"), 2 * dims.heads * dims.head_dim)
    return 2e-6 + size / (truth.gpu.hbm_Bps * truth.gpu.elementwise_Bps_efficiency)


def _write_s(truth: Machine, p: Point) -> float:
    size, disk = p.number("bytes"), truth.disk
    return max(size / disk.write_Bps, (disk.write_latency_s + size / disk.stream_Bps) / p.number("threads"))


def _overlap(truth: Machine, p: Point) -> float:
    alone = {"gemm": 6e-4, "hbm_read": 3.5e-4, "h2d": 1.2e-3, "d2h": 1.2e-3}[p.text("measured")]
    return alone * (1.0 if p.text("beside") == "none" else 1.02)


def _sustained(truth: Machine, p: Point) -> float:
    return p.number("bytes") / (truth.disk.read_Bps if p.text("what") == "read" else truth.disk.write_Bps)


def _path(truth: Machine, p: Point) -> float:
    rates = {"cold": 0.8, "hot": 2.0, "mmap_cold": 0.3, "mmap_hot": 2.5, "again": 1.0}
    return p.number("bytes") / (truth.disk.read_Bps * rates[p.text("how")])


_ANSWERS: dict[str, Callable[[Machine, Point], float]] = {
    **predict.PREDICT,
    "launch": lambda m, p: {"event_pair": 2e-6, "kernel": 5e-6, "graph_node": 1.2e-6}.get(p.text("what"), m.link.launch_s),
    "pin": lambda m, p: p.number("bytes") * m.host.pin_s_per_byte,
    "copy": _copy,
    "copy_numa": lambda m, p: predict.copy_s(m.link, p.text("direction"), p.number("bytes")) * (1 + p.number("node")),
    "copy_all": lambda m, p: predict.copy_s(m.link, p.text("direction"), p.number("bytes")) * p.number("gpus") / 2,
    "scatter": _scatter,
    "duplex": lambda m, p: predict.copy_s(m.link, p.text("direction"), p.number("bytes")) / m.link.duplex_fraction,
    "overlap": _overlap,
    "hbm": lambda m, p: p.number("bytes") * {"copy": 2, "read": 1, "write": 1}[p.text("what")] / (0.9 * m.gpu.hbm_Bps),
    "elementwise": _elementwise,
    "host_copy": lambda m, p: p.number("bytes") / (5e9 * p.number("threads")),
    "disk_write": _write_s,
    "disk_mixed": lambda m, p: p.number("bytes") / (0.5 * m.disk.read_Bps),
    "disk_sustained": _sustained,
    "disk_path": _path,
    "pipeline": lambda m, p: p.number("bytes") / min(0.9 * m.disk.read_Bps, m.link.h2d_Bps),
}
