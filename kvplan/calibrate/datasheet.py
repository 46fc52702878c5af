"""What makers promise for a GPU or a link: the bounds that a measurement cannot pass, and the peaks that
efficiencies refer to.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from kvplan.calibrate.predict import gemm_traffic
from kvplan.calibrate.records import Estimate
from kvplan.hardware.spec import Gpu


class Peak(msgspec.Struct, frozen=True, kw_only=True):
    """Dense peaks of a GPU: HBM bytes per second, bf16, fp8 and fp4 FLOPs per second."""

    hbm_Bps: float
    bf16_flops: float
    fp8_flops: float = 0.0
    fp4_flops: float = 0.0


# NVIDIA datasheets of each product, dense figures (half of the "with sparsity" ones). Keys are matched against the
# driver's name, longest first.
PEAKS: dict[str, Peak] = {
    "H100 80GB HBM3": Peak(hbm_Bps=3.35e12, bf16_flops=989e12, fp8_flops=1979e12),
    "H100 PCIe": Peak(hbm_Bps=2.0e12, bf16_flops=756e12, fp8_flops=1513e12),
    "H100 NVL": Peak(hbm_Bps=3.9e12, bf16_flops=835e12, fp8_flops=1671e12),
    "H200": Peak(hbm_Bps=4.8e12, bf16_flops=989e12, fp8_flops=1979e12),
    "H200 NVL": Peak(hbm_Bps=4.8e12, bf16_flops=836e12, fp8_flops=1671e12),
    "A100-SXM4-80GB": Peak(hbm_Bps=2.039e12, bf16_flops=312e12),
    "A100 80GB PCIe": Peak(hbm_Bps=1.935e12, bf16_flops=312e12),
    "A100-SXM4-40GB": Peak(hbm_Bps=1.555e12, bf16_flops=312e12),
    "L40S": Peak(hbm_Bps=0.864e12, bf16_flops=362e12, fp8_flops=733e12),
    "L4": Peak(hbm_Bps=0.300e12, bf16_flops=121e12, fp8_flops=242.5e12),
    "A10": Peak(hbm_Bps=0.600e12, bf16_flops=125e12),
    "B200": Peak(hbm_Bps=8.0e12, bf16_flops=2250e12, fp8_flops=4500e12, fp4_flops=9000e12),
    "Fake GPU": Peak(hbm_Bps=3.35e12, bf16_flops=989e12),
}

# PCI Express base specifications: bytes per second for one lane after line coding (128b/130b from generation 3 on,
# flits from 6 on).
_LANE_Bps = {1: 0.25e9, 2: 0.5e9, 3: 0.985e9, 4: 1.969e9, 5: 3.938e9, 6: 7.563e9}


def peak(name: str) -> Peak | None:
    """The datasheet of a GPU by its driver name; None when kvplan does not know it."""
    for key in sorted(PEAKS, key=len, reverse=True):
        words = f" {name} "
        if f" {key} " in words:
            return PEAKS[key]
    return None


def link_Bps(generation: int, width: int) -> float:
    """What a PCI Express link of this generation and width carries each way; 0 when unknown."""
    return _LANE_Bps.get(generation, 0.0) * width


def peaks(name: str, memory_bytes: int, rows: Iterable[Estimate]) -> tuple[Gpu, dict[str, str]]:
    """The GPU with its datasheet peaks, or for one that kvplan does not know with the best that was measured; and
    where each comes from.
    """
    known = peak(name)
    if known:
        sources = dict.fromkeys(("hbm_Bps", "bf16_flops", "fp8_flops", "fp4_flops"), f"datasheet of {name}, dense")
        return Gpu(name=name, memory_bytes=memory_bytes, **msgspec.structs.asdict(known)), sources
    reads, products = [], []
    for row in rows:
        if row.point.op == "hbm":
            reads.append(row.rate(row.point.number("bytes")))
        elif row.point.op == "gemm":
            products.append(row.rate(gemm_traffic(row.point)[0]))
    text = "the best that was measured: kvplan has no datasheet of this GPU"
    top = Gpu(name=name, memory_bytes=memory_bytes, hbm_Bps=max(reads, default=1e12), bf16_flops=max(products, default=1e14))
    return top, dict.fromkeys(("hbm_Bps", "bf16_flops"), text)
