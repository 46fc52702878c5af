"""The simulator against real engines on real GPUs: each row's relative error stays below what is reached, plus one point.

`LIMITS` is the state of the model: a change that does better lowers its row. `cold` rows below 2,048 tokens and hits below 1,024 are only
printed, and hits are judged by their mean error, since repetitions of one such request scatter by up to 20 %.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import pytest

from tests.fidelity.replay import MEASURED, Case, Row, cold, decode, hits, replay, replay_as_sent

BLOCK = 16
H100, H200, SLOW = "h100-vllm-0.24", "h200-vllm-0.24", "h200-vllm-0.24-slow-host"
SGLANG = "h100-sglang-0.5.17"
OWN = "h200-vllm-0.24-calibrated"
OWN_H100 = "h100-vllm-0.24-calibrated"
SLOW_MACHINE, OWN_MACHINE, SGLANG_MACHINE, H100_MACHINE = (
    str(MEASURED / folder / "machine.toml") for folder in (SLOW, OWN, SGLANG, OWN_H100)
)
"""Of `OWN` and `OWN_H100` what `kvplan calibrate --quick` wrote of the machine on which these were measured, and nothing else."""

FILES_IN_MEMORY = tuple(f"machine.disk.{rate}" for rate in ("read_Bps=17GB/s", "stream_Bps=17GB/s", "write_Bps=9GB/s"))
"""A file system in memory: the median of its jobs' rates."""

SAME_EXPERTS = ("parallel.expert_skew=100",)
"""With weights at random this model's router, whose softmax is rounded to bf16, gives every token the same experts."""

LLAMA = Case(f"{H100}/single_requests.json", "llama-3.1-8b", "h100-sxm")
CASES = {
    "llama on H100": LLAMA,
    "llama, fp8 KV": LLAMA._replace(file=f"{H100}/single_requests_fp8.json", sets=("kv_dtype=fp8",)),
    "llama on H200": Case(f"{H200}/conversation_load_gpu_only.json", "llama-3.1-8b", "h200-sxm"),
    "gemma on H200": Case(f"{H200}/gemma_3_12b_single.json", "gemma-3-12b", "h200-sxm"),
    "deepseek on H200": Case(f"{H200}/deepseek_v2_lite_single.json", "deepseek-v2-lite", "h200-sxm", sets=SAME_EXPERTS),
    "lmcache on H200": Case(f"{H200}/lmcache_single.json", "llama-3.1-8b", "h200-sxm", "lmcache"),
    "sglang on H100": Case(f"{SGLANG}/llama_3_1_8b_gpu_only.json", "llama-3.1-8b", SGLANG_MACHINE, "sglang@0.5.17"),
    "hicache on H100": Case(f"{SGLANG}/llama_3_1_8b_hicache_40GB.json", "llama-3.1-8b", SGLANG_MACHINE, "sglang@0.5.17"),
    "qwen3 moe": Case(f"{SLOW}/qwen3_30b_a3b_cpu_32GiB.json", "qwen3-30b-a3b", SLOW_MACHINE),
    "qwen 32b": Case(f"{SLOW}/qwen2_5_32b_cpu_48GiB.json", "qwen2.5-32b", SLOW_MACHINE),
    "deepseek, slow host": Case(f"{SLOW}/deepseek_v2_lite_cpu_8GiB.json", "deepseek-v2-lite", SLOW_MACHINE, sets=SAME_EXPERTS),
    "gemma, slow host": Case(f"{SLOW}/gemma_3_12b_cpu_32GiB.json", "gemma-3-12b", SLOW_MACHINE),
    "llama, own profile": Case(f"{OWN}/llama_3_1_8b_cpu_32GiB.json", "llama-3.1-8b", OWN_MACHINE),
    "lmcache server": Case(f"{OWN}/llama_3_1_8b_lmcache_server_32GiB.json", "llama-3.1-8b", OWN_MACHINE, "lmcache-mp"),
    "qwen 14b": Case(f"{OWN}/qwen2_5_14b_cpu_32GiB.json", "qwen2.5-14b", OWN_MACHINE),
    "qwen3 moe, own profile": Case(f"{OWN}/qwen3_30b_a3b_cpu_32GiB.json", "qwen3-30b-a3b", OWN_MACHINE),
    "llama, own H100": Case(f"{OWN_H100}/llama_3_1_8b_gpu_only.json", "llama-3.1-8b", H100_MACHINE),
    "lmcache, own H100": Case(f"{OWN_H100}/llama_3_1_8b_lmcache_32GiB.json", "llama-3.1-8b", H100_MACHINE, "lmcache"),
    "gpt-oss, own H100": Case(f"{OWN_H100}/gpt_oss_20b_cpu_16GiB.json", "gpt-oss-20b", H100_MACHINE),
}
LEAST = {"cold": 2048, "gpu_hit": 1024, "cpu_hit": 1024, "decode": 0}
"""Kind -> tokens from which on a row is judged."""

