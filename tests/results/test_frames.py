"""Results as DataFrames hold what the records hold."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kvplan import simulate
from kvplan.traces import open_trace
from kvplan.traces.reuse.curve import curve
from kvplan.traces.reuse.inspect import inspect

CHAT = Path(__file__).resolve().parents[1] / "measured/h100-vllm-0.24/chat28.jsonl"


def test_a_simulation_is_one_row_of_dotted_names() -> None:
    result = simulate(CHAT, model="llama-3.1-8b", machine="h100-sxm", gpu_kv="8GiB", cpu="32GiB", limit=20)
    frame = result.to_frame()
    assert len(frame) == 1
    assert frame["ttft_s.p50"][0] == result.ttft_s.p50
    cpu = next(tier for tier in result.tiers if tier.name == "cpu")
    assert frame["tiers.cpu.hit_rate"][0] == cpu.hit_rate


def test_a_curve_is_a_row_for_each_policy_and_capacity() -> None:
    result = curve(open_trace(CHAT), policies=("lru", "opt"), capacities=[10, 100])
    frame = result.to_frame()
    assert frame[["policy", "capacity_blocks"]].values.tolist() == [["lru", 10], ["lru", 100], ["opt", 10], ["opt", 100]]
    assert frame["token_hit"][3] == result.curves["opt"][1].token_hit


def test_an_inspection_is_one_row() -> None:
    frame = inspect(open_trace(CHAT)).to_frame()
    assert frame["requests"][0] == 177
    assert frame["sharing.ideal.token_hit"][0] == pytest.approx(0.759, abs=0.01)


def test_pandas_is_loaded_only_when_a_frame_is_asked_for() -> None:
    code = "import sys, kvplan.results.simulate, kvplan.results.trace, kvplan.results.plan; print('pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
