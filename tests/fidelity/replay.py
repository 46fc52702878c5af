"""The measured cases, run through the simulator."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from kvplan import scenario
from kvplan.sim.simulate import simulate

MEASURED = Path(__file__).resolve().parents[3] / "shared/measured/h100-vllm-0.24"
MODEL = "llama-3.1-8b"


def run_rows(rows: list[dict[str, Any]], **tiers: str) -> dict[str, Any]:
    """Columns of a replay of Mooncake-style rows."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        loaded = scenario.load(str(path), model=MODEL, machine="h100-sxm", tiers=tiers)
        _, record = simulate(loaded)
    return record.columns


def single(kind: str, tokens: int) -> float:
    """TTFT of one request alone, as the measurement did it: cold, with its prefix on the GPU, or with it in host memory only."""
    cached = tokens if kind == "cold" else tokens - 64
    ids = list(range(-(-cached // 512)))
    rows = [{"timestamp": 0, "input_length": cached, "output_length": 2, "hash_ids": ids}]
    if kind == "cpu_hit":  # push the prefix off the GPU with other content
        for extra in range(1, 5):
            fill = [10**6 * extra + i for i in range(160)]
            rows.append({"timestamp": 60_000 * extra, "input_length": 512 * 160, "output_length": 2, "hash_ids": fill})
    if kind != "cold":
        rows.append({"timestamp": 600_000, "input_length": tokens, "output_length": 2, "hash_ids": [*ids, 10**8]})
    return float(run_rows(rows, gpu_kv="40GiB", cpu="80GiB")["ttft_s"][-1])


def decode(batch: int, context: int) -> float:
    """Mean time between tokens of the last of `batch` equal requests."""
    rows = [
        {"timestamp": 0, "input_length": context, "output_length": 96, "hash_ids": [10**4 * i + k for k in range(-(-context // 512))]}
        for i in range(batch)
    ]
    columns = run_rows(rows, gpu_kv="40GiB", cpu="40GiB")
    last = columns["arrival_s"] + columns["ttft_s"]
    return float(columns["itl_s"][last.argmax()])


def replay(name: str, **tiers: str) -> dict[str, Any]:
    """Columns of a measured trace replayed with the given tiers."""
    loaded = scenario.load(str(MEASURED / name), model=MODEL, machine="h100-sxm", tiers=tiers)
    return simulate(loaded)[1].columns
