"""What calibration passes around: points to measure, samples, rows (one estimate a point) and findings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

import msgspec

Family = Literal["gpu", "disk", "compute", "host"]
Value = int | float | str


class Point(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing to time: an operation and its parameters (sizes in bytes, lengths in tokens)."""

    op: str
    params: dict[str, Value]

    @property
    def key(self) -> str:
        """The point as one line, the same for the same parameters."""
        return " ".join([self.op, *(f"{name}={value}" for name, value in self.params.items())])

    def number(self, name: str) -> int:
        """A parameter that is a whole number; 0 when the point has none of that name."""
        return int(self.params.get(name, 0))

    def text(self, name: str) -> str:
        """A parameter that is a word; empty when the point has none of that name."""
        return str(self.params.get(name, ""))


def point(op: str, **params: Value) -> Point:
    """A point from keywords."""
    return Point(op=op, params=params)


class Sample(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One timed batch: seconds for one operation, and what was seen beside it (`notes`, base units)."""

    seconds: float
    notes: dict[str, float] = {}


class Estimate(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The estimate of one point: median of block medians with a 95 % interval, in seconds for one operation.

    `converged` is false when the interval is wider than asked; `block_medians` are kept for the bootstrap of fits.
    """

    point: Point
    seconds: float
    lo: float
    hi: float
    blocks: int
    samples: int
    converged: bool
    block_medians: tuple[float, ...] = ()
    notes: dict[str, float] = {}

    def rate(self, size: float) -> float:
        """`size` per second at the estimate."""
        return size / self.seconds


class Finding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that a reader of the figures must know: a code, how serious, and a sentence."""

    code: str
    level: Literal["note", "warning", "discard", "refuse"]
    text: str


class Instrument(Protocol):
    """What takes samples: a GPU through torch, a disk, or the deterministic fake."""

    def waived(self, point: Point) -> str:
        """Why this point cannot be measured here; empty when it can."""

    def fresh(self, seed: int) -> None:
        """Give up all buffers, so that the next block gets new ones."""

    def measure(self, point: Point, samples: int) -> list[Sample]:
        """Warm up, then take `samples` timed batches. Raises ContentError when the content that arrived is wrong."""

    def facts(self) -> dict[str, Value]:
        """What the device says of itself; no timing."""

    def findings(self) -> list[Finding]:
        """What it noticed since the last call."""

    def close(self) -> None:
        """Give back files and memory."""


class CheckError(Exception):
    """No figure of this point can be trusted."""


class ContentError(CheckError):
    """What arrived is not what was sent: the run stops."""


Progress = Callable[[str], None]
