"""What makers promise for a GPU or a link: the bounds that a measurement cannot pass, and the peaks that
efficiencies refer to.
"""

from __future__ import annotations

from collections.abc import Iterable

from kvplan.calibrate.predict import gemm_traffic
from kvplan.calibrate.records import Estimate, Value
from kvplan.hardware.spec import Gpu

# PCI Express base specifications: bytes per second for one lane after line coding (128b/130b from generation 3 on,
# flits from 6 on).
_LANE_Bps = {1: 0.25e9, 2: 0.5e9, 3: 0.985e9, 4: 1.969e9, 5: 3.938e9, 6: 7.563e9}


def link_Bps(generation: int, width: int) -> float:
    """What a PCI Express link of this generation and width carries each way; 0 when unknown."""
    return _LANE_Bps.get(generation, 0.0) * width


def promised_link_Bps(facts: dict[str, Value]) -> float:
    """What the PCI Express link of the card carries each way; 0 when unknown."""
    return link_Bps(int(facts.get("link_gen_max", 0)), int(facts.get("link_width_max", 0)))


def peaks(known: Gpu | None, facts: dict[str, Value], rows: Iterable[Estimate]) -> tuple[Gpu, dict[str, str]]:
    """The GPU with the peaks that its maker promises, or where none are `known` with the best that was measured; and where each comes
    from.
    """
    name, memory_bytes = str(facts.get("gpu_name", "")), max(1, int(facts.get("memory_bytes", 0)))
    if known:
        given = {peak: getattr(known, peak) for peak in ("hbm_Bps", "bf16_flops", "fp8_flops", "fp4_flops")}
        return Gpu(name=name, memory_bytes=memory_bytes, **given), dict.fromkeys(given, f"datasheet of {name}, dense")
    reads, products = [], []
    for row in rows:
        if row.point.op == "hbm":
            reads.append(row.rate(row.point.number("bytes")))
        elif row.point.op == "gemm":
            products.append(row.rate(gemm_traffic(row.point)[0]))
    text = "the best that was measured: kvplan has no datasheet of this GPU"
    top = Gpu(name=name, memory_bytes=memory_bytes, hbm_Bps=max(reads, default=1e12), bf16_flops=max(products, default=1e14))
    return top, dict.fromkeys(("hbm_Bps", "bf16_flops"), text)
