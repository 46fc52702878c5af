"""The machine profile as a TOML file, and the raw samples beside it."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from kvplan import outputs
from kvplan.calibrate.records import Estimate
from kvplan.hardware.spec import Machine
from kvplan.toml_text import to_toml


def tables(rows: Iterable[Estimate]) -> dict[str, Any]:
    """Rows by operation as columns and rows; times in seconds. These are authoritative inside their domain."""
    by: dict[str, list[Estimate]] = {}
    for row in rows:
        by.setdefault(row.point.op, []).append(row)
    made: dict[str, Any] = {}
    for op, group in by.items():
        names = list(dict.fromkeys(name for row in group for name in row.point.params))
        made[op] = {
            "columns": [*names, "seconds", "lo", "hi", "blocks"],
            "rows": [[*(row.point.params.get(n, "") for n in names), row.seconds, row.lo, row.hi, row.blocks] for row in group],
        }
    return made


def write_machine(path: Path, machine: Machine) -> None:
    """Write a machine so that `--machine PATH` reads it back."""
    outputs.write(path, to_toml(msgspec.to_builtins(machine)).encode())


def samples_path(path: Path) -> Path:
    """Where the raw samples of a profile live."""
    return path.with_suffix(".samples.jsonl.gz")


def journal_path(path: Path) -> Path:
    """Where the rows of a run live while it goes on; a resumed run reads them."""
    return path.with_suffix(".journal.jsonl")


def write_samples(path: Path, samples: Iterable[dict[str, object]]) -> str:
    """Write raw samples, compressed, and return the SHA-256 of the file."""
    lines = b"".join(msgspec.json.encode(sample) + b"\n" for sample in samples)
    content = gzip.compress(lines, mtime=0)
    outputs.write(path, content)
    return hashlib.sha256(content).hexdigest()