LIMITS: dict[tuple[str, str], float] = {
    ("llama on H100", "cold"): 2.8,
    ("llama on H100", "gpu_hit"): 12.3,
    ("llama on H100", "cpu_hit"): 5.4,
    ("llama on H100", "decode"): 5.0,
    ("llama, fp8 KV", "cold"): 2.0,
    ("llama, fp8 KV", "gpu_hit"): 11.5,
    ("llama, fp8 KV", "decode"): 4.1,
    ("llama on H200", "cold"): 2.9,
    ("llama on H200", "gpu_hit"): 7.2,
    ("llama on H200", "decode"): 3.1,
    ("gemma on H200", "cold"): 2.2,
    ("gemma on H200", "gpu_hit"): 16.1,
    ("gemma on H200", "cpu_hit"): 8.6,
    ("gemma on H200", "decode"): 9.5,
    ("deepseek on H200", "cold"): 40.3,
    ("deepseek on H200", "gpu_hit"): 7.8,
    ("deepseek on H200", "cpu_hit"): 17.9,
    ("deepseek on H200", "decode"): 14.3,
    ("lmcache on H200", "cold"): 3.4,
    ("lmcache on H200", "gpu_hit"): 5.5,
    ("lmcache on H200", "cpu_hit"): 6.8,
    ("lmcache on H200", "decode"): 5.0,
    ("sglang on H100", "cold"): 1.6,
    ("sglang on H100", "gpu_hit"): 4.0,
    ("sglang on H100", "decode"): 1.9,
    ("hicache on H100", "cold"): 3.3,
    ("hicache on H100", "gpu_hit"): 24.7,
    ("hicache on H100", "cpu_hit"): 7.4,
    ("hicache on H100", "decode"): 2.1,
    ("qwen3 moe", "cold"): 8.5,
    ("qwen3 moe", "gpu_hit"): 2.7,
    ("qwen3 moe", "cpu_hit"): 3.0,
    ("qwen3 moe", "decode"): 4.3,
    ("qwen 32b", "cold"): 6.8,
    ("qwen 32b", "gpu_hit"): 5.5,
    ("qwen 32b", "cpu_hit"): 2.4,
    ("qwen 32b", "decode"): 3.3,
    ("deepseek, slow host", "cold"): 18.3,
    ("deepseek, slow host", "gpu_hit"): 18.4,
    ("deepseek, slow host", "cpu_hit"): 16.9,
    ("deepseek, slow host", "decode"): 8.5,
    ("gemma, slow host", "cold"): 10.0,
    ("gemma, slow host", "gpu_hit"): 7.1,
    ("gemma, slow host", "cpu_hit"): 8.1,
    ("gemma, slow host", "decode"): 5.6,
    ("llama, own profile", "cold"): 5.4,
    ("llama, own profile", "gpu_hit"): 26.5,
    ("llama, own profile", "cpu_hit"): 9.9,
    ("llama, own profile", "decode"): 4.3,
    ("lmcache server", "cold"): 7.0,
    ("lmcache server", "gpu_hit"): 9.7,
    ("lmcache server", "cpu_hit"): 2.9,
    ("lmcache server", "decode"): 7.3,
    ("qwen 14b", "cold"): 3.4,
    ("qwen 14b", "gpu_hit"): 4.4,
    ("qwen 14b", "cpu_hit"): 4.9,
    ("qwen 14b", "decode"): 3.8,
    ("qwen3 moe, own profile", "cold"): 2.0,
    ("qwen3 moe, own profile", "gpu_hit"): 5.1,
    ("qwen3 moe, own profile", "cpu_hit"): 8.3,
    ("qwen3 moe, own profile", "decode"): 7.1,
    ("llama, own H100", "cold"): 3.0,
    ("llama, own H100", "gpu_hit"): 18.5,
    ("llama, own H100", "decode"): 4.8,
    ("lmcache, own H100", "cold"): 3.8,
    ("lmcache, own H100", "gpu_hit"): 37.0,
    ("lmcache, own H100", "cpu_hit"): 27.1,
    ("lmcache, own H100", "decode"): 3.5,
    ("gpt-oss, own H100", "cold"): 17.0,
    ("gpt-oss, own H100", "gpu_hit"): 14.8,
    ("gpt-oss, own H100", "cpu_hit"): 13.4,
    ("gpt-oss, own H100", "decode"): 6.3,
}
"""Case, kind -> the largest relative error of a judged row, of hits the mean one, in per cent.

Deepseek is told that its random weights send all tokens to the same experts: with even routing, as of real text, batches take 1.6 to 2.2
times what was measured. Its CPU hits were measured with a host slower than that of its GPU hits, and its cold prompt of 4,096 tokens is the
host at the slower of two speeds between which it flips (58 ms in one of three runs). The 8B's GPU hits with its own profile are the host at
the faster one: repeated a minute later they take 15.0 instead of 12.2 ms (16.6 predicted). Of Gemma's single
sequences at 16k and 64k the first token was late by their last chunk's store, not the second as predicted: both are ready for the copy
engine at once, and the store went first with 9 of 50 prompts on the first runner (of none of 60 on the second). GPU hits with HiCache
were each measured beside the store of the prompt before them, on a host that flipped between its speeds. On the calibrated H100 it was
slower beside LMCache than its probes say: the same hit of 1,088 tokens took 18.4 ms without and 28.6 with LMCache, whose own calls take 2.
Gpt-oss's norms are 1 and its routers' biases 0, so that tokens choose experts evenly; a step of a new number of tokens beyond its graphs
compiles kernels for a second, which is why there is no replay of it.
"""


