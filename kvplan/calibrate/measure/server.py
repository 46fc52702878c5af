"""From options to a calibration of this server: choose instruments, refuse what cannot be honest, run, clean up."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from kvplan import outputs
from kvplan.calibrate import checks
from kvplan.calibrate.job import Assignment
from kvplan.calibrate.measure import facts as inventory
from kvplan.calibrate.measure.fake import FakeInstrument
from kvplan.calibrate.measure.host import HostInstrument
from kvplan.calibrate.probes import Context, Probe, mode, probes
from kvplan.calibrate.records import Finding, Instrument, Progress
from kvplan.calibrate.run import run
from kvplan.calibrate.shapes import shape
from kvplan.errors import InputError, MissingError, did_you_mean
from kvplan.hardware.spec import Gpu, Machine
from kvplan.results.calibrate import CalibrateResult
from kvplan.units import format_bytes, format_rate

DEVICES = ("cuda", "fake")


class CalibrateOptions(msgspec.Struct, frozen=True, kw_only=True):
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
    known: Callable[[str], Gpu | None] = lambda _: None  # a GPU's name -> what its maker promises
    seed: int = 1


def calibrate(options: CalibrateOptions, progress: Progress) -> CalibrateResult:
    """Measure this server, or the fake one.

    Raises InputError for an unusable option or folder, MissingError without torch or CUDA, or when the GPU is busy.
    """
    if options.device not in DEVICES:
        raise InputError(f"--device {options.device}: no such device", hint=did_you_mean(options.device, DEVICES))
    chosen, thoroughness = tuple(probes(options.only)), mode(options.mode)
    if options.output:
        outputs.check(options.output)  # before minutes of measuring
    if not options.disk_path.is_dir():
        raise InputError(f"--disk-path {options.disk_path}: no such folder")
    if options.device == "fake":
        fake = FakeInstrument()
        context = Context(mode=thoroughness, model=shape(options.model))
        return run(_job(options, chosen, context, known=fake.truth.gpu, fake=True), {"gpu": fake}, progress=progress, clock=lambda: 0.0)
    return _real(options, chosen, progress)


def _job(
    options: CalibrateOptions,
    chosen: tuple[Probe, ...],
    context: Context,
    *,
    known: Gpu | None = None,
    created: str = "",
    fake: bool = False,
) -> Assignment:
    return Assignment(
        context=context,
        probes=chosen,
        seed=options.seed,
        output=options.output,
        resume=options.resume,
        base=options.base,
        stand_in=options.stand_in,
        known=known,
        created=created,
        fake=fake,
    )


def _real(options: CalibrateOptions, chosen: tuple[Probe, ...], progress: Progress) -> CalibrateResult:
    thoroughness = mode(options.mode)
    families = {probe.family for probe in chosen}
    instruments: dict[str, Instrument] = {"host": HostInstrument()}
    try:
        loaded: list[Finding] = []
        if families & {"gpu", "compute"}:
            loaded = _gpu(options, instruments, progress)
        elif "host" in families:
            with contextlib.suppress(MissingError):
                _gpu(options, instruments, progress)
        if "disk" in families:
            _disk(options, thoroughness.file_bytes, instruments, progress)
        pages = "pinned" if "gpu" in instruments else "huge"
        context = Context(mode=thoroughness, model=shape(options.model), pages=pages)
        known = options.known(str(instruments["gpu"].facts()["gpu_name"])) if "gpu" in instruments else None
        job = _job(options, chosen, context, known=known, created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
        return run(job, instruments, progress=progress, clock=time.perf_counter, noticed=loaded)
    finally:
        for instrument in dict.fromkeys(instruments.values()):
            instrument.close()


def _gpu(options: CalibrateOptions, instruments: dict[str, Instrument], progress: Progress) -> list[Finding]:
    busy = checks.check_busy(inventory.gpu_facts(0), inventory.other_processes(0))
    if busy and not options.busy_ok:
        raise MissingError(busy.text, hint="--busy-ok measures all the same, and the profile says so")
    try:
        import torch

        from kvplan.calibrate.measure.collectives import Collectives
        from kvplan.calibrate.measure.copies import settle
        from kvplan.calibrate.measure.instrument import TorchInstrument
    except ImportError:
        raise MissingError(
            "measuring a GPU needs torch, which is not installed",
            hint='pip install "kvplan[calibrate]"; --only disk and --only host work without it, --device fake tries the command',
        ) from None
    instrument = TorchInstrument()
    instruments["gpu"] = instrument
    instruments["collective"] = Collectives(torch.cuda.device_count())
    facts = instrument.facts()
    progress(f"{facts['gpu_name']}, torch {facts['torch']}, CUDA {facts['cuda']}: waiting for steady clocks")
    progress(f"clocks steady after {settle(instrument.gpu):.1f} s")
    loaded = checks.check_link(facts, instrument.link_under_load())
    return [*loaded, *([busy] if busy else [])]


def _disk(options: CalibrateOptions, file_bytes: int, instruments: dict[str, Instrument], progress: Progress) -> None:
    from kvplan.calibrate.measure.disk import DiskInstrument

    pinned = None
    if "gpu" in instruments:
        from kvplan.calibrate.measure.gpu import pinned_pages

        pinned = pinned_pages
    disk = DiskInstrument(options.disk_path, file_bytes, seed=options.seed, pinned=pinned)
    instruments["disk"] = disk
    progress(f"filling a test file in {options.disk_path}")
    file = disk.ready()
    progress(f"filled {format_bytes(file.size)} at {format_rate(disk.fill_Bps)}")
