"""Collectives between the GPUs of this server: one process a GPU, NCCL through torch, timed in CUDA graphs as engines run them."""

from __future__ import annotations

import contextlib
import os
import socket
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.distributed as dist

from kvplan.calibrate.records import Finding, Point, Sample, Value

LONGEST_BYTES = 2**27
GRAPH_CALLS = 20
WAIT_S = 120.0  # for an answer: joining the group and the first capture take seconds


class Collectives:
    """Points named `collective`. The processes start with the first point and end with `close`."""

    def __init__(self, gpus: int, backend: str = "nccl") -> None:
        self.gpus, self.backend = gpus, backend
        self.pipes: list[Connection] = []
        self.processes: list[Any] = []

    def waived(self, point: Point) -> str:
        needed = point.number("gpus")
        return f"needs {needed} GPUs" if needed > self.gpus else ""

    def fresh(self, seed: int) -> None:
        """Buffers stay: what a collective takes does not depend on where they lie."""

    def measure(self, point: Point, samples: int) -> list[Sample]:
        if not self.pipes:
            self._start()
        for pipe in self.pipes:
            pipe.send((point.text("what"), point.number("gpus"), point.number("bytes"), samples))
        taken = []
        for pipe in self.pipes:
            if not pipe.poll(WAIT_S):
                self.close()
                raise RuntimeError("a process of the collectives does not answer")
            taken.append(pipe.recv())
        failed = next((answer for answer in taken if isinstance(answer, str)), "")
        if failed:
            raise RuntimeError(failed)
        return [Sample(seconds=max(each)) for each in zip(*[answer for answer in taken if answer], strict=True)]

    def _start(self) -> None:
        context = torch.multiprocessing.get_context("spawn")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        for rank in range(self.gpus):
            mine, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(rank, self.gpus, port, self.backend, theirs), daemon=True)
            process.start()
            self.pipes.append(mine)
            self.processes.append(process)

    def facts(self) -> dict[str, Value]:
        return {}

    def findings(self) -> list[Finding]:
        return []

    def close(self) -> None:
        for pipe in self.pipes:
            with contextlib.suppress(OSError):
                pipe.send(None)
        for process in self.processes:
            process.join(5)
            if process.is_alive():
                process.kill()
        self.pipes, self.processes = [], []


def _serve(rank: int, gpus: int, port: int, backend: str, pipe: Connection) -> None:
    """One rank: seconds of each sample, nothing where it is not of the group, or what went wrong."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    device = torch.device("cuda", rank) if backend == "nccl" else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(backend, rank=rank, world_size=gpus)
    groups = {count: dist.new_group(list(range(count))) for count in (2, 4, 8) if count <= gpus}
    here, there = (torch.zeros(LONGEST_BYTES // 2, dtype=torch.bfloat16, device=device) for _ in range(2))
    while (asked := pipe.recv()) is not None:
        what, count, size, samples = asked
        try:
            call = _CALLS[what](here, there, size // 2 // count * count, count, rank, groups[count]) if rank < count else None
            pipe.send([] if call is None else _timed(call, samples, groups[count], device))
        except RuntimeError as error:
            pipe.send(f"{type(error).__name__}: {error}")
    dist.destroy_process_group()


def _timed(call: Callable[[], Any], samples: int, group: Any, device: torch.device) -> list[float]:
    if device.type != "cuda":
        return [_wall(call, group) for _ in range(samples)]
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(GRAPH_CALLS):
            call()
    return [_replayed(graph, group) for _ in range(samples)]


def _replayed(graph: Any, group: Any) -> float:
    """Median of five replays, each begun together."""
    taken = []
    for _ in range(5):
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        dist.barrier(group)
        torch.cuda.synchronize()
        start.record()
        graph.replay()
        stop.record()
        torch.cuda.synchronize()
        taken.append(start.elapsed_time(stop) / 1e3 / GRAPH_CALLS)
    return statistics.median(taken)


def _wall(call: Callable[[], Any], group: Any) -> float:
    dist.barrier(group)
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _send(here: Any, _: Any, words: int, __: int, rank: int, group: Any) -> Callable[[], Any]:
    part = here[:words]
    return (lambda: dist.send(part, 1, group=group)) if rank == 0 else (lambda: dist.recv(part, 0, group=group))


_CALLS: dict[str, Callable[[Any, Any, int, int, int, Any], Callable[[], Any]]] = {
    "all_reduce": lambda a, _, n, __, ___, group: lambda: dist.all_reduce(a[:n], group=group),
    "all_gather": lambda a, b, n, of, _, group: lambda: dist.all_gather_into_tensor(b[:n], a[: n // of], group=group),
    "reduce_scatter": lambda a, b, n, of, _, group: lambda: dist.reduce_scatter_tensor(b[: n // of], a[:n], group=group),
    "all_to_all": lambda a, b, n, _, __, group: lambda: dist.all_to_all_single(b[:n], a[:n], group=group),
    "send": _send,
}
"""Operation -> what makes its call from two buffers, elements of the whole message, ranks, this rank and the group."""
