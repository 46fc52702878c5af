"""Copies between host and GPU: contiguous, scattered, both ways at once, by a kernel on mapped memory; and reads of GPU memory."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from typing import Any

import torch

from kvplan.calibrate.measure import mapped
from kvplan.calibrate.measure.gpu import TorchGpu
from kvplan.calibrate.measure.timing import Trial
from kvplan.calibrate.records import ContentError, Point
from kvplan.units import GiB, KiB, MiB

_POISON = 0xA5


def waived(gpu: TorchGpu, point: Point) -> str:
    """Why a point cannot be measured on this GPU; empty when it can."""
    if point.op == "scatter" and point.text("path") == "batch" and _batch_copy() is None:
        return "cudaMemcpyBatchAsync with the CUDA 13 interface is not in this CUDA runtime"
    if point.op == "mapped":
        return mapped.missing()
    if point.op == "hbm" and 2 * point.number("bytes") > gpu.free_bytes():
        return "too little free GPU memory"
    return ""


def _device_arena(gpu: TorchGpu) -> torch.Tensor:
    return gpu.keep("device arena", lambda: gpu.noise(GiB))


def _host_arena(gpu: TorchGpu) -> torch.Tensor:
    return gpu.keep("pinned", lambda: gpu.pinned(GiB))


def _compare(gpu: TorchGpu, source: torch.Tensor, target: torch.Tensor, what: str) -> None:
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


def _pair(gpu: TorchGpu, direction: str, host: torch.Tensor, size: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    hosts, devices = _windows(host, size), _windows(_device_arena(gpu), size)
    count = min(len(hosts), len(devices))
    hosts, devices = hosts[:count], devices[:count]
    return (devices, hosts) if direction == "h2d" else (hosts, devices)


def _copier(targets: list[torch.Tensor], sources: list[torch.Tensor]) -> Callable[[int], Any]:
    count = len(targets)
    return lambda index: targets[index % count].copy_(sources[index % count], non_blocking=True)


def _checked(gpu: TorchGpu, targets: list[torch.Tensor], sources: list[torch.Tensor], what: str) -> Callable[[], None]:
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


def contiguous(gpu: TorchGpu, point: Point) -> Trial:
    """One copy of `bytes` in a row of copies, or `alone` on an idle stream."""
    targets, sources = _pair(gpu, point.text("direction"), _host_arena(gpu), point.number("bytes"))
    clock = "alone" if point.text("memory") == "alone" else "spin"
    return Trial(_copier(targets, sources), clock=clock, check=_checked(gpu, targets, sources, point.key), limit=64)


def duplex(gpu: TorchGpu, point: Point) -> Trial:
    """A copy while the other direction is busy: the other copies run for at least 1.5 times as long."""
    size, direction = point.number("bytes"), point.text("direction")
    half = GiB // 2
    host, device = _host_arena(gpu), _device_arena(gpu)
    mine = _windows(host[:half], size), _windows(device[:half], size)
    theirs = _windows(host[half:], 64 * MiB), _windows(device[half:], 64 * MiB)
    if direction == "h2d":
        enqueue, opposite = _copier(mine[1], mine[0]), _copier(*theirs)
    else:
        enqueue, opposite = _copier(*mine), _copier(theirs[1], theirs[0])
    return Trial(enqueue, beside=_endless(gpu, opposite, 64 * MiB / 25e9), limit=64)


def _endless(gpu: TorchGpu, enqueue: Callable[[int], Any], least_s: float) -> Callable[[Any, float], None]:
    """Work on the second stream that outlasts the asked seconds twofold when one call takes at least `least_s`."""

    def beside(gate: Any, seconds: float) -> None:
        with torch.cuda.stream(gpu.other):
            gate.wait()
            for index in range(2 + int(2 * seconds / least_s)):
                enqueue(index)

    return beside


def _gemm_work(gpu: TorchGpu) -> Callable[[int], Any]:
    x, w, y = gpu.keep("warming gemm", lambda: (gpu.normal(4096, 4096), gpu.normal(14336, 4096), gpu.normal(4096, 14336)))
    return lambda _: torch.mm(x, w.t(), out=y)


def pin(gpu: TorchGpu, point: Point) -> Trial:
    """Page-locking by torch's allocator. One operation is one allocation."""
    size = point.number("bytes")

    def allocate(_: int) -> None:
        torch._C._host_emptyCache()
        torch.empty(size, dtype=torch.uint8, pin_memory=True)
        torch._C._host_emptyCache()

    return Trial(allocate, clock="wall", limit=1)


def mapped_copy(gpu: TorchGpu, point: Point) -> Trial:
    """A Triton kernel reads mapped host memory into the GPU's, or writes it."""
    size = point.number("bytes")
    host, device = _host_arena(gpu)[:size], _device_arena(gpu)[:size]
    source, target = (host, device) if point.text("direction") == "h2d" else (device, host)
    enqueue = mapped.copier(source, target)

    def check() -> None:
        target[: 64 * KiB].fill_(_POISON)
        torch.cuda.synchronize()
        enqueue(0)
        torch.cuda.synchronize()
        _compare(gpu, source, target, point.key)

    return Trial(enqueue, check=check, limit=16)


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


def scattered(gpu: TorchGpu, point: Point) -> Trial:
    """`pieces` pieces of `bytes` between random places on both sides; one operation moves all of them."""
    size, count, direction = point.number("bytes"), point.number("pieces"), point.text("direction")
    slots = GiB // size
    host = _host_arena(gpu)[: slots * size].view(slots, size)
    device = _device_arena(gpu)[: slots * size].view(slots, size)
    order = torch.Generator().manual_seed(size + count)
    there = torch.randperm(slots, generator=order)[:count]
    here = torch.randperm(slots, generator=order)[:count]
    target, source = (device, host) if direction == "h2d" else (host, device)
    return _PATHS[point.text("path")](gpu, target, there, source, here)


def _loop(gpu: TorchGpu, target: torch.Tensor, there: torch.Tensor, source: torch.Tensor, here: torch.Tensor) -> Trial:
    pairs = [(target[t], source[s]) for t, s in zip(there.tolist(), here.tolist(), strict=True)]

    def enqueue(_: int) -> None:
        for one_target, one_source in pairs:
            one_target.copy_(one_source, non_blocking=True)

    # A stream takes about a thousand pending calls: from there on no spin kernel can hide the host, and the host is
    # what a caller waits for.
    clock = "spin" if len(pairs) < 512 else "wall"
    return Trial(enqueue, clock=clock, limit=4, check=_scatter_check(enqueue, target, there, source, here))


def _batch(gpu: TorchGpu, target: torch.Tensor, there: torch.Tensor, source: torch.Tensor, here: torch.Tensor) -> Trial:
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


_PATHS: dict[str, Callable[..., Trial]] = {"loop": _loop, "batch": _batch}


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


def hbm(gpu: TorchGpu, point: Point) -> Trial:
    """Reads of GPU memory: a sum."""
    size = point.number("bytes")
    words = gpu.keep(f"hbm {size}", lambda: gpu.noise(size)).view(torch.float32)
    return Trial(lambda _: torch.sum(words), limit=16)


def settle(gpu: TorchGpu, limit_s: float = 5.0) -> float:
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


TRIALS: dict[str, Callable[[TorchGpu, Point], Trial]] = {
    "pin": pin,
    "copy": contiguous,
    "scatter": scattered,
    "duplex": duplex,
    "mapped": mapped_copy,
    "hbm": hbm,
}
