"""What only looks like a disk is caught: each impostor here is a real one."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvplan.calibrate.measure import storage
from kvplan.calibrate.measure.disk import DiskInstrument
from kvplan.calibrate.measure.testfile import PAGE, TestFile, buffer
from kvplan.calibrate.records import CheckError, point
from kvplan.errors import InputError
from kvplan.units import MiB

SIZE = 64 * MiB


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder on a file system that is no impostor itself."""
    refused = storage.check_filesystem(tmp_path)
    if refused:
        pytest.skip(f"the folder of this test is itself no disk: {refused.text}")
    return tmp_path


@pytest.fixture
def disk(folder: Path) -> Iterator[DiskInstrument]:
    instrument = DiskInstrument(folder, SIZE, seed=1)
    instrument.fresh(1)
    yield instrument
    instrument.close()


def test_tmpfs_is_refused_although_it_takes_direct_reads(tmp_path: Path) -> None:
    memory = Path("/dev/shm")
    if not memory.is_dir() or storage.filesystem(memory) != "tmpfs":
        if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "none", tmp_path]).returncode:
            pytest.skip("no tmpfs here, and none can be mounted")
        memory = tmp_path
    finding = storage.check_filesystem(memory)
    assert finding is not None
    assert (finding.code, finding.level) == ("D01", "refuse")
    with pytest.raises(InputError, match="D01"):
        DiskInstrument(memory, SIZE, seed=1)


def test_overlay_is_refused(folder: Path) -> None:
    if os.geteuid():
        pytest.skip("mounting an overlay needs root")
    lower, upper, work, merged = (folder / name for name in ("lower", "upper", "work", "merged"))
    for path in (lower, upper, work, merged):
        path.mkdir()
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    mounted = subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, merged], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no overlay can be mounted: {mounted.stderr.strip()}")
    try:
        with pytest.raises(InputError, match="D02"):
            DiskInstrument(merged, SIZE, seed=1)
    finally:
        subprocess.run(["umount", merged], check=True)


def test_a_sparse_file_is_refused(folder: Path) -> None:
    path = folder / "sparse"
    with path.open("wb") as file:
        file.truncate(SIZE)
    assert _written(path) == 0.0
    assert _refusal(path) == "D04"


def test_an_allocated_but_unwritten_file_is_refused(folder: Path) -> None:
    """Its blocks are counted by stat, so that only SEEK_DATA tells."""
    path = folder / "allocated"
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, SIZE)
    assert path.stat().st_blocks * 512 >= SIZE
    if _written(path) == 1.0:
        pytest.skip("this file system writes what fallocate asks for")
    assert _refusal(path) == "D04"


def test_a_written_file_is_accepted(disk: DiskInstrument) -> None:
    assert _written(disk.ready().path) == 1.0
    assert _refusal(disk.ready().path) == ""


def test_half_a_hole_is_seen(folder: Path) -> None:
    path = folder / "half"
    with path.open("wb") as file:
        file.write(os.urandom(4 * MiB))
        file.truncate(8 * MiB)
    assert _written(path) == pytest.approx(0.5)


def _written(path: Path) -> float:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return storage.written_share(descriptor)
    finally:
        os.close(descriptor)


def _refusal(path: Path) -> str:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        finding = storage.check_written(descriptor, path)
    finally:
        os.close(descriptor)
    return finding.code if finding else ""


def _counts_reads() -> None:
    if storage.read_bytes() is None:
        pytest.skip("this kernel does not count a process's reads")


