"""`kvplan sweep` as a user meets it: exit codes, streams, files."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from kvplan.cli.main import guarded, main

FEW = ["chat", "--limit", "30", "--workers", "1"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_one_document_a_table_and_runs_that_are_kept(cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "grid.csv"
    line = ["sweep", *FEW, "--vary", "cpu=0,8GiB", "--json", "--export", str(table)]
    assert guarded(main, line) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["schema"] == "kvplan.sweep/1" and first["simulated"] == 2 and len(first["rows"]) == 2
    rows = list(csv.DictReader(table.open()))
    assert [row["cpu"] for row in rows] == ["0", "8GiB"] and float(rows[0]["ttft_s.p95"]) > float(rows[1]["ttft_s.p95"]) > 0
    assert guarded(main, line) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["known"] == 2 and "2 runs were there already" in captured.err
    assert len(list((cache / "kvplan" / "sweeps").glob("chat-*.sqlite"))) == 1


def test_nothing_is_kept_when_asked_so(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(main, ["sweep", *FEW, "--vary", "cpu=0", "--db", "none", "-q"]) == 0
    assert not cache.exists() and "TTFT" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--vary", "cpu=0", "--goal", "min cpu: ttft_p95<1ms"], 1, "no point meets it"),
        (["--vary", "cpu=0", "--target", "ttft_p95<1ms"], 1, "✗"),
        (["--vary", "cpu=0,8GiB", "--goal", "min cpu: ttft_p95<60s"], 0, "✓"),
        (["--vary", "cpu=8..1GiB:x2"], 2, "the range is empty"),
        (["--vary", "cpu=0", "--address", "tcp://10.0.0.1:8786"], 2, "loky is this machine"),
        (["--vary", "cpu=0", "--backend", "spark"], 2, "no such backend"),
        (["--vary", "cpu=0", "--day", "1,2"], 2, "add --fleet"),
        (["--vary", "cpu=0", "--goal", "min cost"], 2, "cost needs prices"),
    ],
)
def test_exit_codes_and_sentences(words: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(main, ["sweep", *FEW, *words]) == code
    captured = capsys.readouterr()
    assert said in captured.out + captured.err and "Traceback" not in captured.err


def test_a_fleet_with_its_prices(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--fleet", "--tp", "1", "--vary", "replicas=1,2", "--vary", "cpu=0", "--target", "ttft_p95<9s", "--price", "gpu=2"]
    assert guarded(main, ["sweep", *FEW, *words, "--day", "0.5,1"]) == 0
    shown = capsys.readouterr().out
    assert "✓ min cost: ttft_p95<9s" not in shown  # the target is the question's, the goal the least cost
    assert "replicas by the day's shape: 0.5: 1, 1: 1" in shown and "1,461" in shown