@pytest.mark.parametrize(("case", "kind"), LIMITS, ids=str)
def test_requests_alone_and_decode_steps(case: str, kind: str) -> None:
    if kind == "decode":
        rows = decode(CASES[case])
    else:
        rows = cold(CASES[case]) if kind == "cold" else hits(CASES[case], kind)
    errors = _print(f"{case}: {kind}", rows)
    judged = {name: abs(error) * 100 for name, error in errors.items() if kind == "decode" or int(name.replace(",", "")) >= LEAST[kind]}
    assert {name for name, _, predicted in rows if predicted is None} == set()
    worst = statistics.mean(judged.values() or [0]) if "hit" in kind else max(judged.values())
    assert worst <= LIMITS[case, kind], judged


def _print(title: str, rows: Sequence[Row]) -> dict[str, float]:
    """The table; the relative error of each served row."""
    print(f"\n{title}\n{'case':24}{'measured':>12}{'predicted':>12}{'error':>9}")
    errors = {}
    for name, measured, predicted in rows:
        if predicted is None:
            print(f"{name:24}{measured * 1e3:9.2f} ms{'not served':>12}")
            continue
        errors[name] = predicted / measured - 1
        print(f"{name:24}{measured * 1e3:9.2f} ms{predicted * 1e3:9.2f} ms{errors[name]:+9.1%}")
    return errors


