"""The disk as an instrument: direct reads and writes by threads, each with its own descriptor and buffer."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from kvplan.calibrate.measure import storage
from kvplan.calibrate.measure.testfile import TestFile, buffer, check_stamps, stamp
from kvplan.calibrate.records import CheckError, Finding, Point, Sample, Value
from kvplan.errors import InputError
from kvplan.units import MiB

WINDOW_S = 0.4
RAMP_S = 0.1
SLICE_S = 0.25


class Worker:
    """One thread's descriptor, buffer and tally: (time of completion, bytes) of each operation."""

    def __init__(self, file: TestFile, point: Point, *, write: bool, memory: Any, seed: int) -> None:
        self.file, self.write, self.memory = file, write, memory
        self.block = point.number("bytes")
        self.slots = file.size // self.block
        self.random = random.Random(seed)
        self.descriptor = file.open(write=write)
        self.done: list[tuple[float, float]] = []
        self.last = 0

    def run(self, stop_at: float) -> None:
        """Operate until the clock passes `stop_at`; keeps start and end of every operation."""
        view = memoryview(self.memory)
        while (began := time.perf_counter()) < stop_at:
            offset = self.random.randrange(self.slots) * self.block
            if self.write:
                stamp(self.memory, self.file.seed, offset)
                count = os.pwrite(self.descriptor, view, offset)
            else:
                count = os.preadv(self.descriptor, [view], offset)
            if count != self.block:
                raise OSError(f"{count} of {self.block} bytes at {offset}")
            self.last = offset
            self.done.append((began, time.perf_counter()))

    def close(self) -> None:
        os.close(self.descriptor)


