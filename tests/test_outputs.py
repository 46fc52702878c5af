"""Files are written whole or not at all, through links and into pipes, and never over what is read."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from kvplan import outputs
from kvplan.errors import KvplanError

ROOT = Path(__file__).resolve().parents[1]


def kvplan(*words: str, **settings: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kvplan", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, **settings)  # type: ignore[call-overload]


def test_a_link_is_followed_and_keeps_its_target(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_text("old")
    real.chmod(0o640)
    link.symlink_to(real)
    outputs.write(link, b"new")
    assert link.is_symlink() and real.read_text() == "new"
    assert real.stat().st_mode & 0o777 == 0o640


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    outputs.write(pipe, b"through")
    reader.join(5)
    assert read == [b"through"] and not pipe.is_file()


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("old")
    with pytest.raises(RuntimeError), outputs.whole(file) as stream:
        stream.write(b"half")
        raise RuntimeError
    assert file.read_text() == "old" and [one.name for one in tmp_path.iterdir()] == ["file"]


def test_what_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    (tmp_path / "same").symlink_to(file)
    for path, said in (
        (tmp_path, "is a folder"),
        (tmp_path / "no" / "x", "does not exist"),
        (file / "x", "does not exist"),
        (tmp_path / "same", "is what is read"),
    ):
        with pytest.raises(KvplanError, match=said):
            outputs.write(path, b"y", sources=[file])
    assert file.read_text() == "x"


def test_the_commands_destroy_nothing(tmp_path: Path) -> None:
    trace = tmp_path / "same.jsonl"
    trace.write_bytes((ROOT / "scenarios/chat.jsonl").read_bytes())
    before = trace.read_bytes()
    done = kvplan("trace", "convert", str(trace), str(trace), "--to", "azure")
    assert done.returncode == 2 and "is what is read" in done.stderr
    assert trace.read_bytes() == before
    shown = kvplan("trace", "convert", str(trace), "-", "--limit", "3")
    assert shown.returncode == 0 and len(shown.stdout.splitlines()) == 4 and not (ROOT / "-").exists()
    assert "(overwritten)" not in kvplan("trace", "convert", str(trace), str(tmp_path / "b.jsonl")).stderr
    assert "(overwritten)" in kvplan("trace", "convert", str(trace), str(tmp_path / "b.jsonl")).stderr


@pytest.mark.parametrize("words", [("size", "llama-3.1-8b"), ("simulate", "chat"), ("trace", "inspect", "scenarios/chat.jsonl")])
def test_a_full_disk_behind_stdout_is_a_sentence(words: tuple[str, ...]) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "kvplan", *words], stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT, check=False
        )
    assert done.returncode == 3 and "no space left" in done.stderr and "Traceback" not in done.stderr


def test_a_full_disk_behind_rows_keeps_the_result(tmp_path: Path) -> None:
    command = f"ulimit -f 8; {sys.executable} -m kvplan simulate chat --requests-out {tmp_path}/o.jsonl"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 3 and "time to first token" in done.stdout
    assert "Traceback" not in done.stderr and not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [("simulate", "chat"), ("simulate", "chat", "--target", "ttft_p95<1ms")])
def test_a_closed_pipe_is_quiet_and_keeps_the_exit_code(words: tuple[str, ...]) -> None:
    whole = kvplan(*words).returncode
    command = f"set -o pipefail; {sys.executable} -m kvplan {' '.join(words)} | head -1 >/dev/null"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (whole, False)
