"""A Triton kernel that moves bytes between mapped host memory and the GPU's, as engines do that do not use the copy engines."""

from __future__ import annotations

from collections.abc import Callable

import torch

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

PROGRAMS = 132  # more reach no higher rate on an H100
BLOCK = 2048  # words of eight bytes that a program moves at a time


def missing() -> str:
    """Why the kernel cannot run here; empty when it can."""
    return "" if triton else "the kernel on mapped host memory needs triton, which this torch came without"


if triton:

    @triton.jit
    def _copy(source, target, words, block: tl.constexpr):  # type: ignore[no-untyped-def]
        """Each program walks the array in strides of the whole grid, coalesced."""
        start = tl.program_id(0).to(tl.int64) * block
        while start < words:
            place = start + tl.arange(0, block)
            tl.store(target + place, tl.load(source + place, mask=place < words), mask=place < words)
            start += tl.num_programs(0).to(tl.int64) * block


def copier(source: torch.Tensor, target: torch.Tensor) -> Callable[[int], None]:
    """What copies all bytes of `source` to `target`, one of which is pinned host memory; sizes divide by eight."""
    words = source.numel() // 8
    return lambda _: _copy[(PROGRAMS,)](source.view(torch.int64), target.view(torch.int64), words, block=BLOCK)
