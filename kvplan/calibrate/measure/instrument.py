"""All points of a GPU, through torch: which trial measures what, and how a point is taken."""

from __future__ import annotations

from collections.abc import Callable

import torch

from kvplan.calibrate.measure import compute, copies, llm
from kvplan.calibrate.measure import facts as inventory
from kvplan.calibrate.measure.gpu import TorchGpu
from kvplan.calibrate.measure.timing import Trial, take
from kvplan.calibrate.records import Finding, Point, Sample, Value
from kvplan.errors import MissingError
from kvplan.units import MiB

WINDOW_S = 2e-3  # least length of one sample of device work
TRIALS: dict[str, Callable[[TorchGpu, Point], Trial]] = {**copies.TRIALS, **compute.TRIALS, **llm.TRIALS}


class TorchInstrument:
    """All GPU points through torch."""

    def __init__(self) -> None:
        if not torch.cuda.is_available():
            raise MissingError(
                f"no CUDA device is visible (torch {torch.__version__})",
                hint="--only disk measures storage alone; --device fake tries the command without hardware",
            )
        torch.set_grad_enabled(False)
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = True
        self.gpu = TorchGpu(0)
        self.monitor = inventory.Monitor(0)

    def waived(self, point: Point) -> str:
        """A reason from the trial's own module, when it has one."""
        return copies.waived(self.gpu, point) if point.op in (*TRIALS, *llm.SAMPLERS) else "not a measurement of a GPU"

    def fresh(self, seed: int) -> None:
        self.gpu.fresh(seed)

    def measure(self, point: Point, samples: int) -> list[Sample]:
        torch.cuda.set_stream(self.gpu.stream)
        try:
            if sampler := llm.SAMPLERS.get(point.op):
                return [sampler(self.gpu, point)]
            trial = TRIALS[point.op](self.gpu, point)
            taken = take(self.gpu.guard, trial, samples, WINDOW_S)
            if trial.check:
                trial.check()
            return taken
        except torch.cuda.OutOfMemoryError as error:
            self.gpu.fresh(0)
            raise RuntimeError("the GPU has too little free memory for this point") from error

    def facts(self) -> dict[str, Value]:
        properties = self.gpu.properties
        return {
            **inventory.gpu_facts(0),
            "gpu_name": properties.name,
            "gpus": torch.cuda.device_count(),
            "memory_bytes": properties.total_memory,
            "multiprocessors": properties.multi_processor_count,
            "l2_bytes": self.gpu.l2_bytes,
            "torch": str(torch.__version__),
            "cuda": str(torch.version.cuda),
        }

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
        self.gpu.kept.clear()
