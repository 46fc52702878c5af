"""Clocks for GPU work. Each times `repeats` operations of a trial and returns seconds for one.

`spin` holds the stream on a spin kernel until everything is enqueued, so that what is timed is the device and not the
host (nvbandwidth does the same); `graph` replays a captured graph; `alone` times one operation on an idle stream;
`wall` is the host's clock around operations and a wait.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from kvplan.calibrate.records import Sample

GRAPH_BELOW_S = 0.05  # above this the host's share no longer matters: neither a graph nor a spin kernel is worth its time


@dataclass
class Trial:
    """An operation ready to run: `enqueue(i)` starts the i-th repetition on the current stream.

    `beside(gate, seconds)` starts, on another stream and behind the event `gate`, what must run for at least
    `seconds` at the same time;
    `check` raises CheckError when the result is wrong; `limit` bounds the repetitions of one sample.
    """

    enqueue: Callable[[int], Any]
    clock: str = "spin"
    beside: Callable[[Any, float], None] | None = None
    check: Callable[[], None] | None = None
    limit: int = 512


class Guard:
    """Spin kernels of a wished length, calibrated once against events."""

    def __init__(self) -> None:
        torch.cuda._sleep(1000)
        start, stop = _events()
        start.record()
        torch.cuda._sleep(20_000_000)
        stop.record()
        torch.cuda.synchronize()
        self.cycles_per_s = 20_000_000 / (start.elapsed_time(stop) / 1e3)

    def hold(self, seconds: float) -> None:
        """Keep the current stream busy for about `seconds`."""
        torch.cuda._sleep(int(seconds * self.cycles_per_s))


def _events() -> tuple[Any, Any]:
    return torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)


def spin_seconds(guard: Guard, trial: Trial, repeats: int, expected_s: float = 0.0) -> Sample:
    """Device time of operations enqueued behind a spin kernel; `host_limited` is set when the host was too slow even
    then.
    """
    began = time.perf_counter()
    for index in range(min(repeats, 8)):
        trial.enqueue(index)
    per_call = (time.perf_counter() - began) / min(repeats, 8)
    torch.cuda.synchronize()
    hold = max(100e-6, 1.5 * per_call * repeats + 50e-6)
    for _ in range(3):
        gate, (start, stop) = torch.cuda.Event(), _events()
        guard.hold(hold)
        gate.record()
        if trial.beside:
            trial.beside(gate, 1.5 * expected_s)
        start.record()
        for index in range(repeats):
            trial.enqueue(index)
        late = start.query()  # the spin ended before the last call was enqueued
        stop.record()
        torch.cuda.synchronize()
        if not late:
            break
        hold = min(4 * hold, 0.2)
    return Sample(seconds=start.elapsed_time(stop) / 1e3 / repeats, notes={"host_limited": 1.0} if late else {})


def graph_seconds(guard: Guard, trial: Trial, repeats: int) -> Sample:
    """Device time of one repetition inside a CUDA graph of `repeats`."""
    return time_graph(guard, capture(trial.enqueue, repeats), repeats)


def capture(enqueue: Callable[[int], Any], repeats: int) -> Any:
    """A CUDA graph of `repeats` operations. The current stream must not be the default one.

    `torch.cuda.graph` would empty the allocator's cache at every capture, which costs more than what is timed.
    """
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    graph.capture_begin(capture_error_mode="thread_local")
    try:
        for index in range(repeats):
            enqueue(index)
    finally:
        graph.capture_end()
    return graph


def time_graph(guard: Guard, graph: Any, repeats: int) -> Sample:
    """Seconds for one of the operations in a captured graph."""
    start, stop = _events()
    guard.hold(100e-6)
    start.record()
    graph.replay()
    stop.record()
    torch.cuda.synchronize()
    return Sample(seconds=start.elapsed_time(stop) / 1e3 / repeats)


def alone_seconds(_: Guard, trial: Trial, repeats: int) -> Sample:
    """Device time of one operation on an idle stream, the host's call included: what a single copy costs when
    nothing is queued.
    """
    spans = []
    for index in range(max(repeats, 5)):
        start, stop = _events()
        torch.cuda.synchronize()
        start.record()
        trial.enqueue(index)
        stop.record()
        torch.cuda.synchronize()
        spans.append(start.elapsed_time(stop) / 1e3)
    return Sample(seconds=statistics.median(spans))


def wall_seconds(_: Guard, trial: Trial, repeats: int) -> Sample:
    """The host's time for operations and the wait for them: what a caller that waits sees."""
    torch.cuda.synchronize()
    began = time.perf_counter()
    for index in range(repeats):
        trial.enqueue(index)
    torch.cuda.synchronize()
    return Sample(seconds=(time.perf_counter() - began) / repeats)


_HOST_CLOCKS = {"wall": wall_seconds, "alone": alone_seconds}


def take(guard: Guard, trial: Trial, samples: int, window_s: float) -> list[Sample]:
    """Warm up, choose the repetitions that fill `window_s`, and take samples."""
    trial.enqueue(0)
    torch.cuda.synchronize()
    once = min(wall_seconds(guard, trial, 1).seconds for _ in range(2 if samples > 1 else 1))
    if once > GRAPH_BELOW_S and not trial.beside:
        return [wall_seconds(guard, trial, 1) for _ in range(samples)]
    if trial.clock in _HOST_CLOCKS:
        repeats = _repeats(once, window_s, trial.limit)
        return [_HOST_CLOCKS[trial.clock](guard, trial, repeats) for _ in range(samples)]
    if trial.clock == "graph":
        quick = _repeats(once, window_s, min(16, trial.limit))
        once = min(once, graph_seconds(guard, trial, quick).seconds)
        repeats = _repeats(once, window_s, trial.limit)
        graph = capture(trial.enqueue, repeats)
        time_graph(guard, graph, repeats)
        taken = [time_graph(guard, graph, repeats) for _ in range(samples)]
        graph.reset()
        return taken
    once = min(once, spin_seconds(guard, trial, _repeats(once, window_s, 8), once).seconds)
    repeats = _repeats(once, window_s, trial.limit)
    return [spin_seconds(guard, trial, repeats, once * repeats) for _ in range(samples)]


def _repeats(once_s: float, window_s: float, limit: int) -> int:
    return max(1, min(limit, -(-int(window_s * 1e9) // max(1, int(once_s * 1e9)))))
