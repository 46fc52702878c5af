"""How published effects of offloading were measured, as scenarios: each function gives the rows of one entry of the collected figures.

An effect is a speed-up: time (or work per time) without the tier over the same with it. What a source does not say is named where it is
assumed.
"""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from kvplan import scenario
from kvplan.loading import Loading
from kvplan.memory.below import below
from kvplan.planning.closed_form import ttft_s
from kvplan.sim.simulate import simulate
from tests.public import public

Entry = dict[str, Any]
Row = tuple[str, float, float | None]
"""What it is, the published effect, the predicted one; None where it cannot be predicted."""

BLOG = "0.14"
"""vLLM as measured in its blog of 2026-01-08, by llm-d in February 2026 and by PegaFlow: the first model runner, all layers of a block in
one piece."""

COMPILED = "0.5.3"
"""A version of LMCache whose compiled copies load, as those of the published figures did."""

UNCACHED = ("engine.prefix_caching=false",)


def of(
    model: str, machine: str, *, engine: str = "vllm", version: str = BLOG, tp: int = 1, sets: tuple[str, ...] = ()
) -> scenario.Scenario:
    """A scenario for closed forms; its trace is never read."""
    known = {"engine": engine, "engine_version": version, "tiers": {"gpu_kv": "20GiB"}, "run": {"tp": tp}, "sets": sets}
    return scenario.load("none.jsonl", model=model, machine=machine, **known)  # type: ignore[arg-type]


