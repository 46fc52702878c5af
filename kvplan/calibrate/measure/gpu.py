"""One GPU through torch: its streams, and the buffers of the current block."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from kvplan.calibrate.measure.timing import Guard


class TorchGpu:
    """One GPU: its stream, spin guard, random generator and the buffers of the current block."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.properties = torch.cuda.get_device_properties(index)
        self.device = torch.device("cuda", index)
        with torch.cuda.device(index):
            self.stream = torch.cuda.Stream()
            self.other = torch.cuda.Stream()
            torch.cuda.set_stream(self.stream)
            self.guard = Guard()
        self.l2_bytes = int(self.properties.L2_cache_size)
        self.random = torch.Generator(device=self.device)
        self.kept: dict[str, Any] = {}

    def fresh(self, seed: int) -> None:
        """Drop the buffers of the block before."""
        self.kept.clear()
        self.random.manual_seed(seed)
        torch.cuda.empty_cache()
        torch._C._host_emptyCache()

    def keep(self, name: str, make: Callable[[], Any]) -> Any:
        """A buffer that lives until the next block."""
        if name not in self.kept:
            self.kept[name] = make()
        return self.kept[name]

    def normal(self, *shape: int, scale: float = 1.0) -> torch.Tensor:
        """Random bf16 numbers: zeros would make matrix products look faster."""
        tensor = torch.empty(shape, dtype=torch.bfloat16, device=self.device)
        return tensor.normal_(0.0, scale, generator=self.random)

    def noise(self, size: int) -> torch.Tensor:
        """Random bytes on the GPU; `size` must divide by 8."""
        words = torch.empty(size // 8, dtype=torch.int64, device=self.device)
        return words.random_(generator=self.random).view(torch.uint8)

    def pinned(self, size: int) -> torch.Tensor:
        """Pinned host bytes with random content."""
        buffer = torch.empty(size, dtype=torch.uint8, pin_memory=True)
        buffer.copy_(self.noise(size))
        torch.cuda.synchronize()
        return buffer

    def free_bytes(self) -> int:
        """Memory that the allocator can still give out."""
        free, _ = torch.cuda.mem_get_info(self.index)
        return free + torch.cuda.memory_reserved(self.index) - torch.cuda.memory_allocated(self.index)

    def copies_for(self, size: int) -> int:
        """How many distinct buffers of `size` outrun the L2 cache fourfold."""
        return max(2, min(64, -(-4 * self.l2_bytes // size)))


def pinned_pages(size: int) -> Any:
    """A page-locked host buffer from torch's allocator, as engines read a disk into."""
    return torch.empty(size, dtype=torch.uint8, pin_memory=True).numpy()
