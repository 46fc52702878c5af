"""What one calibration is to do."""

from __future__ import annotations

from pathlib import Path

import msgspec

from kvplan.calibrate.probes import Context, Probe
from kvplan.hardware.spec import Gpu, Machine


class Assignment(msgspec.Struct, frozen=True, kw_only=True):
    """What to calibrate, how, and where the profile goes."""

    context: Context
    probes: tuple[Probe, ...]
    seed: int = 1
    output: Path | None = None
    resume: bool = False
    base: Machine | None = None  # supplies what is not measured
    stand_in: bool = False  # the base is no machine of the user's: its numbers are assumptions here
    known: Gpu | None = None  # what the maker promises of this GPU
    created: str = ""
    fake: bool = False
