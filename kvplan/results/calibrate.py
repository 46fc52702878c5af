"""What `kvplan calibrate` answers."""

from __future__ import annotations

import msgspec

from kvplan.hardware import Machine


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    pass


class Figure(_Record):
    """One line of the closing table: a measured number with its 95 % interval, and what the maker promises (0: nothing)."""

    part: str
    name: str
    value: float
    lo: float
    hi: float
    unit: str
    datasheet: float = 0.0
    source: str = ""


class ProbeOutcome(_Record):
    """How one probe went: done, waived (cannot run here) or failed, with the reason."""

    name: str
    status: str
    reason: str
    points: int
    seconds: float


class Remark(_Record):
    """Something odd, in plain words, with its code."""

    code: str
    level: str
    text: str


class Quality(_Record):
    """How far predictions of the fitted machine are from points that the fit did not see: median relative error by family."""

    points: int
    errors: dict[str, float]
    median_error: float
    accepted: bool


class CalibrateResult(_Record):
    """A calibration: the machine, the figures, how each probe went, and what is odd."""

    schema: str = "kvplan.calibrate/1"
    machine: Machine
    mode: str
    figures: tuple[Figure, ...]
    probes: tuple[ProbeOutcome, ...]
    quality: Quality
    warnings: tuple[Remark, ...]
    duration_s: float
    profile: str = ""  # file written; empty: none


class Difference(_Record):
    """One number in two profiles: agreeing when their intervals overlap."""

    path: str
    first: float
    second: float
    ratio: float
    agree: bool


class CompareResult(_Record):
    """Two profiles number by number."""

    schema: str = "kvplan.calibrate.compare/1"
    first: str
    second: str
    differences: tuple[Difference, ...]
    agree: bool
