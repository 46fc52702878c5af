"""`kvplan plan` as a user runs it: exit codes, streams, the JSON document."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.public import needs, public

ROOT = Path(__file__).resolve().parents[2]
CONVERSATION = public("traces/mooncake_conversation.jsonl")


def kvplan(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kvplan", "plan", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=300)


def test_an_advice_exits_0_and_is_one_json_document() -> None:
    done = kvplan("chat", "--json", "--emit", "vllm")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["schema"] == "kvplan.plan/1"
    assert document["verdict"]["kind"] == "offload"
    assert document["simulated"] >= len(document["options"])
    assert document["gain"]["lo"] > 0
    assert "--kv-offloading-size" in document["emission"]["parts"][0]["text"]
    assert {one["name"] for one in document["assumptions"]} >= {"reuse in the traffic", "prefill speed of the GPU"}


def test_the_same_question_gets_the_same_answer() -> None:
    assert kvplan("chat", "--json").stdout == kvplan("chat", "--json").stdout


def test_no_and_a_missed_target_exit_1() -> None:
    assert kvplan("short").returncode == 1
    missed = kvplan("chat", "--target", "ttft_mean<1ms")
    assert missed.returncode == 1
    assert "the target is missed" in " ".join(missed.stdout.split())


def test_files_that_cannot_be_written_lose_no_answer(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = kvplan("chat", "--emit", "vllm", "--output", str(tmp_path / "file" / "folder"))
    assert done.returncode == 2
    assert "Offload to CPU" in done.stdout
    assert "Traceback" not in done.stderr


def test_a_trace_of_lengths_cannot_say_and_names_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "azure.csv"
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,4808,10\n")
    done = kvplan(str(path), "--model", "llama-3.1-8b", "--machine", "l4")
    assert done.returncode == 1
    assert "Cannot say" in done.stdout
    assert "missing hashes" in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("nothere.jsonl", "--model", "llama-3.1-8b", "--machine", "l4"),
        ("chat", "--target", "ttft<2"),
        ("chat", "--target", "cost"),
        ("chat", "--price", "gpu=free"),
        ("chat", "--max-cpu", "16G"),
        ("chat", "--emit", "vlm"),
        ("chat", "--sessions", "users=3"),
        ("idle-users", "--model", "llama-3.1-405b"),
        ("--explain-config", "nothere.yaml"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_2(arguments: tuple[str, ...]) -> None:
    done = kvplan(*arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.startswith("error:")
    assert "Traceback" not in done.stderr
    assert not done.stdout


def test_what_is_emitted_is_explained(tmp_path: Path) -> None:
    planned = json.loads(kvplan("chat", "--json", "--emit", "vllm").stdout)
    text = planned["emission"]["parts"][0]["text"]
    path = tmp_path / "serve.sh"
    path.write_text(text)
    done = kvplan("--explain-config", str(path), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["placement"]["cpu_bytes"] == planned["placement"]["cpu_bytes"]


def test_numbers_alone_are_enough() -> None:
    sessions = "users=12,turns=6,input=600,output=200,think=40s,shared=1k"
    done = kvplan("--sessions", sessions, "--model", "llama-3.1-8b", "--machine", "l4", "--json")
    assert done.returncode in (0, 1), done.stderr
    assert json.loads(done.stdout)["traffic"]["requests"] > 50


@pytest.mark.slow
@needs("traces/mooncake_conversation.jsonl")
def test_a_day_in_the_life_of_the_conversation_trace() -> None:
    done = kvplan(str(CONVERSATION), "--model", "llama-3.1-8b", "--machine", "h100-sxm", "--allow-wear", "--json")  # the disk wears out
    document = json.loads(done.stdout)
    assert document["objective"] == "throughput"  # 3.4 requests a second are more than one such GPU serves
    assert document["overload"] > 1.2
    assert document["verdict"]["kind"] == "offload"


def test_least_cost_takes_the_cheapest_tier_that_meets_the_limits() -> None:
    asked = ("idle-users", "--target", "cost,ttft_p95<2s", "--price", "gpu=2.5,cpu=0.004,disk=0.0001", "--json")
    document = json.loads(kvplan(*asked).stdout)
    meeting = [one for one in document["options"] if not one["missed"] and one["placement"]["kv_dtype"] == "auto"]
    assert document["without"]["missed"] == ["ttft_p95"]
    assert document["verdict"]["kind"] == "offload"
    assert document["chosen"]["cost_per_hour"] == min(one["cost_per_hour"] for one in meeting)
    # 2.5 for the GPU and 0.004 for each GiB of the tier: 48 GiB are 2.692 an hour.
    assert document["chosen"]["cost_per_hour"] == pytest.approx(2.5 + 0.004 * document["chosen"]["placement"]["cpu_bytes"] / 2**30)