class DiskInstrument:
    """All disk points. `pinned(size)` makes page-locked buffers when a GPU is at hand."""

    def __init__(self, folder: Path, size: int, *, seed: int, pinned: Callable[[int], Any] | None = None) -> None:
        refused = storage.check_filesystem(folder) if folder.is_dir() else None
        if refused:
            raise InputError(f"--disk-path {refused.text} ({refused.code})", hint="give a folder on a local disk")
        self.folder, self.wanted, self.seed, self.pinned = folder, size, seed, pinned
        self.file: TestFile | None = None
        self.buffers: dict[tuple[int, str], list[Any]] = {}
        self.noticed: list[Finding] = []
        self.requests: dict[int, float] = {}
        self.fill_Bps = 0.0
        self.flush_s: list[float] = []
        self.points: dict[str, Callable[[Point, int], list[Sample]]] = {
            "disk_read": self._reads,
            "disk_write": self._writes,
            "disk_mixed": self._mixed,
            "disk_sustained": self._sustained,
            "disk_again": self._again,
        }

    def waived(self, point: Point) -> str:
        if point.text("pages") == "pinned" and self.pinned is None:
            return "pinned buffers need a GPU"
        return "" if point.op in self.points else "not a measurement of a disk"

    def ready(self) -> TestFile:
        """The test file, made and filled at first use."""
        if self.file is None:
            self.file = TestFile(self.folder, self.wanted, seed=self.seed)
            began = time.perf_counter()
            self.file.fill()
            self.fill_Bps = self.file.size / (time.perf_counter() - began)
            self.file.drop_cache()
            limit = storage.check_limit(self.folder)
            self.noticed += [*self.file.checks(), *([limit] if limit else [])]
            refused = [f for f in self.noticed if f.level == "refuse"]
            if refused:
                raise InputError(f"{refused[0].text} ({refused[0].code})")
        return self.file

    def fresh(self, seed: int) -> None:
        self.buffers.clear()
        self.seed_of_block = seed

    def measure(self, point: Point, samples: int) -> list[Sample]:
        return self.points[point.op](point, samples)

    def _memory(self, point: Point, count: int) -> list[Any]:
        size, pages = point.number("bytes"), point.text("pages")
        made = self.buffers.setdefault((size, pages), [])
        while len(made) < count:
            made.append(self.pinned(size) if pages == "pinned" and self.pinned else buffer(size, huge=pages == "huge"))
        return made[:count]

    def _workers(self, point: Point, writers: int) -> list[Worker]:
        file, count = self.ready(), point.number("threads")
        memories = self._memory(point, count)
        if writers:
            content = np.random.default_rng(self.seed_of_block).integers(0, 2**63, point.number("bytes") // 8)
            for memory in memories[:writers]:
                np.frombuffer(memory, dtype=np.int64)[:] = content
        return [Worker(file, point, write=i < writers, memory=memories[i], seed=self.seed_of_block + i) for i in range(count)]

    def _window(self, workers: list[Worker], window_s: float) -> tuple[float, float]:
        """Run all workers for a ramp and a window; returns the window's start and end."""
        for worker in workers:
            worker.done.clear()
        start = time.perf_counter() + RAMP_S
        failures: list[BaseException] = []

        def run(worker: Worker) -> None:
            try:
                worker.run(start + window_s)
            except (OSError, ValueError) as error:
                failures.append(error)

        threads = [threading.Thread(target=run, args=(worker,), daemon=True) for worker in workers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise OSError(str(failures[0]))
        return start, start + window_s

    def _timed(self, point: Point, workers: list[Worker], window_s: float) -> Sample:
        """One window: seconds for one block at the rate of all workers together, latency, and whether the device did
        the work.
        """
        counted, device = storage.read_bytes(), storage.disk_requests(storage.block_device(self.folder))
        start, end = self._window(workers, window_s)
        notes = _tally(workers, start, end)
        readers = [w for w in workers if not w.write]
        requested = sum(len(w.done) for w in readers) * point.number("bytes")
        if counted is not None and requested:
            notes["counted_ratio"] = ((storage.read_bytes() or 0) - counted) / requested
            finding = storage.check_counted(requested, int(notes["counted_ratio"] * requested))
            if finding and finding.level == "discard":
                self.noticed.append(finding)
                raise CheckError(f"{finding.code}: {finding.text}")
        after = storage.disk_requests(storage.block_device(self.folder))
        if device and after and after[0] > device[0] and readers:
            notes["request_bytes"] = 512 * (after[1] - device[1]) / (after[0] - device[0])
        for worker in readers:
            check_stamps(worker.memory, worker.file.seed, worker.last)
        return Sample(seconds=point.number("bytes") / notes["Bps"], notes=notes)

    def _reads(self, point: Point, samples: int) -> list[Sample]:
        workers = self._workers(point, 0)
        try:
            taken = [self._timed(point, workers, WINDOW_S) for _ in range(_windows(samples))]
        finally:
            _close(workers)
        if taken[-1].notes.get("request_bytes") and point.text("pages") != "small":
            self.requests[point.number("bytes")] = taken[-1].notes["request_bytes"]
        return taken

    def _writes(self, point: Point, samples: int) -> list[Sample]:
        workers = self._workers(point, point.number("threads"))
        try:
            taken = [self._timed(point, workers, WINDOW_S) for _ in range(_windows(samples))]
            began = time.perf_counter()
            os.fdatasync(workers[0].descriptor)
            flush = time.perf_counter() - began
            self.flush_s.append(flush)
        finally:
            _close(workers)
        return [Sample(seconds=s.seconds, notes={**s.notes, "flush_s": flush}) for s in taken]

    def _mixed(self, point: Point, samples: int) -> list[Sample]:
        """Half of the threads write. The estimate is the readers'; the writers' rate is in the notes."""
        workers = self._workers(point, point.number("threads") // 2)
        try:
            taken = []
            for _ in range(_windows(samples)):
                start, end = self._window(workers, WINDOW_S)
                reads = _tally([w for w in workers if not w.write], start, end)
                writes = _tally([w for w in workers if w.write], start, end)
                notes = {"Bps": reads["Bps"], "write_Bps": writes["Bps"]}
                taken.append(Sample(seconds=point.number("bytes") / reads["Bps"], notes=notes))
        finally:
            _close(workers)
        return taken

    def _sustained(self, point: Point, _: int) -> list[Sample]:
        """One long window, cut into slices, to tell a burst from what lasts."""
        write = point.text("what") == "write"
        workers = self._workers(point, point.number("threads") if write else 0)
        try:
            start, end = self._window(workers, float(point.params["span_s"]))
        finally:
            _close(workers)
        ends = sorted(finish for w in workers for _, finish in w.done if start < finish <= end)
        edges = np.arange(start, end + 1e-9, SLICE_S)
        slices = [float(n) * point.number("bytes") / SLICE_S for n in np.histogram(ends, edges)[0]]
        finding = storage.check_sustained(slices, SLICE_S)
        if finding:
            self.noticed.append(finding)
        quarter = max(1, len(slices) // 4)
        notes = {"Bps": float(np.mean(slices)), "burst_Bps": float(np.mean(slices[:quarter]))}
        notes["sustained_Bps"] = float(np.mean(slices[-quarter:]))
        return [Sample(seconds=point.number("bytes") / notes["sustained_Bps"], notes=notes)]

    def _again(self, point: Point, _: int) -> list[Sample]:
        """One span three times: what a cache behind the device answers is no disk's figure."""
        file, size = self.ready(), min(point.number("bytes"), self.ready().size)
        descriptor, memory = file.open(), buffer(4 * MiB, huge=True)
        try:
            passes = []
            for _ in range(3):
                began = time.perf_counter()
                for offset in range(0, size, 4 * MiB):
                    os.preadv(descriptor, [memory], offset)
                passes.append(time.perf_counter() - began)
        finally:
            os.close(descriptor)
        finding = storage.check_reread(size / passes[0], size / min(passes[1:]))
        if finding:
            self.noticed.append(finding)
        return [Sample(seconds=min(passes[1:]) * point.number("bytes") / size, notes={"first_s": passes[0]})]

    def facts(self) -> dict[str, Value]:
        return storage.facts(self.folder)

    def _writes_unflushed(self) -> list[Finding]:
        """D14: a virtual disk takes gigabytes and has nothing left to flush; its host may hold them in memory."""
        if not self.flush_s or max(self.flush_s) > 2e-3 or not storage.facts(self.folder)["disk_virtual"]:
            return []
        text = "the virtual disk has nothing to flush after writes: its write figures may be those of its host's memory."
        self.flush_s.clear()
        return [Finding(code="D14", level="warning", text=text)]

    def findings(self) -> list[Finding]:
        split = [storage.check_split(size, seen) for size, seen in self.requests.items() if size >= 64 * 1024]
        found = {f.code: f for f in [*self.noticed, *(f for f in split if f), *self._writes_unflushed()]}
        self.noticed, self.requests = [], {}
        return list(found.values())

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
            self.file = None


def _windows(samples: int) -> int:
    """Windows are long already: one a block is enough but for a run of few blocks."""
    return max(1, samples // 3)


def _close(workers: list[Worker]) -> None:
    for worker in workers:
        worker.close()


def _tally(workers: list[Worker], start: float, end: float) -> dict[str, float]:
    """Rate and latency within [start, end]; an operation across an edge counts with the part inside."""
    spans = [span for worker in workers for span in worker.done if span[1] > start and span[0] < end]
    if not spans:
        raise OSError("no operation finished within the window")
    array = np.array(spans)
    long = array[:, 1] - array[:, 0]
    inside = np.clip(np.minimum(array[:, 1], end) - np.maximum(array[:, 0], start), 0, None) / long
    rate = float(inside.sum()) * workers[0].block / (end - start)
    return {"Bps": rate, "latency_p50_s": float(np.median(long)), "latency_p99_s": float(np.quantile(long, 0.99))}
