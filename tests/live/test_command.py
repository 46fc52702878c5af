"""The command `kvplan validate`: exit codes, contract, interrupts, sentences."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from kvplan.results.validate import ValidateResult
from kvplan.traces.write import convert
from tests.live.test_validate import BLOCK, MACHINE, requests


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("live") / "trace.jsonl"
    convert(requests(), path, block_tokens=BLOCK, name="trace")
    return path


ROOT = Path(__file__).resolve().parents[2]


def command(*arguments: str, key: str = "") -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "KVPLAN_API_KEY": key}
    return subprocess.Popen(
        [sys.executable, "-m", "kvplan", "validate", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def test_the_command_answers_with_the_contract(server: str, trace: Path) -> None:
    done = command(f"{server}/law/v1/", str(trace), "--machine", MACHINE, "--json", "--tolerance", "90%")
    out, err = done.communicate(timeout=60)
    assert done.returncode in (0, 1, 3), err  # 3: this machine was too busy for a verdict
    result = msgspec.json.decode(out, type=ValidateResult)
    assert result.schema == "kvplan.validate/1"
    assert result.endpoint == f"{server}/law"
    assert result.client.send_lag_s.p99 is not None and result.client.read_lag_s.max is not None
    assert "stops after 5 failures" in err


def test_an_interrupt_keeps_what_was_measured(server: str, trace: Path) -> None:
    running = command(f"{server}/law", str(trace), "--machine", MACHINE, "--json", "--speedup", "0.15")
    assert running.stderr is not None
    with contextlib.suppress(StopIteration):
        next(line for line in running.stderr if line.startswith("sends "))
    time.sleep(2.5)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 130, err
    result = msgspec.json.decode(out, type=ValidateResult)
    assert 1 <= result.requests.completed < 12
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["localhost:8000"], 2, "is not an address"),
        (["http://127.0.0.1:9", "TRACE", "--machine", MACHINE], 2, "is the server up"),
        (["http://127.0.0.1:9", "TRACE", "--machine", MACHINE], 2, "nothing answers there (connection refused)"),
        (["http://127.0.0.1:9", "TRACE", "--tolerance", "200%"], 2, "between 0 and 100 %"),
        (["LOCKED", "TRACE", "--machine", MACHINE], 2, "refuses the key"),
    ],
)
def test_what_cannot_work_is_said_in_a_sentence(server: str, trace: Path, arguments: list[str], code: int, said: str) -> None:
    named = {"TRACE": str(trace), "LOCKED": f"{server}/locked", "LAW": f"{server}/law"}
    done = command(*(named.get(word, word) for word in arguments), key="wr0ng-key")
    out, err = done.communicate(timeout=60)
    assert done.returncode == code, err
    assert said in err and "Traceback" not in err
    assert "wr0ng-key" not in out + err
