"""The disk test file: random content with a stamp in every page, removed however the run ends."""

from __future__ import annotations

import atexit
import contextlib
import mmap
import os
import signal
import tempfile
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from kvplan.calibrate.measure.storage import check_filesystem, check_written
from kvplan.calibrate.records import ContentError, Finding
from kvplan.errors import InputError, MissingError
from kvplan.units import MiB, format_bytes

PAGE = 4096
HUGE = 2 * MiB
FILL = 8 * MiB
_open_paths: set[Path] = set()


def buffer(size: int, *, huge: bool) -> memoryview:
    """Private anonymous memory, touched and aligned to 2 MiB; on 2 MiB pages when `huge` and the kernel has them,
    never otherwise.

    A mapping of less than two huge pages may hold none, so that more is mapped than is given.
    """
    memory = mmap.mmap(-1, -(-size // HUGE) * HUGE + HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):
        memory.madvise(mmap.MADV_HUGEPAGE if huge else mmap.MADV_NOHUGEPAGE)
    start = -np.frombuffer(memory, dtype=np.uint8).ctypes.data % HUGE
    given = memoryview(memory)[start : start + size]
    np.frombuffer(given, dtype=np.uint8)[::PAGE] = 1
    return given


def stamp(memory: Any, seed: int, offset: int) -> None:
    """Write seed and page number into the first 16 bytes of every page."""
    pages = np.frombuffer(memory, dtype=np.uint64).reshape(-1, PAGE // 8)
    pages[:, 0] = seed
    pages[:, 1] = np.arange(offset // PAGE, offset // PAGE + len(pages), dtype=np.uint64)


def check_stamps(memory: Any, seed: int, offset: int) -> None:
    """Raises ContentError (D06) when a page of what was read carries another seed or page number."""
    pages = np.frombuffer(memory, dtype=np.uint64).reshape(-1, PAGE // 8)
    numbers = np.arange(offset // PAGE, offset // PAGE + len(pages), dtype=np.uint64)
    wrong = np.flatnonzero((pages[:, 0] != seed) | (pages[:, 1] != numbers))
    if len(wrong):
        raise ContentError(f"D06: the page at {offset + int(wrong[0]) * PAGE} does not hold what was written there")


class TestFile:
    """A file of `size` bytes in `folder`, filled through O_DIRECT and removed on close, on exit and on signals."""

    __test__ = False  # not a test case, whatever its name

    def __init__(self, folder: Path, size: int, *, seed: int) -> None:
        self.folder, self.seed = folder, seed
        self.size = _allowed(folder, size)
        _remove_on_signals()
        descriptor, name = tempfile.mkstemp(prefix="kvplan-calibrate-", suffix=".tmp", dir=folder)
        os.close(descriptor)
        self.path = Path(name)
        _open_paths.add(self.path)

    def open(self, *, direct: bool = True, write: bool = False) -> int:
        """A new descriptor. Raises MissingError (D03) when the file system refuses O_DIRECT."""
        flags = (os.O_RDWR if write else os.O_RDONLY) | (os.O_DIRECT if direct else 0)
        try:
            return os.open(self.path, flags)
        except OSError as error:
            raise MissingError(
                f"{self.folder}: this file system refuses direct reads (D03: {error.strerror})",
                hint="give --disk-path a folder on a local ext4 or xfs volume",
            ) from None

    def fill(self) -> None:
        """Write all of it with random, stamped content and wait until the device has it."""
        memory = buffer(FILL, huge=True)
        content = np.random.default_rng(self.seed).integers(0, 2**63, FILL // 8, dtype=np.uint64)
        np.frombuffer(memory, dtype=np.uint64)[:] = content
        descriptor = self.open(write=True)
        try:
            for offset in range(0, self.size, FILL):
                stamp(memory, self.seed, offset)
                done = os.pwrite(descriptor, memory, offset)
                if done != FILL:
                    raise MissingError(f"{self.path}: wrote {done} of {FILL} bytes at {offset}: is the disk full?")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def checks(self) -> list[Finding]:
        """What is wrong with the folder or the file as a subject of measurement."""
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            found = [check_filesystem(self.folder), check_written(descriptor, self.path)]
        finally:
            os.close(descriptor)
        return [finding for finding in found if finding]

    def drop_cache(self) -> None:
        """Ask the kernel to forget this file's cached pages: its own only, nothing of the system's."""
        descriptor = os.open(self.path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)

    def close(self) -> None:
        """Remove the file."""
        self.path.unlink(missing_ok=True)
        _open_paths.discard(self.path)


def _allowed(folder: Path, size: int) -> int:
    """At most a quarter of the free space, a whole number of fill blocks.

    Raises InputError when that is too little to measure with.
    """
    if not folder.is_dir():
        raise InputError(f"--disk-path {folder}: no such folder")
    if not os.access(folder, os.W_OK):
        raise InputError(f"--disk-path {folder}: not writable")
    space = os.statvfs(folder)
    allowed = min(size, space.f_bavail * space.f_frsize // 4) // FILL * FILL
    if allowed < 64 * MiB:
        free = format_bytes(space.f_bavail * space.f_frsize)
        raise InputError(
            f"--disk-path {folder}: {free} free; the test takes a quarter and needs 64 MiB of it",
            hint="give a folder on a volume with more space",
        )
    return allowed


def _remove_all() -> None:
    for path in list(_open_paths):
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        _open_paths.discard(path)


def _remove_on_signals() -> None:
    """Termination and hang-up remove the file as well; an interrupt arrives as an exception and is cleaned up on the
    way out.
    """
    atexit.register(_remove_all)
    for number in (signal.SIGTERM, signal.SIGHUP):
        with contextlib.suppress(ValueError):  # not the main thread
            if signal.getsignal(number) == signal.SIG_DFL:
                signal.signal(number, _on_signal)


def _on_signal(number: int, _: FrameType | None) -> None:
    _remove_all()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