def run_rows(
    rows: list[dict[str, Any]], *, model: str = "llama-3.1-8b", machine: str = "h100-sxm", engine: str = "vllm", version: str = "",
    tp: int = 1, sets: tuple[str, ...] = (), **tiers: str,
) -> dict[str, Any]:  # fmt: skip
    """Columns of a replay of rows, Mooncake-style or of kvplan's own format."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        known: dict[str, Any] = {"engine": engine, "engine_version": version, "tiers": tiers, "run": {"tp": tp}, "sets": sets}
        return simulate(scenario.load(str(path), model=model, machine=machine, **known))[1].columns


def own_format(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"kvplan": "trace/1", "block_tokens": 16}, *rows]


def prompt(content: int, tokens: int, output: int, at_s: float, session: str = "") -> dict[str, Any]:
    """A request in kvplan's own format whose blocks no other content shares; those of a session follow one another without a pause."""
    blocks = [content * 100_000 + block for block in range(-(-tokens // 16))]
    asked = {"t": at_s, "in": tokens, "out": output, "blocks": blocks}
    return asked | ({"session": session, "think": 0} if session else {})


def ends_s(columns: dict[str, Any]) -> Any:
    return columns["arrival_s"] + columns["e2e_s"]


def ttft_ratio(base: scenario.Scenario, tokens: int, tier: str = "cpu", hit: float = 1.0) -> float:
    """Cold over warm time to first token of one request that finds a share of its prompt in a tier."""
    return ttft_s(base, tokens) / ttft_s(base, tokens, tier, hit)


def single(model: str, machine: str, tokens: int, engine: str = "vllm", version: str = BLOG) -> Callable[[Entry], Iterator[Row]]:
    """One request alone, all of its prompt in host memory."""

    def rows(entry: Entry) -> Iterator[Row]:
        published = entry["ratio"] if isinstance(entry["ratio"], int | float) else 8.0
        yield f"{entry['id']} {tokens // 1000}k", published, ttft_ratio(of(model, machine, engine=engine, version=version), tokens)

    return rows


def beside_gpu_hits(entry: Entry) -> Iterator[Row]:
    """Llama-3.1-70B on four H100, one request alone. The figure has hits on the GPU too: 7 to 43 times sooner than prefill, which leaves
    0.14 s and 1.7 us a token for clients, HTTP and tokenizers, of which the text says nothing. They are taken from there, for all three.
    """
    base = of("llama-3.1-70b", "h100-sxm", tp=4)
    given = entry["offload_value"]
    for tokens, gpu, cpu in zip((16_384, 32_768, 65_536, 98_304, 131_072), given["gpu"], given["cpu"], strict=True):
        cold, loaded = ttft_s(base, tokens), ttft_s(base, tokens, "cpu", 1.0)
        loading = Loading(base.deployment)
        hit = loaded - loading.load_s("cpu", loading.below.whole(tokens - 1))
        around = (cold - gpu * hit) / (gpu - 1)
        yield f"{entry['id']} {tokens // 1000}k", cpu, (cold + around) / (loaded + around)


BATCH = 1000
"""Prompts of the 10,000 measured: fewer than some 800 leave the loads of the last ones to be waited for."""


def batch_hits(share: float) -> Callable[[Entry], Iterator[Row]]:
    """Prefill throughput of 512-token prompts of which a share lies in host memory. GPU prefix caching is off."""

    def rows(entry: Entry) -> Iterator[Row]:
        yield entry["id"], float(entry["ratio"]), batch_rate(share, "llama-3.1-8b", "256GiB") / batch_rate(0.0, "llama-3.1-8b", "")

    return rows


def batch_1b(entry: Entry) -> Iterator[Row]:
    """The same on Llama-3.2-1B at hit shares of 0 to 100 %. Without offloading by the quote: copies by a kernel cost 6 %."""
    without, predicted = entry["baseline_value"][0] / 0.94, batch_rate(0.0, "llama-3.2-1b", "")
    for tenth, value in enumerate(entry["offload_value"]):
        yield f"{entry['id']} {10 * tenth} %", value / without, batch_rate(tenth / 10, "llama-3.2-1b", "64GiB") / predicted


@functools.cache
def batch_rate(share: float, model: str, cpu: str) -> float:
    """Prompts per second of a batch of which a share is in host memory; max_num_seqs by vLLM's default on such GPUs."""
    hits = [int((i + 1) * share) > int(i * share) for i in range(BATCH)]
    rows = [prompt(i, 513, 1, 0.0) for i in range(BATCH) if hits[i]]
    rows += [prompt(i if hits[i] else BATCH + i, 513, 1, 1000.0) for i in range(BATCH)]
    tiers = {"cpu": cpu} if cpu else {}
    columns = run_rows(own_format(rows), model=model, version=BLOG, sets=(*UNCACHED, "engine.max_batch=1024"), gpu_kv="50GiB", **tiers)
    return BATCH / float(ends_s(columns).max() - columns["arrival_s"].max())


POISSON_S = (0.0, 0.75253, 1.081717, 1.309952, 1.352359, 1.394758, 1.409717, 1.912525)
"""Arrivals of `vllm bench serve` at 4 requests a second with its script's seed of 42 (numpy's legacy generator), from the first one on."""


def arriving(entry: Entry) -> Iterator[Row]:
    """Eight prompts of 10,000 tokens at 4 requests a second, twice, GPU prefix caching off: examples/bench_kv_cache.py of PegaFlow. Its
    daemon is taken for vLLM's own tier.
    """
    rows = [prompt(i, 10_000, 1, 1000.0 * turn + at_s) for turn in range(2) for i, at_s in enumerate(POISSON_S)]
    ttft = run_rows(own_format(rows), machine="h800-sxm", version=BLOG, sets=UNCACHED, gpu_kv="40GiB", cpu="64GiB")["ttft_s"]
    yield f"{entry['id']} 10k", entry["ratio"], float(ttft[:8].mean() / ttft[8:].mean())


def missed(entry: Entry) -> Iterator[Row]:
    """100 prompts at once that nothing hits, 128 tokens out (`vllm bench serve`), through LMCache: what stores cost of the throughput."""
    for tokens, change in zip((1000, 8000, 20_000), entry["offload_value"], strict=True):
        took = []
        for tiers in ({}, {"cpu": "50GiB"}):
            rows = own_format([prompt(content, tokens, 128, 0.0) for content in range(100)])
            sets = ("engine.max_batch=256",)
            known = {"model": "qwen3-8b", "machine": "rtx-4090", "engine": "lmcache", "version": COMPILED, "sets": sets}
            took.append(float(ends_s(run_rows(rows, **known, gpu_kv="5.7GiB", **tiers)).max()))  # type: ignore[arg-type]
        yield f"{entry['id']} {tokens // 1000}k", 1 + change / 100, took[0] / took[1]


def long_documents(machine: str, *sets: str) -> Callable[[Entry], Iterator[Row]]:
    """46 documents of 10,000 tokens in turn, twice, four at a time with 100 tokens out: LMCache's long_doc_qa as its recommender sets it,
    so that they do not fit into the GPU. Mean time to first token and whole time of the second round.
    """

    def rows(entry: Entry) -> Iterator[Row]:
        ttft, total = [], []
        for tiers in ({}, {"cpu": "70GiB"}):
            asked = [prompt(content, 10_000, 100, 1000.0 * turn, f"{turn}.{content % 4}") for turn in range(2) for content in range(46)]
            known = {"model": "qwen3-8b", "machine": machine, "engine": "lmcache", "version": COMPILED, "sets": sets}
            columns = run_rows(own_format(asked), **known, gpu_kv="50GiB", **tiers)  # type: ignore[arg-type]
            second = columns["arrival_s"] >= 1000.0
            ttft.append(float(columns["ttft_s"][second].mean()))
            total.append(float(ends_s(columns).max()) - 1000.0)
        for name, times in (("ttft", ttft), ("total", total)):
            published = entry["baseline_value"][name] / entry["offload_value"][name]
            yield f"{entry['id']} {name}", published, times[0] / times[1]

    return rows


POOLS = {"Qwen3-0.6B": 635_200, "Qwen3-8B": 390_704, "Qwen3-14B": 269_712, "Qwen3-32B-AWQ": 208_080}
"""Model -> tokens of the GPUs' pool, by vLLM's log."""

TURNS = {"Qwen3-0.6B": (50, 180, 5), "Qwen3-8B": (50, 50, 3), "Qwen3-32B-AWQ": (1, 12, 5)}
"""Model -> conversations at a time, and as many of them and of their turns as 120 s have room for."""


def conversations(entry: Entry) -> Iterator[Row]:
    """Conversations of five turns, 128 tokens in and out, each behind 10,000 tokens of its own, on two L40S: output tokens a second of the
    requests that end within 120 s. 10,000 blocks of host memory under vLLM 0.11.2, and as much under LMCache, which is taken to be beside
    the same engine: one that schedules a step when the one before has ended.
    """
    model = entry["id"].removeprefix("llmd-l40s-")
    for name, change in entry["offload_value"].items():
        predicted = None
        if model in TURNS:
            slots, count, turns = TURNS[model]
            asked = [prompt(one, 10_128 + 256 * turn, 128, 0.0, str(one % slots)) for one in range(count) for turn in range(turns)]
            token_bytes = below(of(model.lower(), "l40s", tp=2).deployment).token_bytes
            known: dict[str, Any] = {"model": model.lower(), "machine": "l40s", "engine": "vllm", "version": "0.11.2", "tp": 2}
            sets: tuple[str, ...] = ("engine.max_batch=1024",)
            if name == "lmcache":
                known |= {"engine": "lmcache", "version": COMPILED}
                sets += ("engine.plan_ahead=false",)
            rates = []
            for tiers in ({}, {"cpu": f"{160_000 * token_bytes:.0f}B"}):
                columns = run_rows(own_format(asked), **known, sets=sets, gpu_kv=f"{POOLS[model] * token_bytes:.0f}B", **tiers)
                within = ends_s(columns)[ends_s(columns) <= 120.0]
                rates.append(len(within) / float(within.max()))
            predicted = rates[1] / rates[0]
        yield f"{entry['id']} {name}", 1 + change / 100, predicted


def mirrored(entry: Entry) -> Iterator[Row]:
    """A host tier of half and of twice the GPU's pool: prompt tokens served by both. That half of it adds nothing, whose content the GPU
    has too, holds on any trace, so also on Mooncake's synthetic one; what twice of it adds hangs on the trace.
    """
    rows = [json.loads(line) for line in public("traces/mooncake_synthetic.jsonl").read_text().splitlines()[:1500]]
    shares = []
    for tier in ({}, {"cpu": "128GiB"}):
        columns = run_rows(rows, gpu_kv="256GiB", sets=("run.speedup=0.5",), **tier)
        shares.append(1 - columns["computed_tokens"].sum() / columns["prompt_tokens"].sum())
    half, twice = (entry["offload_value"][name] / entry["baseline_value"] for name in ("L2=0.5*L1", "L2=2*L1"))
    yield f"{entry['id']} L2=0.5*L1", half, shares[1] / shares[0]
    yield f"{entry['id']} L2=2*L1", twice, None


def unknown_engine(entry: Entry) -> Iterator[Row]:
    """Two passes over long documents under vLLM's engine of 2024."""
    for count, ratio in zip((8, 16, 32, 64), entry["ratio"], strict=True):
        yield f"{entry['id']} {count} documents", ratio, None


def threshold(entry: Entry) -> Iterator[Row]:
    """The bandwidth from which 8,192 tokens load faster than they are computed, over the published one."""
    for name, machine in (("8xA800", "a100-sxm-80gb"), ("8xH800", "h800-sxm")):
        base = of("llama-3-70b", machine, version="", tp=8)
        yield f"{entry['id']} {name}", 1.0, Loading(base.deployment).break_even_Bps(8192) / 1e9 / entry["offload_value"][name]


def remote_128k(entry: Entry) -> Iterator[Row]:
    """A prompt of 128k tokens of which 95 % lie in a remote pool behind one 800 Gbit/s node."""
    base = of("llama-3.1-70b", "a100-sxm-80gb", version="", tp=8, sets=("machine.network.Bps=87e9",))
    yield entry["id"], 1 / (1 + entry["offload_value"]["ttft"]), ttft_ratio(base, 131_072, "remote", 0.95)


def ceph(entry: Entry) -> Iterator[Row]:
    """130,900 tokens on some MI300X, all of them in host memory or in Ceph's S3 (60 GB/s), under an LMCache whose copies are compiled."""
    model = "qwen3-32b" if "Qwen3" in entry["id"] else "llama-3.3-70b"
    sets = ("model.max_context_tokens=131072", "remote.client_Bps=60e9", "remote.parallel=64")
    base = of(model, "mi300x", engine="lmcache", version=COMPILED, tp=int(entry["id"][-1]), sets=sets)
    for name, tier in (("dram", "cpu"), ("lmcache_s3", "remote")):
        yield f"{entry['id']} {name}", entry["baseline_value"] / entry["offload_value"][name], ttft_ratio(base, 130_900, tier)
