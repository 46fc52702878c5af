"""Runs side by side: differences first, each with its reason; and the command line of engines, policies and
replicas."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kvplan.sim.outcome.compare import compare
from tests.sim.runs import documents, run

ROOT = Path(__file__).parents[2]


def test_differences_come_first_and_each_has_its_reason() -> None:
    docs = documents(12, 8192, rounds=3, every_s=2)
    runs = [run(docs, engine=engine, gpu_kv="8GiB", **tiers) for engine, tiers in (("vllm", {}), ("lmcache", {"cpu": "16GiB"}))]
    result = compare([world.scenario for _, world in runs], [result for result, _ in runs])
    assert result.names == ["vllm", "lmcache"]
    figures = {difference.what: difference for difference in result.differences}
    assert figures["cpu_hit_rate"].values == [0.0, pytest.approx(2 / 3, abs=0.01)]
    assert "gpu_hit_rate" in result.same and "gpu_hit_rate" not in figures
    assert all(difference.reason for difference in result.differences)
    assert figures["ttft_mean_s"].reason.startswith("mostly ") and figures["ttft_mean_s"].reason.endswith("(vllm against lmcache)")
    settings = {difference.what: difference.values for difference in result.settings}
    assert settings["engine.offload.load"] == ["whole_request", "blocking"]
    assert settings["engine.offload.chunk_tokens"] == [0, 256]
    assert settings["tiers.cpu_bytes"] == [0, 2**34]


TRACE = [{"kvplan": "trace/1", "block_tokens": 16, "name": "small"}] + [
    {"t": turn * 2.0, "in": 4096, "out": 4, "blocks": [doc * 1000 + key for key in range(256)]}
    for turn, doc in enumerate([1, 2, 3, 1, 2, 3])
]


@pytest.fixture
def trace(tmp_path: Path) -> str:
    file = tmp_path / "small.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in TRACE))
    return str(file)


def kvplan(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kvplan", "simulate", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_COLOR": "1"}, check=False)


BASE = ("--model", "llama-3.1-8b", "--machine", "h100-sxm", "--gpu-kv", "0.6GiB", "--cpu", "4GiB")


def test_several_engines_print_one_table_and_one_document(trace: str) -> None:
    shown = kvplan(trace, *BASE, "--engine", "vllm,lmcache,sglang")
    assert shown.returncode == 0, shown.stderr
    assert "Why, the largest difference first" in shown.stdout and "layerwise" in shown.stdout
    document = json.loads(kvplan(trace, *BASE, "--engine", "vllm,lmcache,sglang", "--json").stdout)
    assert document["schema"] == "kvplan.compare/1" and [run["schema"] for run in document["runs"]] == ["kvplan.simulate/1"] * 3


def test_several_scenarios_are_compared(trace: str, tmp_path: Path) -> None:
    for name, cpu in (("small", "1GiB"), ("large", "4GiB")):
        (tmp_path / f"{name}.toml").write_text(
            f'trace = "{trace}"\nmodel = "llama-3.1-8b"\nmachine = "h100-sxm"\n'
            f'[tiers]\ngpu_kv = "0.6GiB"\ncpu = "{cpu}"\n'
            '[cluster]\nreplicas = 2\nrouter = "prefix_aware"\n[remote]\nclient_Bps = "10GB/s"\n'
        )
    document = json.loads(kvplan(str(tmp_path / "small.toml"), str(tmp_path / "large.toml"), "--json").stdout)
    assert document["names"] == ["small", "large"]
    assert [difference["what"] for difference in document["settings"]] == ["tiers.cpu_bytes"]


@pytest.mark.parametrize(
    "arguments,message",
    [
        (("--policy", "lruu"), "did you mean lru"),
        (("--policy", "./nothing.py:Mine"), "is not a Python file"),
        (("--replicas", "2", "--router", "random"), "no router named 'random'"),
        (("--replicas", "0"), "cluster.replicas"),
        (("--engine", "vlm"), "did you mean vllm"),
        (("--engine", "vllm,lmcache", "--requests-out", "rows.jsonl"), "--requests-out writes the requests of one run"),
        (("--set", "engine.offload.load=sometimes"), "engine.offload.load"),
    ],
)
def test_bad_input_is_one_clear_sentence(trace: str, arguments: tuple[str, ...], message: str) -> None:
    failed = kvplan(trace, *BASE, *arguments)
    assert failed.returncode == 2 and not failed.stdout
    assert message in " ".join(failed.stderr.split()) and "Traceback" not in failed.stderr


def test_a_policy_from_a_file_on_the_command_line(trace: str, tmp_path: Path) -> None:
    file = tmp_path / "my.py"
    file.write_text(
        "class Oldest:\n"
        "    def __init__(self, facts): self.line = {}\n"
        "    def append(self, entry): self.line[entry] = True\n"
        "    def touch(self, entry, again): self.line[entry] = self.line.pop(entry)\n"
        "    def remove(self, entry): del self.line[entry]\n"
        "    def victim(self): return next(iter(self.line), None)\n"
    )
    mine, lru = (
        json.loads(kvplan(trace, *BASE[:-1], "1GiB", "--policy", policy, "--json").stdout)["prompt_tokens"]
        for policy in (f"{file}:Oldest", "lru")
    )
    assert mine == lru
