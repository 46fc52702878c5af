"""Copies between host and GPU: contiguous, scattered, both ways at once, beside compute, from each NUMA node, to all
GPUs.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable
from typing import Any

import torch

from kvplan.calibrate.measure import facts as inventory
from kvplan.calibrate.measure.gpu import Gpu, Registered, registered_noise
from kvplan.calibrate.measure.timing import Trial
from kvplan.calibrate.records import ContentError, Point
from kvplan.units import GiB, KiB, MiB

_POISON = 0xA5


def waived(gpu: Gpu, point: Point) -> str:
    """Why a point cannot be measured on this GPU; empty when it can."""
    if point.op == "scatter" and point.text("path") == "batch" and _batch_copy() is None:
        return "cudaMemcpyBatchAsync with the CUDA 13 interface is not in this CUDA runtime"
    if point.op == "hbm" and 2 * point.number("bytes") > gpu.free_bytes():
        return "too little free GPU memory"
    return ""


def _device_arena(gpu: Gpu) -> torch.Tensor:
    return gpu.keep("device arena", lambda: gpu.noise(GiB))


def _host_arena(gpu: Gpu, memory: str) -> torch.Tensor:
    if memory == "huge":
        return registered_noise(gpu, GiB)
    if memory == "pageable":
        return gpu.keep("pageable", lambda: gpu.noise(256 * MiB).cpu())
    return gpu.keep("pinned", lambda: gpu.pinned(GiB))


def _compare(gpu: Gpu, source: torch.Tensor, target: torch.Tensor, what: str) -> None:
    """A random window of 64 KiB must have arrived, and no poison be left in it."""
    size = min(64 * KiB, source.numel())
    start = int(torch.randint(0, source.numel() - size + 1, (1,)).item())
    if not torch.equal(source[start : start + size].cpu(), target[start : start + size].cpu()):
        raise ContentError(f"G06: {what}: bytes {start}..{start + size} did not arrive")


def _windows(arena: torch.Tensor, size: int) -> list[torch.Tensor]:
    """Up to 64 disjoint windows spread over an arena, so that a small copy does not find its data in a cache."""
    count = max(1, min(64, arena.numel() // size))
    stride = arena.numel() // count // 4096 * 4096 or size
    return [arena[i * stride : i * stride + size] for i in range(count)]


def _pair(gpu: Gpu, direction: str, host: torch.Tensor, size: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    hosts, devices = _windows(host, size), _windows(_device_arena(gpu), size)
    count = min(len(hosts), len(devices))
    hosts, devices = hosts[:count], devices[:count]
    return (devices, hosts) if direction == "h2d" else (hosts, devices)


def _copier(targets: list[torch.Tensor], sources: list[torch.Tensor]) -> Callable[[int], Any]:
    count = len(targets)
    return lambda index: targets[index % count].copy_(sources[index % count], non_blocking=True)


def _checked(gpu: Gpu, targets: list[torch.Tensor], sources: list[torch.Tensor], what: str) -> Callable[[], None]:
    """Poison one target, copy once more, compare.

    (The arenas exchange contents, so earlier equality proves nothing.)
    """

    def check() -> None:
        targets[0].fill_(_POISON)
        torch.cuda.synchronize()
        targets[0].copy_(sources[0], non_blocking=True)
        torch.cuda.synchronize()
        _compare(gpu, sources[0], targets[0], what)

    return check


def contiguous(gpu: Gpu, point: Point) -> Trial:
    """One copy of `bytes` in a row of copies, or `alone` on an idle stream.

    Pageable copies block the host, so their time is the host's.
    """
    memory, direction = point.text("memory"), point.text("direction")
    targets, sources = _pair(gpu, direction, _host_arena(gpu, memory), point.number("bytes"))
    clock = {"pageable": "wall", "alone": "alone"}.get(memory, "spin")
    return Trial(_copier(targets, sources), clock=clock, check=_checked(gpu, targets, sources, point.key), limit=64)


def duplex(gpu: Gpu, point: Point) -> Trial:
    """A copy while the other direction is busy: the other copies run for at least 1.5 times as long."""
    size, direction = point.number("bytes"), point.text("direction")
    half = GiB // 2
    host, device = _host_arena(gpu, "pinned"), _device_arena(gpu)
    mine = _windows(host[:half], size), _windows(device[:half], size)
    theirs = _windows(host[half:], 64 * MiB), _windows(device[half:], 64 * MiB)
    if direction == "h2d":
        enqueue, opposite = _copier(mine[1], mine[0]), _copier(*theirs)
    else:
        enqueue, opposite = _copier(*mine), _copier(theirs[1], theirs[0])
    return Trial(enqueue, beside=_endless(gpu, opposite, 64 * MiB / 25e9), limit=64)


def _endless(gpu: Gpu, enqueue: Callable[[int], Any], least_s: float) -> Callable[[Any, float], None]:
    """Work on the second stream that outlasts the asked seconds twofold when one call takes at least `least_s`."""

    def beside(gate: Any, seconds: float) -> None:
        with torch.cuda.stream(gpu.other):
            gate.wait()
            for index in range(2 + int(2 * seconds / least_s)):
                enqueue(index)

    return beside


def overlap(gpu: Gpu, point: Point) -> Trial:
    """One kind of work while another runs beside it on a second stream."""
    work: dict[str, Callable[[], tuple[Callable[[int], Any], float]]] = {
        "gemm": lambda: (_gemm_work(gpu), 0.6e-3),
        "hbm_read": lambda: (_read_work(gpu), 0.25e-3),
        "h2d": lambda: (_copier(*_pair(gpu, "h2d", _host_arena(gpu, "pinned"), 64 * MiB)), 1.1e-3),
        "d2h": lambda: (_copier(*_pair(gpu, "d2h", _host_arena(gpu, "pinned"), 64 * MiB)), 1.1e-3),
        "both": lambda: (_both_work(gpu), 1.1e-3),
    }
    enqueue, _ = work[point.text("measured")]()
    if point.text("beside") == "none":
        return Trial(enqueue, limit=32)
    other, least_s = work[point.text("beside")]()
    return Trial(enqueue, beside=_endless(gpu, other, least_s), limit=32)


def _gemm_work(gpu: Gpu) -> Callable[[int], Any]:
    x, w, y = gpu.keep("overlap gemm", lambda: (gpu.normal(4096, 4096), gpu.normal(14336, 4096), gpu.normal(4096, 14336)))
    return lambda _: torch.mm(x, w.t(), out=y)


def _read_work(gpu: Gpu) -> Callable[[int], Any]:
    data = _device_arena(gpu).view(torch.float32)
    return lambda _: torch.sum(data)


def _both_work(gpu: Gpu) -> Callable[[int], Any]:
    third = gpu.keep("third stream", torch.cuda.Stream)
    host, device = _host_arena(gpu, "pinned"), _device_arena(gpu)
    half = GiB // 2
    down = _copier(_windows(host[half:], 64 * MiB), _windows(device[half:], 64 * MiB))
    up = _copier(_windows(device[:half], 64 * MiB), _windows(host[:half], 64 * MiB))

    def enqueue(index: int) -> None:
        here = torch.cuda.current_stream()
        third.wait_stream(here)
        up(index)
        with torch.cuda.stream(third):
            down(index)
        here.wait_stream(third)

    return enqueue


def pin(gpu: Gpu, point: Point) -> Trial:
    """Page-locking: torch's allocator, or memory touched first and then registered. One operation is one allocation."""
    size, how = point.number("bytes"), point.text("how")
    if how == "torch":

        def allocate(_: int) -> None:
            torch._C._host_emptyCache()
            torch.empty(size, dtype=torch.uint8, pin_memory=True)
            torch._C._host_emptyCache()

        return Trial(allocate, clock="wall", limit=1)

    def register(_: int) -> None:
        Registered(size, huge=how == "register_huge").lock()

    return Trial(register, clock="wall", limit=1)


