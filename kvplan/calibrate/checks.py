"""Physical bounds: a figure above one is a cache or an error of timing, and is discarded and said."""

from __future__ import annotations

from kvplan.calibrate.datasheet import link_Bps, promised_link_Bps
from kvplan.calibrate.predict import gemm_traffic, kv_bytes
from kvplan.calibrate.records import Estimate, Finding, Point, Value
from kvplan.hardware.spec import Gpu
from kvplan.hardware.timing import pair_flops, score_pairs
from kvplan.units import format_rate

SLACK = 1.02  # what a clock may gain on a bound before the figure is impossible


def bound_s(point: Point, facts: dict[str, Value], known: Gpu | None) -> float:
    """The least seconds in which physics lets a point be done, by the link and by what is `known` of the GPU; 0 when no bound is known."""
    size = point.number("bytes")
    if point.op in ("copy", "duplex", "mapped", "scatter"):
        rate = promised_link_Bps(facts)
        return size * max(1, point.number("pieces")) / rate if rate else 0.0
    if known is None:
        return 0.0
    if point.op == "hbm":
        return size / known.hbm_Bps
    if point.op == "gemm":
        return max(gemm_traffic(point)[0] / known.bf16_flops, 2.0 * point.number("n") * point.number("k") / known.hbm_Bps)
    if point.op == "attention_prefill":
        pair = point.number("heads") * pair_flops(point.number("dim"), point.number("dim"))
        return pair * score_pairs(point.number("new"), point.number("context")) / known.bf16_flops
    if point.op == "attention_decode":
        return kv_bytes(point) / known.hbm_Bps
    return 0.0


def possible(rows: list[Estimate], facts: dict[str, Value], known: Gpu | None) -> tuple[list[Estimate], list[Finding]]:
    """Rows that physics allows, and one finding (G07) for each that it does not."""
    kept, findings = [], []
    for row in rows:
        bound = bound_s(row.point, facts, known)
        if row.seconds * SLACK >= bound:
            kept.append(row)
        else:
            above = f"{bound / row.seconds:.2f} times what the hardware can do"
            text = f"{row.point.key}: {above}: a cache or a timing error; discarded."
            findings.append(Finding(code="G07", level="discard", text=text))
    return kept, findings


def check_link(facts: dict[str, Value], loaded: dict[str, Value]) -> list[Finding]:
    """G01: under load the link runs below the card's generation or width."""
    if not {"link_gen", "link_width"} <= loaded.keys() or "link_gen_max" not in facts:
        return []
    gen, width = int(loaded["link_gen"]), int(loaded["link_width"])
    gen_max, width_max = int(facts["link_gen_max"]), int(facts["link_width_max"])
    if gen >= gen_max and width >= width_max:
        return []
    text = (
        f"the PCIe link runs at Gen{gen} x{width} under load and the card supports Gen{gen_max} x{width_max} "
        f"({format_rate(link_Bps(gen_max, width_max), 0)}): the figures are honest for this slot, not for the card."
    )
    return [Finding(code="G01", level="warning", text=text)]


def check_busy(facts: dict[str, Value], others: list[str]) -> Finding | None:
    """G04: another process uses the GPU."""
    use = float(facts.get("utilization_percent", 0) or 0)
    if not others and use <= 5:
        return None
    who = f"processes: {', '.join(sorted(set(others))[:3])}" if others else f"utilisation is {use:.0f}%"
    return Finding(code="G04", level="refuse", text=f"another process uses the GPU ({who}).")


def unconverged(rows: list[Estimate], tolerance: float, title: str) -> list[Finding]:
    """S01: how many points of a probe did not reach the asked precision, and the worst."""
    loose = [r for r in rows if not r.converged]
    if not loose:
        return []
    worst = max(loose, key=lambda r: (r.hi - r.lo) / r.seconds)
    width = (worst.hi - worst.lo) / (2 * worst.seconds)
    span = f"±{width:.0%}" if width < 10 else "unknown (one block)"
    text = f"{title}: {len(loose)} of {len(rows)} points wider than ±{tolerance:.0%}; worst {worst.point.key}: {span}."
    return [Finding(code="S01", level="note", text=text)]
