"""What is given beside a scenario overrides it, with all that depends on it; several values are compared."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import kvplan
from kvplan import scenario
from kvplan.errors import InputError
from kvplan.memory.pool import kv_pool
from kvplan.sweep import grid
from kvplan.units import GiB

ROOT = Path(__file__).resolve().parents[2]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "kvplan", *words], capture_output=True, text=True, cwd=ROOT, check=False)


def test_another_machine_has_its_own_pool() -> None:
    own = scenario.load("chat")
    assert own.tiers.gpu_kv_bytes == pytest.approx(3.1 * GiB, abs=GiB / 100) and not own.notes
    for given in ({"machine": "h100-sxm"}, {"model": "qwen2.5-0.5b"}, {"engine": "sglang"}, {"engine_version": "0.26"}):
        other = scenario.load("chat", **given)
        assert other.tiers.gpu_kv_bytes == 0  # what the engine leaves
        assert "GPU pool derived anew" in other.notes[0] and next(iter(given.values())) in other.notes[0]
    assert scenario.load("chat", machine="l4").tiers == own.tiers  # the same machine is no other
    assert scenario.load("chat", machine="h100-sxm", tiers={"gpu_kv": "4GiB"}).tiers.gpu_kv_bytes == 4 * GiB


def test_the_verdict_on_a_larger_machine_is_that_of_its_pool() -> None:
    result = kvplan.plan("chat", machine="h100-sxm")
    assert result.verdict.kind == "do_not_offload"
    assert result.pool_bytes == kv_pool(scenario.load("chat", machine="h100-sxm").deployment).kv_bytes
    assert any("derived anew" in text for text in result.warnings)


def test_every_command_says_engine_and_version_first() -> None:
    for words in (["simulate", "chat"], ["plan", "chat", "--max-cpu", "8GiB"]):
        first = run(*words).stdout.splitlines()[0]
        assert "vLLM 0.24" in first
    assert "vLLM 0.26" in run("simulate", "chat", "--engine-version", "0.26").stdout.splitlines()[0]


def test_ranks_and_kv_dtype_are_options() -> None:
    wide = json.loads(run("simulate", "chat", "--machine", "h100-sxm", "--tp", "2", "--kv-dtype", "fp8", "--json").stdout)
    narrow = json.loads(run("simulate", "chat", "--machine", "h100-sxm", "--json").stdout)
    assert wide["ttft_s"]["mean"] < narrow["ttft_s"]["mean"]
    assert run("simulate", "chat", "--tp", "2").returncode == 2  # an L4 server has one GPU


def test_several_values_are_compared_side_by_side() -> None:
    document = json.loads(run("simulate", "chat", "--machine", "l4,l40s", "--kv-dtype", "auto,fp8", "--json").stdout)
    assert document["names"] == ["l4 auto", "l4 fp8", "l40s auto", "l40s fp8"]
    table = json.loads(run("plan", "chat", "--machine", "h100-sxm,l40s", "--json").stdout)
    assert table["schema"] == "kvplan.plan-table/1"
    assert [row["name"] for row in table["rows"]] == ["h100-sxm", "l40s"]


def test_too_many_or_missing_values_are_refused() -> None:
    with pytest.raises(InputError, match="a value is missing"):
        grid.combinations({"machine": "l4,"})
    with pytest.raises(InputError, match="at most 64"):
        grid.combinations({"a": "1,2,3,4,5,6,7,8,9", "b": "1,2,3,4,5,6,7,8,9"})


def test_what_is_neither_file_nor_scenario_is_said() -> None:
    done = run("simulate", "chta")
    assert done.returncode == 2
    assert "no such file, and no scenario of that name" in done.stderr and "did you mean chat?" in done.stderr
