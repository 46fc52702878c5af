"""What `kvplan calibrate` answers."""

from __future__ import annotations

from typing import Literal

import msgspec

from kvplan.hardware.spec import Machine


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the closing table: a measured number with its 95 % interval, and what the maker promises (0:
    nothing).
    """

    part: str
    name: str
    value: float
    lo: float
    hi: float
    unit: str
    datasheet: float = 0.0
    source: str = ""


class ProbeOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """How one probe went: done, waived (cannot run here) or failed, with the reason."""

    name: str
    status: Literal["done", "waived", "failed"]
    reason: str = ""
    points: int = 0
    seconds: float = 0.0


class Remark(msgspec.Struct, frozen=True, kw_only=True):
    """Something odd, in plain words, with its code."""

    code: str
    level: str
    text: str


class Quality(msgspec.Struct, frozen=True, kw_only=True):
    """How far predictions of the fitted machine are from points that the fit did not see: median relative error by
    family.
    """

    points: int
    errors: dict[str, float]
    median_error: float
    accepted: bool


class CalibrateResult(msgspec.Struct, frozen=True, kw_only=True):
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
    replaced: bool = False  # did one of that name stand there
    problem: str = ""  # why it could not be written where it was wanted


class ProfileDifference(msgspec.Struct, frozen=True, kw_only=True):
    """One number in two profiles: agreeing when their intervals overlap."""

    path: str
    name: str  # in words
    unit: str
    first: float
    second: float
    ratio: float
    agree: bool


class CompareResult(msgspec.Struct, frozen=True, kw_only=True):
    """Two profiles number by number."""

    schema: str = "kvplan.calibrate.compare/1"
    first: str
    second: str
    differences: tuple[ProfileDifference, ...]
    agree: bool


class FromLogResult(msgspec.Struct, frozen=True, kw_only=True):
    """What the logs of a running engine tell: figures, and the same as settings for `--set`."""

    schema: str = "kvplan.calibrate.log/1"
    files: tuple[str, ...]
    figures: tuple[Figure, ...]
    settings: dict[str, float]
    notes: tuple[str, ...]
