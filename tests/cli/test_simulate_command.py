"""`kvplan simulate` as a user meets it: bad input, hostile input, streams, exit codes, interrupts."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

import kvplan
from kvplan.cli.main import guarded, main, run

ROOT = Path(__file__).resolve().parents[2]
ROW = {"timestamp": 0, "input_length": 1000, "output_length": 10, "hash_ids": [1, 2]}


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run kvplan in this process; its exit code."""
    monkeypatch.setattr(sys, "argv", ["kvplan", *arguments])
    with pytest.raises(SystemExit) as stop:
        run()
    return int(stop.value.code or 0)


@pytest.fixture
def simulate(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Simulate with a model and a machine unless others are given: exit code, stdout, stderr."""

    def call(*arguments: str) -> tuple[int, str, str]:
        given = list(arguments)
        for option, value in (("--model", "llama-3.1-8b"), ("--machine", "h100-sxm"), ("--gpu-kv", "8GiB")):
            if option not in given:
                given += [option, value]
        code = command(monkeypatch, "simulate", *given)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def write(path: Path, *rows: dict[str, Any], ending: str = "\n") -> str:
    path.write_bytes("".join(json.dumps(row) + ending for row in rows).encode())
    return str(path)


@pytest.fixture
def trace(tmp_path: Path) -> str:
    return write(tmp_path / "trace.jsonl", *({**ROW, "timestamp": 500 * i, "hash_ids": [1, i + 10]} for i in range(20)))


BAD_LINES = {
    "cut off": (b'{"timestamp": 0, "input_le', "line 2"),
    "not JSON": (b"hello", "line 2"),
    "not UTF-8": (b'{"timestamp": 0, "input_length": 5, "output_length": 1, "session_id": "\xff\xfe"}', "line 2"),
    "negative length": (json.dumps({**ROW, "input_length": -1}).encode(), "line 2"),
    "fractional length": (json.dumps({**ROW, "input_length": 10.5}).encode(), "line 2"),
    "huge length": (json.dumps({**ROW, "input_length": 10**9}).encode(), "line 2"),
    "huge output": (json.dumps({**ROW, "output_length": 10**12}).encode(), "line 2"),
    "missing length": (b'{"timestamp": 0, "output_length": 1}', "line 2"),
    "missing time": (b'{"input_length": 10, "output_length": 1}', "line 2"),
    "a text for a number": (b'{"timestamp": 0, "input_length": "many", "output_length": 1}', "line 2"),
}


@pytest.mark.parametrize("what", BAD_LINES)
def test_a_bad_line_is_named(what: str, simulate: Any, tmp_path: Path) -> None:
    line, named = BAD_LINES[what]
    path = tmp_path / "bad.jsonl"
    path.write_bytes(json.dumps(ROW).encode() + b"\n" + line + b"\n")
    out_path = tmp_path / "rows.jsonl"
    code, out, err = simulate(str(path), "--requests-out", str(out_path), "--json")
    assert (code, out) == (2, "")
    assert named in err and "bad.jsonl" in err and "Traceback" not in err
    assert not list(tmp_path.glob("rows*"))


BAD_ARGUMENTS = {
    "unknown model": (["--model", "lama-3.1-8b"], "did you mean"),
    "unknown machine": (["--machine", "h10-sxm"], "did you mean"),
    "unknown engine": (["--engine", "vlm"], "vllm"),
    "unknown setting": (["--set", "machine.disk.raed_Bps=1GB/s"], "read_Bps"),
    "setting of nothing": (["--set", "disc.read_Bps=1"], "settings start with"),
    "setting without value": (["--set", "run.seed"], "path=value"),
    "wrong type": (["--set", "engine.max_batch=many"], "engine.max_batch"),
    "bare unit": (["--cpu", "128G"], "GiB"),
    "unknown unit": (["--cpu", "128GX"], "unit"),
    "zero capacity": (["--cpu", "0"], "above zero"),
    "negative capacity": (["--gpu-kv", "-5GiB"], "negative"),
    "capacity below a block": (["--gpu-kv", "1KiB"], "one block"),
    "disk without CPU": (["--disk", "1TiB"], "CPU tier"),
    "zero bandwidth": (["--cpu", "1GiB", "--set", "machine.link.h2d_Bps=0"], "machine.link.h2d_Bps"),
    "zero speedup": (["--speedup", "0"], "run.speedup"),
    "negative limit": (["--limit", "-3"], "limit"),
    "too many ranks": (["--set", "run.tp=99"], "GPU"),
    "no target": (["--target", "fast"], "metric_statistic"),
    "unknown time in a target": (["--target", "tftt_p95<2s"], "ttft"),
    "unknown statistic": (["--target", "ttft_p94<2s"], "p95"),
    "no unit of time": (["--target", "ttft_p95<2parsecs"], "unit of time"),
    "rows to a folder that is not": (["--requests-out", "/nowhere/rows.csv"], "does not exist"),
    "rows in an unknown format": (["--requests-out", "rows.xlsx"], ".parquet"),
    "unknown policy": (["--cpu", "1GiB", "--policy", "lruu"], "lru"),
}


@pytest.mark.parametrize("what", BAD_ARGUMENTS)
def test_a_bad_argument_is_one_sentence_and_a_remedy(what: str, simulate: Any, trace: str) -> None:
    arguments, named = BAD_ARGUMENTS[what]
    code, out, err = simulate(trace, *arguments)
    assert (code, out) == (2, "")
    assert named in err and "Traceback" not in err


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (None, "no such file"),
        (b"", "empty"),
        (b"\n \n", "empty"),
        (b'{"a": 1}\n', "not a trace"),
        (b"\x1f\x8bnope", "damaged"),
    ],
)
def test_a_file_that_is_no_trace(content: bytes | None, named: str, simulate: Any, tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    if content is not None:
        path.write_bytes(content)
    code, out, err = simulate(str(path))
    assert (code, out) == (2, "") and named in err and "Traceback" not in err


def test_an_unreadable_file(simulate: Any, tmp_path: Path) -> None:
    code, out, err = simulate(str(tmp_path))
    assert (code, out) == (2, "") and "Traceback" not in err


def test_line_endings_compression_and_a_late_start_do_not_matter(simulate: Any, tmp_path: Path) -> None:
    rows = [{**ROW, "timestamp": 1000 * i} for i in range(5)]
    text = "\n".join(json.dumps(row) for row in rows)
    late = "\n".join(json.dumps({**row, "timestamp": row["timestamp"] + 7_000_000}) for row in rows)
    (tmp_path / "a.jsonl").write_text(text + "\n")
    (tmp_path / "crlf.jsonl").write_bytes(text.replace("\n", "\r\n").encode())  # and no newline at the end
    (tmp_path / "gz.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "late.jsonl").write_text(late)
    answers = []
    for name in ("a.jsonl", "crlf.jsonl", "gz.jsonl.gz", "late.jsonl"):
        code, out, _ = simulate(str(tmp_path / name), "--json")
        assert code == 0
        answers.append(
            {key: value for key, value in json.loads(out).items() if key in ("ttft_s", "requests", "prompt_tokens", "duration_s")}
        )
    assert answers[1:] == answers[:1] * 3


def test_what_can_never_run_is_rejected_and_counted(simulate: Any, tmp_path: Path) -> None:
    rows = [
        ROW,
        {**ROW, "input_length": 200_000, "hash_ids": []},
        {**ROW, "input_length": 70_000, "hash_ids": []},
        {**ROW, "input_length": 10**8, "hash_ids": []},
    ]
    path = write(tmp_path / "long.jsonl", *rows)  # 8 GiB hold 65,536 tokens; the context ends at 131,072
    out_path = tmp_path / "rows.jsonl"
    code, out, _ = simulate(path, "--json", "--requests-out", str(out_path))
    document = json.loads(out)
    assert code == 0
    assert document["requests"] | {"preempted": 0} == {
        "total": 4,
        "completed": 1,
        "rejected": 3,
        "rejected_prompt_tokens": 100_270_000,
        "unfinished": 0,
        "preempted": 0,
    }
    assert any("rejected" in text for text in document["warnings"])
    assert [json.loads(line)["status"] for line in out_path.read_text().splitlines()] == [
        "completed",
        "rejected",
        "rejected",
        "rejected",
    ]
    assert "rejected 3 requests with 100,270,000 prompt tokens" in simulate(path)[1]


def test_all_requests_rejected_is_an_answer(simulate: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "long.jsonl", {**ROW, "input_length": 10**7, "hash_ids": []})
    code, out, _ = simulate(path, "--json")
    document = json.loads(out)
    assert (
        code == 1 and document["ttft_s"]["mean"] is None and document["requests"]["rejected"] == 1
    )  # nothing was served: the answer is no


def test_a_tier_of_one_block_finishes(simulate: Any, trace: str) -> None:
    code, out, _ = simulate(trace, "--cpu", "2MiB", "--disk", "2MiB", "--json")  # 16 tokens of 128 KiB
    assert code == 0 and json.loads(out)["requests"]["completed"] == 20


def test_the_same_scenario_and_seed_give_the_same_bytes(simulate: Any, trace: str) -> None:
    def answer(*more: str) -> dict[str, Any]:
        document = json.loads(simulate(trace, "--cpu", "1GiB", "--json", "--set", "run.jitter_s=0.3", *more)[1])
        return {key: value for key, value in document.items() if key not in ("wall_s", "provenance")}

    assert answer() == answer("--seed", "0")
    assert answer("--seed", "1")["duration_s"] != answer()["duration_s"]


def test_a_missed_target_exits_1_and_names_the_cause(simulate: Any, trace: str) -> None:
    assert simulate(trace, "--target", "ttft_p95<10min,itl_mean<10s")[0] == 0
    code, out, _ = simulate(trace, "--target", "ttft_p95<1ms", "--json")
    document = json.loads(out)
    assert code == 1
    assert document["targets"][0]["met"] is False and document["goodput"]["requests"] == 0
    assert "Largest cause: " in document["largest_cause"]


def test_python_answers_as_the_command_does(simulate: Any, trace: str) -> None:
    shown = json.loads(simulate(trace, "--cpu", "1GiB", "--limit", "9", "--max-input", "5000", "--json")[1])
    result = kvplan.simulate(
        trace, model="llama-3.1-8b", machine="h100-sxm", gpu_kv="8GiB", cpu="1GiB", limit=9, max_input=5000,
        sets={"run.seed": 0}, policy="lru",
    )  # fmt: skip
    document = msgspec.to_builtins(result)
    for part in ("requests", "ttft_s", "prompt_tokens", "tiers", "loads", "duration_s"):
        assert document[part] == shown[part]
    with pytest.raises(TypeError, match="spedup"):
        kvplan.simulate(trace, model="llama-3.1-8b", machine="h100-sxm", spedup=3)  # type: ignore[call-arg]


def test_rows_in_every_format_agree(simulate: Any, trace: str, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    for name in ("rows.jsonl", "rows.csv", "rows.parquet"):
        assert simulate(trace, "--requests-out", str(tmp_path / name))[0] == 0
    lines = pandas.read_json(tmp_path / "rows.jsonl", lines=True)
    pandas.testing.assert_frame_equal(lines, pandas.read_csv(tmp_path / "rows.csv"), check_dtype=False)
    pandas.testing.assert_frame_equal(lines, pandas.read_parquet(tmp_path / "rows.parquet"), check_dtype=False)
    assert list(lines.columns)[:4] == ["index", "arrival_s", "prompt_tokens", "output_tokens"]


@pytest.mark.parametrize("width", [40, 80])
def test_the_result_keeps_to_the_width(width: int, simulate: Any, trace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    code, out, err = simulate(trace, "--cpu", "64GiB", "-q", "--target", "ttft_p95<1ms")
    assert code == 1 and err == ""
    assert max(map(len, out.splitlines())) <= width
    assert "\x1b" not in out
    assert ("time to first token\n" in out) == (width < 60)


def interrupt(path: str, *arguments: str, after_s: float) -> tuple[int, str, str]:
    """Start the command, send SIGINT when it has run for a while."""
    model = ("--model", "llama-3.1-8b", "--machine", "h100-sxm", "--gpu-kv", "8GiB")
    process = subprocess.Popen(
        [sys.executable, "-m", "kvplan", "simulate", path, *model, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    time.sleep(after_s)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_an_interrupt_leaves_a_partial_result(tmp_path: Path) -> None:
    rows = ({"timestamp": 20 * i, "input_length": 3000, "output_length": 300, "hash_ids": [i % 7, 10 * i + 9]} for i in range(60_000))
    path = write(tmp_path / "long.jsonl", *rows)
    for after_s in (4.0, 8.0, 16.0):  # a busy machine may still be starting
        code, out, err = interrupt(path, "--json", "--requests-out", str(tmp_path / "rows.jsonl"), after_s=after_s)
        if out:
            break
    document = json.loads(out)
    assert code == 130 and "Traceback" not in err
    assert document["partial"] is True
    counted = document["requests"]
    assert 0 < counted["completed"] < counted["total"] == 60_000
    assert counted["completed"] + counted["unfinished"] + counted["rejected"] == counted["total"]
    written = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert sum(row["status"] == "completed" for row in written) == counted["completed"]


def test_max_users_answers_for_a_closed_loop_and_refuses_the_rest(simulate: Any, trace: str, tmp_path: Path) -> None:
    rows = [{"kvplan": "trace/1", "block_tokens": 16}]
    rows += [
        {"t": 0, "in": 160 + 320 * turn, "out": 16, "session": f"u{user}"} | ({"think": 1.0} if turn else {})
        for user in range(6)
        for turn in range(2)
    ]  # type: ignore[list-item]
    closed = write(tmp_path / "closed.jsonl", *rows)
    code, out, _ = simulate(closed, "--max-users", "--target", "ttft_p95<1h", "--json")
    found = json.loads(out)
    assert (code, found["schema"], found["users"], found["trace_users"]) == (0, "kvplan.users/1", 6, 6)
    code, out, _ = simulate(closed, "--max-users", "--target", "ttft_p95<1us")
    assert code == 1 and "holds no user within ttft_p95<1us" in out and "✗ missed" in out
    for arguments in ((closed, "--max-users"), (trace, "--max-users", "--target", "ttft_p95<1s"), (closed, closed, "--max-users")):
        code, out, err = simulate(*arguments)
        assert (code, out) == (2, "") and err.startswith("error: ") and "Traceback" not in err


def test_a_disk_without_a_bound_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(main, ["simulate", "chat", "--cpu", "8GiB", "--disk", "1TB", "-q"]) == 0
    (row,) = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("disk ")]
    assert row[1:5] == ["no", "bound", "16.9", "GiB"]


def test_a_tier_says_what_it_takes_of_the_host(capsys: pytest.CaptureFixture[str]) -> None:
    """torch rounds each of 32 pinned tensors up to a power of two: 10 GiB are 32 x 320 MiB, which take 32 x 512 MiB."""
    assert guarded(main, ["simulate", "short", "--limit", "5", "--cpu", "10GiB", "-q"]) == 0
    assert "the CPU tier asks 10.0 GiB, takes 16.0 GiB of host memory" in capsys.readouterr().out
    assert guarded(main, ["simulate", "short", "--limit", "5", "--cpu", "16GiB", "-q"]) == 0
    assert "the CPU tier asks" not in capsys.readouterr().out
