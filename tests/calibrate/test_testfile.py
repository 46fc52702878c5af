"""The test file takes little, and goes away however the run ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from kvplan.calibrate.measure.testfile import FILL, TestFile, buffer, check_stamps, stamp
from kvplan.errors import InputError, MissingError
from kvplan.units import GiB, MiB

ROOT = Path(__file__).resolve().parents[2]


def _space(free: int) -> SimpleNamespace:
    return SimpleNamespace(f_bavail=free // 4096, f_frsize=4096, f_bsize=4096)


def test_it_takes_a_quarter_of_the_free_space_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _: _space(4 * GiB))
    file = TestFile(tmp_path, 32 * GiB, seed=1)
    file.close()
    assert file.size == GiB


def test_too_little_space_is_refused_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _: _space(255 * MiB))  # a quarter is 63.75 MiB
    with pytest.raises(InputError, match="needs 64 MiB"):
        TestFile(tmp_path, GiB, seed=1)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        TestFile(tmp_path / "none", GiB, seed=1)


def test_a_file_system_without_direct_reads_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = TestFile(tmp_path, 64 * MiB, seed=1)

    def refuse(*_: object) -> int:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(MissingError, match="D03"):
        file.open()
    monkeypatch.undo()
    file.close()


def test_close_removes_it(tmp_path: Path) -> None:
    file = TestFile(tmp_path, 64 * MiB, seed=1)
    assert file.path.exists()
    file.close()
    assert list(tmp_path.iterdir()) == []


SCRIPT = """
import sys, time
from pathlib import Path
from kvplan.calibrate.measure.testfile import TestFile
file = TestFile(Path(sys.argv[1]), 64 << 20, seed=1)
print("made", flush=True)
if sys.argv[2] == "error":
    raise RuntimeError("boom")
time.sleep(60)
"""


@pytest.mark.parametrize("end", ["error", signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_it_goes_away_on_errors_and_signals(tmp_path: Path, end: str | signal.Signals) -> None:
    how = end if isinstance(end, str) else "signal"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path), how],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "made\n"
    if isinstance(end, signal.Signals):
        assert len(list(tmp_path.iterdir())) == 1
        time.sleep(0.05)
        process.send_signal(end)
    assert process.wait(timeout=20) != 0
    assert list(tmp_path.iterdir()) == []


def test_stamps_tell_seed_and_place() -> None:
    from kvplan.calibrate.records import CheckError

    memory = buffer(FILL, huge=False)
    stamp(memory, 7, 3 * FILL)
    check_stamps(memory, 7, 3 * FILL)
    for seed, offset in ((8, 3 * FILL), (7, 2 * FILL)):
        with pytest.raises(CheckError, match="D06"):
            check_stamps(memory, seed, offset)


def test_one_wrong_page_is_found() -> None:
    from kvplan.calibrate.records import CheckError

    memory = buffer(FILL, huge=False)
    stamp(memory, 7, 0)
    memory[5 * 4096] ^= 1
    with pytest.raises(CheckError, match="page at 20480"):
        check_stamps(memory, 7, 0)