class _Location(ctypes.Structure):
    _fields_ = [("type", ctypes.c_int), ("id", ctypes.c_int)]


class _Attributes(ctypes.Structure):
    """cudaMemcpyAttributes of CUDA 13 (driver_types.h)."""

    _fields_ = [("order", ctypes.c_int), ("source", _Location), ("target", _Location), ("flags", ctypes.c_uint)]


def _batch_copy() -> Any:
    """cudaMemcpyBatchAsync(dsts, srcs, sizes, count, attributes, attribute indexes, count of attributes, stream), or
    None.
    """
    if torch.version.cuda is None or int(torch.version.cuda.split(".")[0]) < 13:
        return None
    try:
        return ctypes.CDLL("libcudart.so.13").cudaMemcpyBatchAsync
    except (OSError, AttributeError):
        return None


def scattered(gpu: Gpu, point: Point) -> Trial:
    """`pieces` pieces of `bytes` between random places on both sides; one operation moves all of them."""
    size, count, direction = point.number("bytes"), point.number("pieces"), point.text("direction")
    slots = GiB // size
    host = _host_arena(gpu, "pinned")[: slots * size].view(slots, size)
    device = _device_arena(gpu)[: slots * size].view(slots, size)
    order = torch.Generator().manual_seed(size + count)
    there = torch.randperm(slots, generator=order)[:count]
    here = torch.randperm(slots, generator=order)[:count]
    target, source = (device, host) if direction == "h2d" else (host, device)
    return _PATHS[point.text("path")](gpu, target, there, source, here)