def test_reads_from_the_page_cache_are_discarded(disk: DiskInstrument, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same probe through buffered descriptors on a cached file: the byte counters stand still."""
    _counts_reads()
    file = disk.ready()
    file.path.read_bytes()
    monkeypatch.setattr(TestFile, "open", lambda self, **_: os.open(self.path, os.O_RDONLY))
    monkeypatch.setattr("kvplan.calibrate.measure.disk.WINDOW_S", 0.05)
    with pytest.raises(CheckError, match="D05"):
        disk.measure(point("disk_read", bytes=MiB, threads=1, pages="huge"), 1)
    assert any(finding.code == "D05" for finding in disk.findings())


def test_direct_reads_come_from_the_device(disk: DiskInstrument, monkeypatch: pytest.MonkeyPatch) -> None:
    _counts_reads()
    monkeypatch.setattr("kvplan.calibrate.measure.disk.WINDOW_S", 0.05)
    sample = disk.measure(point("disk_read", bytes=MiB, threads=2, pages="huge"), 1)[0]
    assert sample.notes["counted_ratio"] == pytest.approx(1.0, abs=0.05)
    assert sample.notes["Bps"] * sample.seconds == pytest.approx(MiB)


def test_content_that_is_not_what_was_written_is_an_error(disk: DiskInstrument, monkeypatch: pytest.MonkeyPatch) -> None:
    file = disk.ready()
    with file.path.open("r+b") as raw:
        raw.write(b"\0" * file.size)
    monkeypatch.setattr("kvplan.calibrate.measure.disk.WINDOW_S", 0.02)
    with pytest.raises(CheckError, match="D06"):
        disk.measure(point("disk_read", bytes=MiB, threads=1, pages="huge"), 1)


def test_writes_keep_the_stamps(disk: DiskInstrument, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvplan.calibrate.measure.disk.WINDOW_S", 0.02)
    disk.measure(point("disk_write", bytes=MiB, threads=2, pages="huge"), 1)
    disk.measure(point("disk_read", bytes=MiB, threads=2, pages="huge"), 1)


@pytest.mark.parametrize(("requested", "counted", "level"), [(100, 94, "discard"), (100, 111, "warning")])
def test_byte_counters_at_their_limits(requested: int, counted: int, level: str) -> None:
    finding = storage.check_counted(requested, counted)
    assert finding is not None
    assert finding.level == level
    assert storage.check_counted(requested, 95) is None
    assert storage.check_counted(requested, 110) is None


def test_a_step_down_is_a_burst() -> None:
    rates = [3e9] * 20 + [0.6e9] * 20
    finding = storage.check_sustained(rates, 0.25)
    assert finding is not None
    # The first 20 slices of 0.25 s at 3 GB/s are 15 GB.
    assert finding.code == "D10"
    assert "after 15 GB" in finding.text
    assert storage.check_sustained([3e9] * 40, 0.25) is None


def test_rereading_much_faster_is_a_cache_below() -> None:
    assert storage.check_reread(1e9, 1.29e9) is None
    finding = storage.check_reread(1e9, 2e9)
    assert finding is not None
    assert finding.code == "D09"


def test_a_limit_of_the_control_group_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = os.stat(tmp_path).st_dev
    (tmp_path / "io.max").write_text(f"{os.major(device)}:{os.minor(device)} rbps=104857600 wbps=max riops=max wiops=max\n")
    monkeypatch.setattr(storage, "_control_group", lambda controller: None if controller else tmp_path)
    assert storage.read_limit_Bps(tmp_path) == 104857600
    finding = storage.check_limit(tmp_path)
    assert finding is not None
    assert (finding.code, "104.9 MB/s" in finding.text) == ("D08", True)


def test_split_requests_are_noticed() -> None:
    assert storage.check_split(4 * MiB, 3 * MiB) is None
    finding = storage.check_split(4 * MiB, MiB)
    assert finding is not None
    assert finding.code == "D11"


def test_buffers_are_aligned_as_huge_pages_need() -> None:
    import numpy as np

    for huge in (True, False):
        memory = buffer(3 * PAGE, huge=huge)
        assert len(memory) == 3 * PAGE
        assert np.frombuffer(memory, dtype=np.uint8).ctypes.data % (2 * MiB) == 0