CHAT = f"{H100}/chat28.jsonl"
REPLAYS: dict[str, tuple[Case, str, dict[str, str], dict[str, float]]] = {
    "chat, GPU only": (
        LLAMA._replace(file=f"{H100}/chat28_gpu_only.json"), CHAT, {"gpu_kv": "8GiB"},
        {"TTFT mean": 4.1, "TTFT p50": 4.2, "TTFT p90": 5.8, "ITL p50": 1.5},
    ),
    "chat, CPU tier": (
        LLAMA._replace(file=f"{H100}/chat28_cpu_32GiB.json"), CHAT, {"gpu_kv": "8GiB", "cpu": "32GiB"},
        {"TTFT mean": 1.9, "TTFT p50": 4.9, "TTFT p90": 2.3, "ITL p50": 1.9},
    ),
    "conversation": (
        CASES["llama on H200"], f"{H200}/conversation_load.jsonl", {"gpu_kv": "40GiB"},
        {"TTFT mean": 3.6, "TTFT p50": 1.6, "TTFT p90": 2.0, "ITL p50": 2.8},
    ),
    "sglang, GPU only": (
        CASES["sglang on H100"], CHAT, {"gpu_kv": "8GiB"},
        {"TTFT mean": 10.5, "TTFT p50": 3.3, "TTFT p90": 12.4, "ITL p50": 1.0},
    ),
    "sglang, HiCache": (
        CASES["hicache on H100"], CHAT, {"gpu_kv": "8GiB", "cpu": "40GB"},
        {"TTFT mean": 10.9, "TTFT p50": 6.6, "TTFT p90": 11.5, "ITL p50": 1.4},
    ),
    "32b, CPU tier": (
        CASES["qwen 32b"], CHAT, {"gpu_kv": "16GiB", "cpu": "48GiB"},
        {"TTFT mean": 3.9, "TTFT p50": 2.5, "TTFT p90": 5.6, "ITL p50": 5.0},
    ),
    "moe, CPU tier": (
        CASES["qwen3 moe"], CHAT, {"gpu_kv": "8GiB", "cpu": "32GiB"},
        {"TTFT mean": 15.5, "TTFT p50": 11.2, "TTFT p90": 11.2, "ITL p50": 6.4},
    ),
    "moe, own profile": (
        CASES["qwen3 moe, own profile"], CHAT, {"gpu_kv": "8GiB", "cpu": "32GiB"},
        {"TTFT mean": 14.0, "TTFT p50": 22.3, "TTFT p90": 36.1, "ITL p50": 3.9},
    ),
    "14b, bursts": (
        CASES["qwen 14b"], CHAT, {"gpu_kv": "12GiB", "cpu": "32GiB"},
        {"TTFT mean": 11.9, "TTFT p50": 14.4, "TTFT p90": 18.2, "ITL p50": 4.3},
    ),
    "lmcache server": (
        CASES["lmcache server"], CHAT, {"gpu_kv": "8GiB", "cpu": "32GiB"},
        {"TTFT mean": 5.3, "TTFT p50": 6.9, "TTFT p90": 5.1, "ITL p50": 7.2},
    ),
    "disk tier, own profile": (
        Case(f"{OWN}/llama_3_1_8b_cpu_8GiB_disk.json", "llama-3.1-8b", OWN_MACHINE), CHAT,
        {"gpu_kv": "8GiB", "cpu": "8GiB", "disk": "60GiB"},
        {"TTFT mean": 28.2, "TTFT p50": 6.6, "TTFT p90": 36.5, "ITL p50": 2.9},
    ),
    "disk tier": (
        Case(f"{SLOW}/llama_3_1_8b_cpu_8GiB_disk.json", "llama-3.1-8b", SLOW_MACHINE), CHAT,
        {"gpu_kv": "8GiB", "cpu": "8GiB", "disk": "60GiB"},
        {"TTFT mean": 32.4, "TTFT p50": 15.0, "TTFT p90": 43.9, "ITL p50": 1.6},
    ),
    "conversation, own H100": (
        CASES["llama, own H100"], f"{H200}/conversation_load.jsonl", {"gpu_kv": "40GiB"},
        {"TTFT mean": 4.4, "TTFT p50": 3.9, "TTFT p90": 3.3, "ITL p50": 5.1},
    ),
    "conversation stored, own H100": (
        CASES["llama, own H100"]._replace(file=f"{OWN_H100}/llama_3_1_8b_cpu_48GiB.json"), f"{H200}/conversation_load.jsonl",
        {"gpu_kv": "40GiB", "cpu": "48GiB"},
        {"TTFT mean": 2.5, "TTFT p50": 8.1, "TTFT p90": 2.7, "ITL p50": 7.5},
    ),
    "lmcache, own H100": (
        CASES["lmcache, own H100"], CHAT, {"gpu_kv": "8GiB", "cpu": "32GiB"},
        {"TTFT mean": 28.6, "TTFT p50": 12.7, "TTFT p90": 32.8, "ITL p50": 1.8},
    ),
    "files in memory": (
        Case(f"{OWN_H100}/llama_3_1_8b_cpu_8GiB_memory_files.json", "llama-3.1-8b", H100_MACHINE, sets=FILES_IN_MEMORY), CHAT,
        {"gpu_kv": "8GiB", "cpu": "8GiB", "disk": "56GiB"},
        {"TTFT mean": 8.5, "TTFT p50": 2.7, "TTFT p90": 8.7, "ITL p50": 8.0},
    ),
}  # fmt: skip
"""Replay -> what ran, trace, tiers, and the largest relative error of each figure in per cent.

Both MoE hold compilations of a second in their measured replay, the first a full pool in its second half as well. Steps of the 14B under
load take a tenth longer than the same tokens alone: clocks of 1.6 instead of 2.0 GHz at 700 W. The virtual disks give 2 GB/s until an
allowance is used up, and 1.34 GB/s of reads and writes together from then on, which a probe of seconds does
not see; the median of the first hangs on one request: arrivals moved by milliseconds move it by 5 to 7 %.
Where files are in memory, the 32 threads that copy them keep the interpreter from the engine: while they do (a twelfth of the time),
launching a step of decodes takes 24 ms instead of 1.4, or 0.1 to 0.3 ms a file, which is not simulated.
"""