def _loop(gpu: Gpu, target: torch.Tensor, there: torch.Tensor, source: torch.Tensor, here: torch.Tensor) -> Trial:
    pairs = [(target[t], source[s]) for t, s in zip(there.tolist(), here.tolist(), strict=True)]

    def enqueue(_: int) -> None:
        for one_target, one_source in pairs:
            one_target.copy_(one_source, non_blocking=True)

    # A stream takes about a thousand pending calls: from there on no spin kernel can hide the host, and the host is
    # what a caller waits for.
    clock = "spin" if len(pairs) < 512 else "wall"
    return Trial(enqueue, clock=clock, limit=4, check=_scatter_check(enqueue, target, there, source, here))


def _batch(gpu: Gpu, target: torch.Tensor, there: torch.Tensor, source: torch.Tensor, here: torch.Tensor) -> Trial:
    size, count = source.shape[1], len(here)
    copy = _batch_copy()
    targets = (ctypes.c_void_p * count)(*(target.data_ptr() + int(i) * size for i in there))
    sources = (ctypes.c_void_p * count)(*(source.data_ptr() + int(i) * size for i in here))
    sizes = (ctypes.c_size_t * count)(*([size] * count))
    attributes = _Attributes(order=1)  # cudaMemcpySrcAccessOrderStream
    first = ctypes.c_size_t(0)

    def enqueue(_: int) -> None:
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        many, one = ctypes.c_size_t(count), ctypes.c_size_t(1)
        code = copy(targets, sources, sizes, many, ctypes.byref(attributes), ctypes.byref(first), one, stream)
        if code:
            raise RuntimeError(f"cudaMemcpyBatchAsync failed with code {code}")

    return Trial(enqueue, limit=4, check=_scatter_check(enqueue, target, there, source, here))


def _gather(gpu: Gpu, target: torch.Tensor, there: torch.Tensor, source: torch.Tensor, here: torch.Tensor) -> Trial:
    """Gather on the GPU and copy once, or copy once and scatter on the GPU; the host side is contiguous."""
    count, size = len(here), source.shape[1]
    staging = torch.empty(count, size, dtype=torch.uint8, device=gpu.device)
    words = staging.view(torch.int64)
    if target.is_cuda:
        index, packed, pages = there.to(gpu.device), source[:count], target.view(torch.int64)

        def enqueue(_: int) -> None:
            staging.copy_(packed, non_blocking=True)
            pages.index_copy_(0, index, words)

        return Trial(enqueue, limit=16, check=_scatter_check(enqueue, target, there, source, torch.arange(count)))
    index, packed, pages = here.to(gpu.device), target[:count], source.view(torch.int64)

    def enqueue_down(_: int) -> None:
        torch.index_select(pages, 0, index, out=words)
        packed.copy_(staging, non_blocking=True)

    return Trial(enqueue_down, limit=16, check=_scatter_check(enqueue_down, target, torch.arange(count), source, here))


_PATHS: dict[str, Callable[..., Trial]] = {"loop": _loop, "batch": _batch, "gather": _gather}


def _scatter_check(
    enqueue: Callable[[int], Any], target: torch.Tensor, there: torch.Tensor, source: torch.Tensor, here: torch.Tensor
) -> Callable[[], None]:
    def check() -> None:
        first, last = int(there[0]), int(there[-1])
        target[first].fill_(_POISON)
        target[last].fill_(_POISON)
        torch.cuda.synchronize()
        enqueue(0)
        torch.cuda.synchronize()
        for t, s in ((first, int(here[0])), (last, int(here[-1]))):
            if not torch.equal(target[t].cpu(), source[s].cpu()):
                raise ContentError(f"G06: scattered copy: piece {t} did not arrive")

    return check


