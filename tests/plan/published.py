"""Published effects of offloading beside what kvplan predicts: `python -m tests.plan.published` prints the table.

Each entry of the collected figures that says model, GPU, workload and tier well enough, and compares with and without,
is a case here. An effect is a speed-up: time (or work per time) without the tier over the same with it.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from kvplan import scenario
from kvplan.loading import Loading
from kvplan.planning.closed_form import prompt_for, ttft_s
from kvplan.sim.simulate import simulate
from tests.public import public

FILE = Path(__file__).with_suffix(".jsonl")
"""Collected figures, each with its source; numbers and facts of the configuration, none of the sources' words."""

Row = tuple[str, float, float]
"""What it is, the published effect, the predicted one."""


def of(model: str, machine: str, *, tp: int = 1, sets: tuple[str, ...] = (), engine: str = "vllm") -> scenario.Scenario:
    """A scenario for closed forms; its trace is never read."""
    version = COMPILED if engine == "lmcache" else ""
    known = {"engine": engine, "engine_version": version, "tiers": {"gpu_kv": "20GiB"}, "run": {"tp": tp}, "sets": sets}
    return scenario.load("none.jsonl", model=model, machine=machine, **known)  # type: ignore[arg-type]


def run_rows(
    rows: list[dict[str, Any]], *, model: str = "llama-3.1-8b", machine: str = "h100-sxm", sets: tuple[str, ...] = (), **tiers: str
) -> dict[str, Any]:
    """Columns of a replay of Mooncake-style rows."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        _, record = simulate(scenario.load(str(path), model=model, machine=machine, tiers=tiers, sets=sets))
    return record.columns


def ttft_ratio(base: scenario.Scenario, tokens: int, tier: str = "cpu", hit: float = 1.0) -> float:
    """Cold over warm time to first token of one request that finds a share of its prompt in a tier."""
    return ttft_s(base, tokens) / ttft_s(base, tokens, tier, hit)


COMPILED = "0.5.3"
"""A version of LMCache whose compiled copies load, as those of the published figures did."""


def closed_loop(prompts: list[tuple[int, int]], slots: int, output: int, *, model: str, machine: str, **known: Any) -> dict[str, Any]:
    """Columns of prompts (content, tokens), so many at a time: a chain of requests without pauses for each slot."""
    lines = [{"kvplan": "trace/1", "block_tokens": 16}]
    for at, (content, tokens) in enumerate(prompts):
        blocks = [content * 100_000 + block for block in range(-(-tokens // 16))]
        lines.append({"t": 0, "in": tokens, "out": output, "blocks": blocks, "session": f"c{at % slots}", "think": 0})  # type: ignore[dict-item]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        _, record = simulate(scenario.load(str(path), model=model, machine=machine, **known))
    return record.columns


def missed(entry: dict[str, Any]) -> Iterator[Row]:
    """Prompts that nothing hits through LMCache, four at a time (assumed): what its stores cost of the throughput."""
    for tokens, change in zip((1000, 8000, 20_000), entry["offload_value"], strict=True):
        took = []
        for tiers in ({}, {"cpu": "50GiB"}):
            prompts = [(content, tokens) for content in range(16)]
            known = {"engine": "lmcache", "engine_version": COMPILED, "tiers": {"gpu_kv": "5GiB", **tiers}}
            columns = closed_loop(prompts, 4, 100, model="qwen3-8b", machine="rtx-4090", **known)
            took.append(float((columns["arrival_s"] + columns["e2e_s"]).max()))
        yield f"{entry['id']} {tokens // 1000}k", 1 + change / 100, took[0] / took[1]


def second_pass(entry: dict[str, Any]) -> Iterator[Row]:
    """46 documents of 10,000 tokens twice, four at a time with 100 tokens out (assumed, as LMCache's own benchmark): the second pass."""
    ttft = []
    for tiers in ({}, {"cpu": "80GiB"}):
        prompts = [(content, 10_000) for _ in range(2) for content in range(46)]
        known = {"engine": "lmcache", "engine_version": COMPILED, "tiers": {"gpu_kv": "30GiB", **tiers}}
        columns = closed_loop(prompts, 4, 100, model="qwen3-8b", machine="a100-sxm-80gb", **known)
        ttft.append(float(columns["ttft_s"][46:].mean()))
    yield f"{entry['id']} TTFT", entry["ratio"], ttft[0] / ttft[1]


def single(
    model: str, machine: str, tp: int, tokens: list[int], tier: str = "cpu", key: str = "", sets: tuple[str, ...] = (), engine: str = "vllm"
) -> Callable[[Any], Iterator[Row]]:
    """One request alone, all of its prompt in a tier, at some lengths."""

    def rows(entry: dict[str, Any]) -> Iterator[Row]:
        base = of(model, machine, tp=tp, sets=sets, engine=engine)
        published = entry["offload_value"][key] if key else [float(entry["ratio"])] if isinstance(entry["ratio"], int | float) else [8.0]
        for size, ratio in zip(tokens, published, strict=True):
            yield f"{entry['id']} {size // 1000}k", ratio, ttft_ratio(base, size, tier)

    return rows


def batch_hits(share: float) -> Callable[[Any], Iterator[Row]]:
    """Prefill throughput of 512-token prompts of which a share lies in host memory, the GPU keeping nothing of them."""

    def rows(entry: dict[str, Any]) -> Iterator[Row]:
        yield entry["id"], float(entry["ratio"]), batch_ratio(share, "llama-3.1-8b", gpu_kv="9GiB", cpu="64GiB")

    return rows


def batch_1b(entry: dict[str, Any]) -> Iterator[Row]:
    """The same on Llama-3.2-1B at hit shares of 0 to 100 %. Without offloading by the quote: copies by a kernel cost 6 %."""
    without = entry["baseline_value"][0] / 0.94
    for tenth, value in enumerate(entry["offload_value"]):
        yield f"{entry['id']} {10 * tenth} %", value / without, batch_ratio(tenth / 10, "llama-3.2-1b", gpu_kv="2300MiB", cpu="16GiB")


def batch_ratio(share: float, model: str, *, gpu_kv: str, cpu: str) -> float:
    """Prompts per second with host memory over those without, at a share of hits."""
    known = [{"timestamp": 0, "input_length": 513, "output_length": 1, "hash_ids": [i, 10**6 + i]} for i in range(400)]
    timed = []
    for i in range(400):
        hit = int((i + 1) * share) > int(i * share)
        ids = [i if hit else 10**5 + i, 2 * 10**6 + i]
        timed.append({"timestamp": 1_000_000, "input_length": 513, "output_length": 1, "hash_ids": ids})
    rate = {}
    for name, tier in (("with", {"cpu": cpu}), ("without", {})):
        columns = run_rows(known + timed, model=model, gpu_kv=gpu_kv, **tier)
        late = columns["arrival_s"] > 900
        rate[name] = float(late.sum() / ((columns["arrival_s"] + columns["e2e_s"])[late].max() - 1000))
    return rate["with"] / rate["without"]


def documents(entry: dict[str, Any]) -> Iterator[Row]:
    """Two passes over 10,000-token documents; the GPU holds 8 of them, host memory 30. The time of the second pass."""
    for count, ratio in zip((8, 16, 32, 64), entry["ratio"], strict=True):
        rows = [
            {
                "timestamp": 1000 * (1000 * turn + 4 * doc),
                "input_length": 10_010,
                "output_length": 1,
                "hash_ids": [100 * doc + k for k in range(20)],
            }
            for turn in range(2)
            for doc in range(count)
        ]
        times = []
        for tier in ({}, {"cpu": "38GiB"}):
            columns = run_rows(rows, machine="a100-sxm-40gb", gpu_kv="11GiB", **tier)
            times.append(float(columns["ttft_s"][count:].sum()))
        yield f"{entry['id']} {count} documents", ratio, times[0] / times[1]


def mirrored(entry: dict[str, Any]) -> Iterator[Row]:
    """A host tier of half and of twice the GPU's pool on a Mooncake trace: prompt tokens served by both."""
    path = public("traces/mooncake_synthetic.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()[:1500]]
    shares = {}
    for name, tier in (("none", {}), ("L2=0.5*L1", {"cpu": "128GiB"}), ("L2=2*L1", {"cpu": "512GiB"})):
        columns = run_rows(rows, gpu_kv="256GiB", sets=("run.speedup=0.5",), **tier)
        shares[name] = 1 - columns["computed_tokens"].sum() / columns["prompt_tokens"].sum()
    for name, hit in entry["offload_value"].items():
        yield f"{entry['id']} {name}", hit / entry["baseline_value"], shares[name] / shares["none"]


def threshold(entry: dict[str, Any]) -> Iterator[Row]:
    """The bandwidth from which 8,192 tokens load faster than they are computed, over the published one."""
    for name, machine in (("8xA800", "a100-sxm-80gb"), ("8xH800", "h800-sxm")):
        base = of("llama-3-70b", machine, tp=8)
        yield f"{entry['id']} {name}", 1.0, Loading(base.deployment).break_even_Bps(8192) / 1e9 / entry["offload_value"][name]


def remote_128k(entry: dict[str, Any]) -> Iterator[Row]:
    """A prompt of 128k tokens of which 95 % lie in a remote pool behind one 800 Gbit/s node."""
    base = of("llama-3.1-70b", "a100-sxm-80gb", tp=8, sets=("machine.network.Bps=87e9",))
    yield entry["id"], 1 / (1 + entry["offload_value"]["ttft"]), ttft_ratio(base, 131_072, "remote", 0.95)


def ceph(entry: dict[str, Any]) -> Iterator[Row]:
    """130,900 tokens on some MI300X, all of them in host memory or in Ceph's S3 (60 GB/s), under an LMCache whose copies are compiled."""
    model = "qwen3-32b" if "Qwen3" in entry["id"] else "llama-3.3-70b"
    base = scenario.load(
        "none.jsonl",
        model=model,
        machine="mi300x",
        engine="lmcache",
        engine_version=COMPILED,
        tiers={"gpu_kv": "60GiB"},
        run={"tp": int(entry["id"][-1])},
        sets=("model.max_context_tokens=131072", "remote.client_Bps=60e9", "remote.parallel=64"),
    )
    for name, tier in (("dram", "cpu"), ("lmcache_s3", "remote")):
        yield f"{entry['id']} {name}", entry["baseline_value"] / entry["offload_value"][name], ttft_ratio(base, 130_900, tier)


CEPH = [f"Qwen3-32B-tp{tp}" for tp in (1, 2, 4)] + [f"Llama-3.3-70B-tp{tp}" for tp in (2, 4, 8)]

LENGTHS = [10_000 * n for n in range(1, 11)]

CASES: dict[str, Callable[[Any], Iterator[Row]]] = {
    **{f"vllm-native-ttft-8b-{n // 1000}k": single("llama-3.1-8b", "h100-sxm", 1, [n]) for n in LENGTHS},
    **{f"vllm-native-tput-8b-h{share}": batch_hits(share / 100) for share in range(0, 101, 10)},
    "vllm-pr10874": documents,
    "pegaflow-h800": single("llama-3.1-8b", "h800-sxm", 1, [10_000]),
    "sglang-pr29049": mirrored,
    "llmd-fs-ttft": single("llama-3.1-70b", "h100-sxm", 4, [16_384, 32_768, 65_536, 98_304, 131_072], key="cpu"),
    "lmcache-issue56": single("mistral-7b-v0.1", "a40", 1, [25_000], engine="lmcache"),
    "pstack-2025-03": single("llama-3.1-8b", "a100-sxm-80gb", 1, [9_000], engine="lmcache"),
    "gpustack-miss-overhead": missed,
    "lmi-qwen8b-cpu": second_pass,
    "mooncake-fast25-128k": remote_128k,
    **{f"ceph-{name}": ceph for name in CEPH},
}
"""Entry -> what kvplan says to it."""

INFERRED: dict[str, Callable[[Any], Iterator[Row]]] = {"vllm-1b-tput-dma": batch_1b}
"""The same for entries whose figure without offloading is not given, but follows from a quoted ratio."""

EXPLAINED: dict[str, str] = {
    "vllm-native-tput-8b-h0": (
        "a loss of 3 % comes out as none: copies hide behind the next step, and what the CPU spends on each stored block is not modelled; "
        "at the 9 us of a loaded block it would be 2.7 % of the 10.8 ms of such a prompt"
    ),
    "gpustack-miss-overhead 1k": "a loss of 3 % comes out as 1 %: the Python of LMCache costs more than is known of it",
    "vllm-pr10874 8 documents": "the tier's work on the host for hits on the GPU comes out as 3 %; the version measured had no connector",
    "vllm-pr10874 32 documents": "32 documents in turn through room for 29: LRU hits nothing; the version measured had room for more",
    "vllm-pr10874 64 documents": "64 documents in turn through room for 30: LRU hits nothing; the version measured kept some",
}
"""Rows whose sign comes out differently, and why."""

TOO_DEAR = (
    "steps wait for the whole of a load, its fixed 7 ms included, which was seen with an 8B model: "
    "a step of a 1B model takes some 35 ms, and the figures leave 2 ms for it"
)
EXPLAINED |= {f"vllm-1b-tput-dma {share} %": TOO_DEAR for share in (10, 20, 30)}


def sign(effect: float) -> int:
    """1 for a win, -1 for a loss, 0 within 2 %."""
    return 0 if math.isclose(effect, 1.0, abs_tol=0.02) else 1 if effect > 1 else -1


def table(cases: dict[str, Callable[[Any], Iterator[Row]]] = CASES) -> list[Row]:
    """All rows of some cases."""
    entries = {entry["id"]: entry for entry in map(json.loads, FILE.read_text().splitlines())}
    return [row for name, rows in cases.items() for row in rows(entries[name])]


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
    for name, published, predicted in rows:
        mark = "" if sign(published) == sign(predicted) else "  <- " + EXPLAINED.get(name, "sign differs")
        print(f"{name:40} {published:8.2f} {predicted:8.2f}{mark}")
    right = sum(sign(published) == sign(predicted) for _, published, predicted in rows)
    print(f"{right} of {len(rows)} signs")
    for name, why in not_judged().items():
        print(f"{name:40} {why}")
    entries = {entry["id"]: entry for entry in map(json.loads, FILE.read_text().splitlines())}
    for name, _, predicted in threshold(entries["mooncake-fast25-threshold"]):
        print(f"{name:40} break-even bandwidth {predicted:.2f} times the published one")

    for machine, model, tp in HEADLINES:
        base = of(model, machine, tp=tp)
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
