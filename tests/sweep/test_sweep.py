"""A sweep's rows are the simulations that `kvplan simulate` makes, in the order of the grid."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

import kvplan
from kvplan.errors import InputError
from kvplan.executor import Executor
from kvplan.results.sweep import SweepResult
from kvplan.sweep.question import Options, question_of
from kvplan.sweep.sweep import sweep

FEW = "run.limit=30"


def ask(source: str = "chat", *vary: str, workers: int = 1, sets: tuple[str, ...] = (FEW,), **named: str) -> SweepResult:
    question = question_of(source, Options(vary=vary, sets=sets, named=dict(named)))
    return sweep(question, executor=Executor(workers=workers), watch=lambda done, about, word: None)


def test_a_row_is_the_run_of_its_point() -> None:
    found = ask("chat", "cpu=0,8GiB", "speedup=1,4")
    assert [row.point for row in found.rows][1:3] == [{"cpu": "0", "speedup": "4"}, {"cpu": "8GiB", "speedup": "1"}]
    alone = kvplan.simulate("chat", cpu="8GiB", speedup=4, limit=30)
    assert found.rows[3].result == msgspec.structs.replace(alone, name="cpu=8GiB speedup=4", provenance={})
    assert found.simulated == 4 and not found.failed


def test_processes_give_the_same_bytes_as_one() -> None:
    assert msgspec.json.encode(ask("chat", "cpu=0,4..16GiB:x2")) == msgspec.json.encode(ask("chat", "cpu=0,4..16GiB:x2", workers=2))


def test_a_point_that_cannot_be_is_a_row_with_its_reason() -> None:
    found = ask("chat", "tp=1,16", "cpu=8GiB,1B")
    assert [bool(row.result) for row in found.rows] == [True, False, False, False]
    assert "holds less than one block" in found.rows[1].error and "l4 has 1 GPU" in found.rows[2].error
    assert found.failed == 3 and found.to_frame()["error"].notna().sum() == 3


def test_names_are_varied_and_pools_derived_alike() -> None:
    found = ask("chat", "machine=l4,l40s", engine="vllm,sglang")
    assert [row.point["engine"] for row in found.rows] == ["vllm", "sglang"] * 2
    pools = {row.point["machine"]: row.result.tiers[0].capacity_bytes for row in found.rows if row.result}
    assert pools["l40s"] > 5 * pools["l4"]


def test_a_trace_is_varied(tmp_path: Path) -> None:
    chat = Path(kvplan.scenario_of("chat").trace)
    short = tmp_path / "short.jsonl"
    short.write_text("".join(chat.read_text().splitlines(keepends=True)[:11]))
    found = ask("chat", f"trace={chat},{short}")
    assert [row.result.requests.total for row in found.rows if row.result] == [30, 11]


def test_a_file_says_what_to_vary(tmp_path: Path) -> None:
    file = tmp_path / "map.toml"
    file.write_text('scenario = "chat"\nset = { "run.limit" = 30 }\n[vary]\ncpu = [0, "8GiB"]\nspeedup = "1..2:x2"\n')
    assert ask(str(file), sets=()).rows == ask("chat", "cpu=0,8GiB", "speedup=1..2:x2").rows
    assert len(ask(str(file), "cpu=0").rows) == 2  # options lie over the file


@pytest.mark.parametrize(
    ("source", "vary", "words"),
    [
        ("chat", (), "what is to be varied"),
        ("chta", ("cpu=0",), "no such file, and no scenario"),
        ("chat", ("cpy=0",), "not a setting"),
        ("chat", ("machine.disk.reed_Bps=1GB/s",), "not a setting"),
        ("chat", ("machine=l4,h100-sxn",), "no machine named"),
        ("chat", ("cpu=1furlong",), "unknown unit"),
        ("chat", ("cpu=4,8GiB",), "of which unit"),
        ("chat", ("tp=16,32",), "l4 has 1 GPU"),
        ("chat", ("trace=no.jsonl",), "no.jsonl"),
    ],
)
def test_what_cannot_be_asked_is_said_before_the_work(source: str, vary: tuple[str, ...], words: str) -> None:
    with pytest.raises(InputError, match=words):
        ask(source, *vary)


def test_a_file_with_a_wrong_word_is_said(tmp_path: Path) -> None:
    file = tmp_path / "map.toml"
    file.write_text('scenario = "chat"\nzipp = true\n[vary]\ncpu = "0,8GiB"\n')
    with pytest.raises(InputError, match="zipp"):
        ask(str(file))