def numa(gpu: Gpu, point: Point) -> Trial:
    """A contiguous copy from memory first touched on one NUMA node."""
    node, direction = point.number("node"), point.text("direction")
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, inventory.numa_cpus()[node] & before or before)
    try:
        host = gpu.keep(f"node {node}", lambda: _touched(gpu, point.number("bytes")))
    finally:
        os.sched_setaffinity(0, before)
    targets, sources = _pair(gpu, direction, host, point.number("bytes"))
    return Trial(_copier(targets, sources), check=_checked(gpu, targets, sources, point.key))


def _touched(gpu: Gpu, size: int) -> torch.Tensor:
    holder = gpu.keep(f"holder {len(gpu.kept)}", lambda: Registered(size, huge=True))
    holder.lock()
    holder.tensor.copy_(gpu.noise(size))
    return holder.tensor


def all_gpus(gpu: Gpu, point: Point) -> Trial:
    """One copy on each of `gpus` GPUs at once; the time is the slowest's."""
    size, count, direction = point.number("bytes"), point.number("gpus"), point.text("direction")
    streams, pairs = [], []
    for index in range(count):
        with torch.cuda.device(index):
            streams.append(torch.cuda.Stream())
            device = gpu.keep(f"all {index}", lambda: torch.empty(size, dtype=torch.uint8, device="cuda"))
            host = gpu.keep(f"all host {index}", lambda: gpu.pinned(size))
        pairs.append((device, host) if direction == "h2d" else (host, device))

    def enqueue(_: int) -> None:
        for index, (target, source) in enumerate(pairs):
            with torch.cuda.device(index), torch.cuda.stream(streams[index]):
                target.copy_(source, non_blocking=True)
        for stream in streams:
            stream.synchronize()

    return Trial(enqueue, clock="wall", limit=8)


def hbm(gpu: Gpu, point: Point) -> Trial:
    """GPU memory: copy (bytes count twice), read (a sum), write (a fill)."""
    size, what = point.number("bytes"), point.text("what")
    data = gpu.keep(f"hbm {size}", lambda: gpu.noise(size))
    other = gpu.keep(f"hbm to {size}", lambda: torch.empty_like(data)) if what == "copy" else data
    words = data.view(torch.float32)
    work: dict[str, Callable[[int], Any]] = {
        "copy": lambda _: other.copy_(data),
        "read": lambda _: torch.sum(words),
        "write": lambda _: data.fill_(7),
    }
    return Trial(work[what], limit=16)


def launch(gpu: Gpu, point: Point) -> Trial:
    """Fixed costs: an empty event pair, a kernel launch, a graph node, a small copy that is waited for."""
    small = gpu.keep("small", lambda: torch.zeros(16, device=gpu.device))
    what = point.text("what")
    if what == "copy_and_wait":
        host = gpu.keep("small host", lambda: gpu.pinned(4 * KiB))
        device = gpu.keep("small device", lambda: gpu.noise(4 * KiB))

        def copy_and_wait(_: int) -> None:
            device.copy_(host, non_blocking=True)
            torch.cuda.current_stream().synchronize()

        return Trial(copy_and_wait, clock="wall", limit=200)
    if what == "event_pair":
        return Trial(lambda _: torch.cuda.Event(enable_timing=True).record(), limit=64)
    clock = {"kernel": "wall", "graph_node": "graph"}[what]
    return Trial(lambda _: small.add_(1.0), clock=clock, limit=512)


def settle(gpu: Gpu, limit_s: float = 5.0) -> float:
    """Run matrix products until their time changes by less than 1 % over half a second; returns the seconds it took."""
    work, began, before = _gemm_work(gpu), time.perf_counter(), float("inf")
    while time.perf_counter() - began < limit_s:
        start = time.perf_counter()
        for index in range(600):
            work(index)
        torch.cuda.synchronize()
        now = time.perf_counter() - start
        if abs(before / now - 1) < 0.01:
            break
        before = now
    return time.perf_counter() - began


TRIALS: dict[str, Callable[[Gpu, Point], Trial]] = {
    "launch": launch,
    "pin": pin,
    "copy": contiguous,
    "scatter": scattered,
    "duplex": duplex,
    "overlap": overlap,
    "copy_numa": numa,
    "copy_all": all_gpus,
    "hbm": hbm,
}