EXACT = {"disk tier": 0.97, "disk tier, own profile": 0.97, "14b, bursts": 0.98, "lmcache server": 0.98, "sglang, GPU only": 0.97}
"""Replay -> least share of requests with exact hits where it is not 0.99: what the disk or the server has by then depends on when stores
end, what a request of a burst finds on the order in which its neighbours run; which node SGLang gives up on when steps end."""


@pytest.mark.parametrize("name", REPLAYS)
def test_replay(name: str) -> None:
    case, trace, tiers, limits = REPLAYS[name]
    truth, as_sent = case.load()["replay"], case.file.split("/")[0] in (SLOW, OWN, OWN_H100, SGLANG)
    truth.sort(key=lambda row: row["t_submit" if as_sent else "i"])
    columns = (replay_as_sent if as_sent else replay)(case, MEASURED / trace, **tiers)
    assert columns["index"].tolist() == (list(range(len(truth))) if as_sent else [row["i"] for row in truth])
    several = [index for index, row in enumerate(truth) if row["out"] > 1]
    seen = {"TTFT": sorted(row["ttft"] for row in truth), "ITL": sorted(truth[index]["itl"] for index in several)}
    told = {"TTFT": sorted(columns["ttft_s"]), "ITL": sorted(columns["itl_s"][several])}
    half, tail = len(truth) // 2, int(len(truth) * 0.9)
    rows: list[Row] = [
        ("TTFT mean", statistics.mean(seen["TTFT"]), statistics.mean(told["TTFT"])),
        ("TTFT p50", seen["TTFT"][half], told["TTFT"][half]),
        ("TTFT p90", seen["TTFT"][tail], told["TTFT"][tail]),
        ("ITL p50", statistics.median(seen["ITL"]), statistics.median(told["ITL"])),
    ]
    errors = {figure: abs(error) * 100 for figure, error in _print(name, rows).items()}
    hit = columns["gpu_hit_tokens"] + columns["cpu_hit_tokens"] + columns["disk_hit_tokens"]
    exact = sum(abs(found - row["cached"]) <= BLOCK for found, row in zip(hit, truth, strict=True)) / len(truth)
    print(f"cached tokens within one block: {exact:.1%} of requests")
    assert exact >= EXACT.get(name, 0.99)
    assert {figure: error for figure, error in errors.items() if error > limits[figure]} == {}


STORED = {  # replay -> what a CPU tier of 48 GiB that nothing hits added to the requests' whole time, and how far off it may be told
    "conversation": (0.018, 0.008),
    "conversation, own H100": (0.0, 0.012),
}


@pytest.mark.parametrize("name", STORED)
def test_what_stores_cost_under_load(name: str) -> None:
    # On the H200 the mean time to first token rose by 8.9 %. That figure hangs on the order in which bursts are submitted: arrivals
    # moved by 5 ms at random, which leave the whole time alone within 0.3 %, move it by 5 %. On the H100 it fell by 0.2 %: copies leave
    # the steps beside them as long as they were, and what hands them over is hidden behind the prompts that they store.
    case, trace, tiers, _ = REPLAYS[name]
    run = replay if name == "conversation" else replay_as_sent
    without = statistics.mean(run(case, MEASURED / trace, **tiers)["e2e_s"])
    stored = statistics.mean(run(case, MEASURED / trace, **tiers, cpu="48GiB")["e2e_s"])
    measured, margin = STORED[name]
    assert stored / without - 1 == pytest.approx(measured, abs=margin)
