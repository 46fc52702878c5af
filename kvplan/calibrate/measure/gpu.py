"""The GPU as an instrument: buffers, trials and their clocks, through torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from kvplan.calibrate.measure import facts as inventory
from kvplan.calibrate.measure.testfile import buffer
from kvplan.calibrate.measure.timing import Guard, Trial, take
from kvplan.calibrate.records import Finding, Point, Sample, Value
from kvplan.errors import MissingError
from kvplan.units import GiB, MiB

WINDOW_S = 2e-3  # least length of one sample of device work


class Gpu:
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


class Registered:
    """Touched host memory, page-locked by cudaHostRegister; `huge` asks for 2 MiB pages."""

    def __init__(self, size: int, *, huge: bool) -> None:
        self.tensor = torch.frombuffer(buffer(size, huge=huge), dtype=torch.uint8)
        self.locked = False

    def lock(self) -> None:
        """Pin it. Raises RuntimeError when the driver refuses."""
        code = int(torch.cuda.cudart().cudaHostRegister(self.tensor.data_ptr(), self.tensor.numel(), 0))
        if code:
            raise RuntimeError(f"cudaHostRegister of {self.tensor.numel() / GiB:.1f} GiB failed with code {code}")
        self.locked = True

    def __del__(self) -> None:
        if self.locked:
            torch.cuda.cudart().cudaHostUnregister(self.tensor.data_ptr())


def registered_noise(gpu: Gpu, size: int) -> torch.Tensor:
    """Registered 2 MiB-page memory with random content; the registration lives as long as the block."""
    holder = gpu.keep(f"registered {size}", lambda: Registered(size, huge=True))
    if not holder.locked:
        holder.lock()
        holder.tensor.copy_(gpu.noise(size))
        torch.cuda.synchronize()
    return holder.tensor


def pinned_pages(size: int) -> Any:
    """A page-locked host buffer from torch's allocator, as engines read a disk into."""
    return torch.empty(size, dtype=torch.uint8, pin_memory=True).numpy()


Maker = Callable[[Gpu, Point], Trial]


class TorchInstrument:
    """All GPU points through torch."""

    def __init__(self) -> None:
        if not torch.cuda.is_available():
            raise MissingError(
                f"no CUDA device is visible (torch {torch.__version__})",
                hint="--only disk measures storage alone; --device fake tries the command without hardware",
            )
        from kvplan.calibrate.measure import compute, llm
        from kvplan.calibrate.measure import copies as transfer

        torch.set_grad_enabled(False)
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = True
        self.trials: dict[str, Maker] = {**transfer.TRIALS, **compute.TRIALS, **llm.TRIALS}
        self.gpus = [Gpu(index) for index in range(torch.cuda.device_count())]
        self.monitor = inventory.Monitor(0)

    @property
    def gpu(self) -> Gpu:
        return self.gpus[0]

    def waived(self, point: Point) -> str:
        """A reason from the trial's own module, when it has one."""
        if point.op not in self.trials:
            return "not a measurement of a GPU"
        from kvplan.calibrate.measure import copies as transfer

        return transfer.waived(self.gpu, point)

    def fresh(self, seed: int) -> None:
        for gpu in self.gpus:
            gpu.fresh(seed + gpu.index)

    def measure(self, point: Point, samples: int) -> list[Sample]:
        gpu = self.gpus[point.number("gpu")]
        with torch.cuda.device(gpu.index):
            torch.cuda.set_stream(gpu.stream)
            try:
                trial = self.trials[point.op](gpu, point)
                taken = take(gpu.guard, trial, samples, WINDOW_S)
                if trial.check:
                    trial.check()
                return taken
            except torch.cuda.OutOfMemoryError as error:
                gpu.fresh(0)
                raise RuntimeError("the GPU has too little free memory for this point") from error

    def facts(self) -> dict[str, Value]:
        properties = self.gpu.properties
        return {
            **inventory.gpu_facts(0),
            "gpu_name": properties.name,
            "gpus": len(self.gpus),
            "memory_bytes": properties.total_memory,
            "multiprocessors": properties.multi_processor_count,
            "l2_bytes": self.gpu.l2_bytes,
            "torch": str(torch.__version__),
            "cuda": str(torch.version.cuda),
            "numa_node": inventory.gpu_numa_node(self.bus_id(0)),
        }

    def bus_id(self, index: int) -> str:
        """PCI address as sysfs writes it, e.g. 0000:3b:00.0; empty when torch does not say."""
        properties = torch.cuda.get_device_properties(index)
        if not hasattr(properties, "pci_bus_id"):
            return ""
        return f"{properties.pci_domain_id:04x}:{properties.pci_bus_id:02x}:{properties.pci_device_id:02x}.0"

    def findings(self) -> list[Finding]:
        return self.monitor.findings()

    def link_under_load(self) -> dict[str, Value]:
        """PCIe generation and width while copies run: an idle link sits at a lower generation."""
        host, device = self.gpu.pinned(256 * MiB), self.gpu.noise(256 * MiB)
        for _ in range(400):  # two seconds of copies at 50 GB/s, still going on when nvidia-smi looks
            device.copy_(host, non_blocking=True)
        facts = inventory.gpu_facts(0)
        torch.cuda.synchronize()
        return {name: facts[name] for name in ("link_gen", "link_width") if name in facts}

    def close(self) -> None:
        self.monitor.close()
        for gpu in self.gpus:
            gpu.kept.clear()
