"""A sweep goes on where it stopped: after SIGKILL, Ctrl-C and a killed worker; and files that are no store of its own."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from kvplan.errors import InputError
from kvplan.executor import Executor
from kvplan.results.sweep import SweepResult
from kvplan.sweep import store
from kvplan.sweep.question import Options, question_of
from kvplan.sweep.sweep import sweep

ROOT = Path(__file__).resolve().parents[2]
VARIED = ("seed=1..12:+1", "cpu=4GiB,8GiB")
OPTIONS = Options(vary=VARIED, sets=("run.limit=40",))


def ask(file: Path | None, *, workers: int = 1, watch: object = None, vary: tuple[str, ...] = VARIED) -> SweepResult:
    question = question_of("chat", msgspec.structs.replace(OPTIONS, vary=vary))
    seen = watch or (lambda done, about, word: None)
    if file is None:
        return sweep(question, executor=Executor(workers=workers), watch=seen)  # type: ignore[arg-type]
    with store.opened(file) as kept:
        return sweep(question, executor=Executor(workers=workers), watch=seen, kept=kept)  # type: ignore[arg-type]


def started(file: Path) -> subprocess.Popen[str]:
    """A sweep in a process of its own, stopped nowhere: some of its runs are kept already."""
    varied = [word for text in VARIED for word in ("--vary", text)]
    line = [sys.executable, "-m", "kvplan", "sweep", "chat", *varied, "--limit", "40", "--workers", "1", "--db", str(file)]
    running = subprocess.Popen(line, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    log, until = Path(f"{file}-wal"), time.monotonic() + 60
    while not (log.exists() and log.stat().st_size > 50_000) and time.monotonic() < until and running.poll() is None:
        time.sleep(0.005)
    assert running.poll() is None
    return running


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_what_was_run_before_a_stop_is_not_run_again(tmp_path: Path, how: signal.Signals) -> None:
    file = tmp_path / "runs.sqlite"
    running = started(file)
    running.send_signal(how)
    _, words = running.communicate(timeout=60)
    assert running.returncode == (-signal.SIGKILL if how == signal.SIGKILL else 130)
    assert how == signal.SIGKILL or "the same command goes on from there" in words
    again = ask(file)
    assert again.known >= 1 and again.known + again.simulated == 24
    assert again.rows == ask(None).rows
    assert ask(file).simulated == 0


def test_a_killed_worker_costs_a_second_run_at_most(tmp_path: Path) -> None:
    killed = []

    def kill(done: int, about: int, word: str) -> None:
        if not killed:
            children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
            killed.append(next(int(one) for one in children if b"popen_loky" in Path(f"/proc/{one}/cmdline").read_bytes()))
            os.kill(killed[0], signal.SIGKILL)

    found = ask(tmp_path / "runs.sqlite", workers=2, watch=kill)
    assert killed and not found.failed and found.rows == ask(None).rows


def test_a_failure_is_kept_with_its_reason(tmp_path: Path) -> None:
    file = tmp_path / "runs.sqlite"
    vary = ("cpu=1B,8GiB",)
    first, again = ask(file, vary=vary), ask(file, vary=vary)
    assert (first.failed, first.simulated, again.simulated) == (1, 2, 0) and first.rows == again.rows
    [(key, reason)] = sqlite3.connect(file).execute("SELECT point, error FROM runs WHERE error IS NOT NULL")
    assert key == '{"cpu":"1B"}' and "holds less than one block" in reason


def test_two_sweeps_on_one_file(tmp_path: Path) -> None:
    file = tmp_path / "runs.sqlite"
    with store.opened(file), pytest.raises(InputError, match="another sweep is writing to it"), store.opened(file):
        pass
    with store.opened(file):  # the first has let go
        pass


def test_a_store_of_another_version_and_files_that_are_none(tmp_path: Path) -> None:
    file = tmp_path / "runs.sqlite"
    with store.opened(file):
        pass
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE meta SET value = '0.0.9+abc' WHERE name = 'version'")
    connection.close()
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE mine (value TEXT)")
    connection.close()
    text = tmp_path / "notes.txt"
    text.write_text("not a database, but text of some length " * 40)
    words = {file: "holds runs of kvplan 0.0.9", other: "not of a sweep", text: "not a database", tmp_path: "is a folder"}
    for path, word in words.items():
        with pytest.raises(InputError, match=word), store.opened(path):
            pass
    assert text.read_text().startswith("not a database, but")


def test_a_trace_that_changes_is_run_again(tmp_path: Path) -> None:
    trace, file = tmp_path / "a.jsonl", tmp_path / "runs.sqlite"
    chat = (ROOT / "scenarios" / "chat.jsonl").read_text().splitlines(keepends=True)
    simulated = []
    for rows in (10, 10, 11):
        trace.write_text("".join(chat[:rows]))
        simulated.append(ask(file, vary=(f"trace={trace}",)).simulated)
    assert simulated == [1, 0, 1]
