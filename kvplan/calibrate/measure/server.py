"""From options to a calibration of this server: choose instruments, refuse what cannot be honest, run, clean up."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from kvplan.calibrate import checks
from kvplan.calibrate.measure import facts as inventory
from kvplan.calibrate.measure.fake import FakeInstrument
from kvplan.calibrate.probes import Context, Probe, mode, probes
from kvplan.calibrate.records import Finding, Instrument, Point, Progress, Sample, Value
from kvplan.calibrate.run import Job, run
from kvplan.calibrate.shapes import shape
from kvplan.errors import InputError, MissingError, did_you_mean
from kvplan.hardware.spec import Machine
from kvplan.results.calibrate import CalibrateResult
from kvplan.units import format_bytes, format_rate

DEVICES = ("cuda", "fake")


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What the user asks of a calibration."""

    only: str = ""
    mode: str = "standard"
    model: str = "llama-3.1-8b"
    device: str = "cuda"
    disk_path: Path = Path()
    output: Path | None = None
    resume: bool = False
    busy_ok: bool = False
    base: Machine | None = None
    stand_in: bool = False
    seed: int = 1


class HostFacts:
    """An instrument that only says what the host is."""

    def waived(self, point: Point) -> str:
        return "not a measurement of the host"

    def fresh(self, seed: int) -> None:
        pass

    def measure(self, point: Point, samples: int) -> list[Sample]:
        raise ValueError(point.key)

    def facts(self) -> dict[str, Value]:
        return inventory.host_facts()

    def findings(self) -> list[Finding]:
        return []

    def close(self) -> None:
        pass


def calibrate(options: Options, progress: Progress) -> CalibrateResult:
    """Measure this server, or the fake one.

    Raises InputError for an unusable option or folder, MissingError without torch, CUDA or scipy, or when the GPU is
    busy.
    """
    if options.device not in DEVICES:
        raise InputError(f"--device {options.device}: no such device", hint=did_you_mean(options.device, DEVICES))
    chosen, thoroughness = tuple(probes(options.only)), mode(options.mode)
    if options.output and not os.access(options.output.parent, os.W_OK):
        raise InputError(f"{options.output.parent}: no such folder, or not writable")
    _need_scipy()
    if options.device == "fake":
        fake = FakeInstrument()
        context = Context(mode=thoroughness, model=shape(options.model), gpus=1, numa_nodes=2, cpus=32)
        return run(_job(options, chosen, context, fake=True), {"gpu": fake}, progress=progress, clock=lambda: 0.0)
    return _real(options, chosen, progress)


def _job(options: Options, chosen: tuple[Probe, ...], context: Context, *, created: str = "", fake: bool = False) -> Job:
    return Job(
        context=context,
        probes=chosen,
        seed=options.seed,
        output=options.output,
        resume=options.resume,
        base=options.base,
        stand_in=options.stand_in,
        created=created,
        fake=fake,
    )


def _real(options: Options, chosen: tuple[Probe, ...], progress: Progress) -> CalibrateResult:
    thoroughness = mode(options.mode)
    families = {probe.family for probe in chosen}
    instruments: dict[str, Instrument] = {"hostfacts": HostFacts()}
    try:
        gpus = 1
        loaded: list[Finding] = []
        if families & {"gpu", "compute"}:
            gpus, loaded = _gpu(options, instruments, progress)
        if families & {"gpu", "disk"}:
            _disk(options, thoroughness.file_bytes, instruments, progress)
        context = Context(
            mode=thoroughness,
            model=shape(options.model),
            gpus=gpus,
            numa_nodes=max(1, len(inventory.numa_cpus())),
            cpus=len(os.sched_getaffinity(0)),
            pages="pinned" if "gpu" in instruments else "huge",
        )
        job = _job(options, chosen, context, created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
        return run(job, instruments, progress=progress, clock=time.perf_counter, noticed=loaded)
    finally:
        for instrument in dict.fromkeys(instruments.values()):
            instrument.close()


def _gpu(options: Options, instruments: dict[str, Instrument], progress: Progress) -> tuple[int, list[Finding]]:
    busy = checks.check_busy(inventory.gpu_facts(0), inventory.other_processes(0))
    if busy and not options.busy_ok:
        raise MissingError(busy.text, hint="--busy-ok measures all the same, and the profile says so")
    try:
        from kvplan.calibrate.measure.copies import settle
        from kvplan.calibrate.measure.gpu import TorchInstrument
    except ImportError:
        raise MissingError(
            "measuring a GPU needs torch, which is not installed",
            hint='pip install "kvplan[calibrate]"; --only disk works without it, --device fake tries the command',
        ) from None
    instrument = TorchInstrument()
    instruments["gpu"] = instrument
    facts = instrument.facts()
    progress(f"{facts['gpu_name']}, torch {facts['torch']}, CUDA {facts['cuda']}: waiting for steady clocks")
    progress(f"clocks steady after {settle(instrument.gpu):.1f} s")
    loaded = checks.check_link(facts, instrument.link_under_load())
    return int(facts["gpus"]), [*loaded, *([busy] if busy else [])]


def _disk(options: Options, file_bytes: int, instruments: dict[str, Instrument], progress: Progress) -> None:
    from kvplan.calibrate.measure.disk import DiskInstrument

    gpu = instruments.get("gpu")
    pinned = None
    if gpu is not None:
        from kvplan.calibrate.measure.gpu import TorchInstrument, pinned_pages

        pinned = pinned_pages if isinstance(gpu, TorchInstrument) else None
    disk = DiskInstrument(options.disk_path, file_bytes, seed=options.seed, pinned=pinned)
    instruments |= {"disk": disk, "host": disk}
    progress(f"filling a test file in {options.disk_path}")
    file = disk.ready()
    progress(f"filled {format_bytes(file.size)} at {format_rate(disk.fill_Bps)}")
    if pinned is not None:
        from kvplan.calibrate.measure.gpu import TorchInstrument
        from kvplan.calibrate.measure.pipeline import PipelineInstrument

        if isinstance(gpu, TorchInstrument):
            staged = PipelineInstrument(gpu.gpu, disk)
            instruments |= {"pipeline": staged, "gds": staged}


def _need_scipy() -> None:
    try:
        import scipy.optimize  # noqa: F401
    except ImportError:
        raise MissingError("calibrate fits with scipy, which is not installed", hint='pip install "kvplan[calibrate]"') from None
