"""Disk to GPU: through pinned slots with reader threads, and through GPUDirect Storage where it is real."""

from __future__ import annotations

import os
import queue
import random
import threading
import time
from collections.abc import Callable

import torch

from kvplan.calibrate.measure.disk import DiskInstrument
from kvplan.calibrate.measure.gpu import Gpu, registered_noise
from kvplan.calibrate.measure.testfile import TestFile, check_stamps
from kvplan.calibrate.records import CheckError, Finding, Point, Sample, Value

WINDOW_S = 0.8
SLOTS_PER_READER = 2


class PipelineInstrument:
    """Points that need the disk's test file and a GPU."""

    def __init__(self, gpu: Gpu, disk: DiskInstrument) -> None:
        self.gpu, self.disk = gpu, disk
        self.points: dict[str, Callable[[Point], Sample]] = {"pipeline": self._staged, "gds": self._direct}

    def waived(self, point: Point) -> str:
        return _gds_missing() if point.op == "gds" else ""

    def fresh(self, seed: int) -> None:
        self.gpu.fresh(seed)

    def measure(self, point: Point, samples: int) -> list[Sample]:
        return [self.points[point.op](point)]

    def _staged(self, point: Point) -> Sample:
        """Readers fill pinned slots, the main thread copies them to the GPU; one operation is one chunk."""
        file, size, readers = self.disk.ready(), point.number("bytes"), point.number("threads")
        count = readers * SLOTS_PER_READER
        arena = registered_noise(self.gpu, size * count)
        slots = [arena[i * size : (i + 1) * size] for i in range(count)]
        target = torch.empty(size * count, dtype=torch.uint8, device=self.gpu.device)
        free: queue.Queue[int] = queue.Queue()
        full: queue.Queue[tuple[int, int]] = queue.Queue()
        for index in range(count):
            free.put(index)
        stop_at = time.perf_counter() + WINDOW_S
        threads = [threading.Thread(target=_reader, args=(file, size, slots, free, full, stop_at, i), daemon=True) for i in range(readers)]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        chunks, last = self._drain(full, free, slots, target, threads)
        torch.cuda.synchronize()
        elapsed = time.perf_counter() - began
        if last is not None:
            slot, offset = last
            check_stamps(target[slot * size : (slot + 1) * size].cpu().numpy(), file.seed, offset)
        return Sample(seconds=elapsed / chunks, notes={"Bps": chunks * size / elapsed})

    def _drain(
        self,
        full: queue.Queue[tuple[int, int]],
        free: queue.Queue[int],
        slots: list[torch.Tensor],
        target: torch.Tensor,
        threads: list[threading.Thread],
    ) -> tuple[int, tuple[int, int] | None]:
        size, chunks, last = slots[0].numel(), 0, None
        flying: list[tuple[torch.cuda.Event, int]] = []
        torch.cuda.set_stream(self.gpu.stream)
        while any(t.is_alive() for t in threads) or not full.empty():
            while flying and flying[0][0].query():
                free.put(flying.pop(0)[1])
            try:
                slot, offset = full.get(timeout=0.001)
            except queue.Empty:
                continue
            target[slot * size : (slot + 1) * size].copy_(slots[slot], non_blocking=True)
            event = torch.cuda.Event()
            event.record()
            flying.append((event, slot))
            chunks, last = chunks + 1, (slot, offset)
        if not chunks:
            raise CheckError("no chunk arrived")
        return chunks, last

    def _direct(self, point: Point) -> Sample:
        """cuFile reads straight into GPU memory."""
        from torch.cuda.gds import GdsFile

        file, size = self.disk.ready(), point.number("bytes")
        target = torch.empty(size, dtype=torch.uint8, device=self.gpu.device)
        handle = GdsFile(str(file.path), os.O_RDONLY | os.O_DIRECT)
        order = random.Random(size)
        count, began = 0, time.perf_counter()
        offset = 0
        while time.perf_counter() - began < WINDOW_S:
            offset = order.randrange(file.size // size) * size
            handle.load_storage(target.untyped_storage(), offset)
            count += 1
        elapsed = time.perf_counter() - began
        check_stamps(target.cpu().numpy(), file.seed, offset)
        return Sample(seconds=elapsed / count, notes={"Bps": count * size / elapsed})

    def facts(self) -> dict[str, Value]:
        return {}

    def findings(self) -> list[Finding]:
        return []

    def close(self) -> None:
        self.gpu.kept.clear()


def _reader(
    file: TestFile,
    size: int,
    slots: list[torch.Tensor],
    free: queue.Queue[int],
    full: queue.Queue[tuple[int, int]],
    stop_at: float,
    seed: int,
) -> None:
    descriptor, order = file.open(), random.Random(seed)
    try:
        while time.perf_counter() < stop_at:
            try:
                slot = free.get(timeout=0.01)
            except queue.Empty:
                continue
            offset = order.randrange(file.size // size) * size
            if os.preadv(descriptor, [memoryview(slots[slot].numpy())], offset) == size:
                full.put((slot, offset))
    finally:
        os.close(descriptor)


def _gds_missing() -> str:
    if not os.path.exists("/proc/driver/nvidia-fs/version"):
        return "the nvidia-fs driver is not loaded: cuFile would copy through host memory (D12)"
    if not hasattr(torch._C, "_gds_register_handle"):
        return "this torch has no cuFile bindings"
    return ""
