"""Published effects of offloading beside what kvplan predicts: `python -m tests.plan.published` prints the table.

Each entry of the collected figures that says model, GPU, workload and tier well enough, and compares with and without, is a case here
(tests.plan.effects says how it was measured).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from kvplan.planning.closed_form import prompt_for
from tests.plan import effects
from tests.plan.effects import COMPILED, Row, of, single

FILE = Path(__file__).with_suffix(".jsonl")
"""Collected figures, each with its source; numbers and facts of the configuration, none of the sources' words."""

CEPH = [f"Qwen3-32B-tp{tp}" for tp in (1, 2, 4)] + [f"Llama-3.3-70B-tp{tp}" for tp in (2, 4, 8)]

LENGTHS = [10_000 * n for n in range(1, 11)]

PCIE3 = ("machine.link.h2d_Bps=12.5e9", "machine.link.d2h_Bps=13e9")
"""EC2's p4de: its A100 are behind Cascade Lake processors, which have PCIe 3.0."""

CASES: dict[str, Callable[[Any], Iterator[Row]]] = {
    **{f"vllm-native-ttft-8b-{n // 1000}k": single("llama-3.1-8b", "h100-sxm", n) for n in LENGTHS},
    **{f"vllm-native-tput-8b-h{share}": effects.batch_hits(share / 100) for share in range(0, 101, 10)},
    "vllm-pr10874": effects.unknown_engine,
    "pegaflow-h800": effects.arriving,
    "sglang-pr29049": effects.mirrored,
    "llmd-fs-ttft": effects.beside_gpu_hits,
    "lmcache-issue56": single("mistral-7b-v0.1", "a40", 25_000, "lmcache", COMPILED),
    "pstack-2025-03": single("llama-3.1-8b", "a100-sxm-80gb", 9_000, "lmcache", COMPILED),
    "gpustack-miss-overhead": effects.missed,
    **{f"llmd-l40s-{name}": effects.conversations for name in effects.POOLS},
    "lmi-qwen8b-cpu": effects.long_documents("a100-sxm-80gb", *PCIE3),
    "mooncake-fast25-128k": effects.remote_128k,
    **{f"ceph-{name}": effects.ceph for name in CEPH},
}
"""Entry -> what kvplan says to it."""

INFERRED: dict[str, Callable[[Any], Iterator[Row]]] = {
    "vllm-1b-tput-dma": effects.batch_1b,
    "lmcache-docs-longdoc": effects.long_documents("h100-sxm"),
}
"""The same for entries that leave something out: the figure without offloading, which follows from a quoted ratio; the GPU, which is an
H100 by its time without the tier (23.5 s, predicted 22.5; an A100 takes 55)."""

UNREAD = (
    "vLLM's engine of 2024, in a change that was closed: its tier, its eviction and its order of requests are none of kvplan's engines; "
)
UNSTEADY = "the same engine without any tier, behind a router that only looks at its blocks, was measured at +3 and +10 % of its throughput"
CANNOT_SAY: dict[str, str] = {
    "vllm-native-tput-8b-h0": (
        "a loss of 3 % read off a figure to 3 %; the 1B model, which stores as many blocks in a fifth of the time, lost 0.5 %"
    ),
    "vllm-pr10874 8 documents": UNREAD + "all documents are on the GPU with and without the tier",
    "vllm-pr10874 16 documents": UNREAD + "without the tier it took half of what computing those of 16 takes for which the GPU has no room",
    "vllm-pr10874 32 documents": UNREAD + "with room for all 32 a document took 0.5 s, five times its load",
    "vllm-pr10874 64 documents": UNREAD + "without the tier it took longer than without any prefix cache",
    "llmd-l40s-Qwen3-14B native": UNSTEADY,
    "llmd-l40s-Qwen3-14B lmcache": UNSTEADY,
    "sglang-pr29049 L2=2*L1": "emulated on the tool and agent trace of Mooncake (23,608 requests), which is not among the traces at hand",
}
"""Rows without a prediction, and why."""

EXPLAINED: dict[str, str] = {
    "llmd-l40s-Qwen3-32B-AWQ native": "a loss of 1.0 % comes out as one of 2.1 %",
    "llmd-l40s-Qwen3-32B-AWQ lmcache": (
        "one user at a time lost 0.4 s on each answer, in host memory as with remote backends: more than all of its stores take"
    ),
}
"""Rows whose sign comes out differently, and why."""


def sign(effect: float) -> int:
    """1 for a win, -1 for a loss, 0 within 2 %."""
    return 0 if math.isclose(effect, 1.0, abs_tol=0.02) else 1 if effect > 1 else -1


def table(cases: dict[str, Callable[[Any], Iterator[Row]]] = CASES) -> list[Row]:
    """All rows of some cases."""
    entries = {entry["id"]: entry for entry in map(json.loads, FILE.read_text().splitlines())}
    rows = [row for name, case in cases.items() for row in case(entries[name])]
    return [(name, published, None if name in CANNOT_SAY else predicted) for name, published, predicted in rows]


def misses(rows: list[Row]) -> list[str]:
    """Rows whose sign comes out differently."""
    return [name for name, published, predicted in rows if predicted is not None and sign(published) != sign(predicted)]


NOT_JUDGED = {
    "trap": "not judged: served from the GPU, not from the tier that it names",
    "vendor": "not judged: a vendor's claim without its configuration",
}
"""Kind of entry -> why there can be no prediction for it."""

OTHERWISE = "not judged: gives too little configuration, or compares something else than with and without"


def not_judged() -> dict[str, str]:
    """The entries that are no case, each with the reason."""
    entries = map(json.loads, FILE.read_text().splitlines())
    return {entry["id"]: NOT_JUDGED.get(entry["kind"], OTHERWISE) for entry in entries if entry["id"] not in CASES | INFERRED}


def main() -> None:
    rows = table(CASES | INFERRED)
    wrong = misses(rows)
    for name, published, predicted in rows:
        if predicted is None:
            print(f"{name:40} {published:8.2f}        -  cannot say: {CANNOT_SAY[name]}")
        else:
            mark = "  <- " + EXPLAINED.get(name, "sign differs") if name in wrong else ""
            print(f"{name:40} {published:8.2f} {predicted:8.2f}{mark}")
    said = sum(predicted is not None for _, _, predicted in rows)
    print(f"{said - len(wrong)} of {said} signs, {len(rows) - said} that cannot be said")
    for name, why in not_judged().items():
        print(f"{name:40} {why}")
    entries = {entry["id"]: entry for entry in map(json.loads, FILE.read_text().splitlines())}
    for name, _, predicted in effects.threshold(entries["mooncake-fast25-threshold"]):
        print(f"{name:40} break-even bandwidth {predicted:.2f} times the published one")
    for machine, model, tp in HEADLINES:
        base = of(model, machine, version="", tp=tp)
        for speedup in (3.0, 10.0, 14.0, 28.0):
            lengths = [prompt_for(base, "cpu", speedup, hit) for hit in (1.0, 0.9, 0.5)]
            words = ", ".join(f"{length:,}" if length else "never" for length in lengths)
            print(f"{model} on {tp} x {machine}: {speedup:g} times sooner from (100, 90, 50 % hits) {words} tokens")


HEADLINES = [
    ("h100-sxm", "llama-3.1-70b", 4),
    ("gh200", "llama-3.1-70b", 1),
    ("h100-sxm", "llama-3.1-8b", 1),
    ("a100-sxm-80gb", "llama-3.1-8b", 1),
    ("l4", "llama-3.1-8b", 1),
]


if __name__ == "__main__":
    main()
