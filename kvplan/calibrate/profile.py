"""The machine profile as a TOML file, and the raw samples beside it."""

from __future__ import annotations

import gzip
import hashlib
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from kvplan import outputs
from kvplan.calibrate.records import Estimate
from kvplan.errors import KvplanError
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


def samples_path(path: Path) -> Path:
    """Where the raw samples of a profile live."""
    return path.with_suffix(".samples.jsonl.gz")


def journal_path(path: Path) -> Path:
    """Where the rows of a run live while it goes on; a resumed run reads them."""
    return path.with_suffix(".journal.jsonl")


class Saved(msgspec.Struct, frozen=True, kw_only=True):
    """Where a profile went (empty: nowhere), whether it replaced one, and what went wrong."""

    path: str = ""
    replaced: bool = False
    problem: str = ""


def save(path: Path, machine: Machine, samples: list[dict[str, Any]]) -> Saved:
    """Write a machine so that `--machine PATH` reads it back, and its samples beside it.

    Minutes of measuring are not given up for a full or read-only disk: then the profile goes to the folder of temporary files.
    """
    spare = Path(tempfile.gettempdir()) / path.name
    problem = ""
    for place in (path, spare):
        replaced = place.exists()
        try:
            outputs.write(place, to_toml(msgspec.to_builtins(_with_samples(place, machine, samples))).encode())
        except KvplanError as error:
            problem = problem or error.message
            continue
        return Saved(path=str(place), replaced=replaced, problem=problem)
    return Saved(problem=problem)


def _with_samples(path: Path, machine: Machine, samples: list[dict[str, Any]]) -> Machine:
    """The machine with the name and the SHA-256 of its samples' file; without them where they find no room."""
    content = gzip.compress(b"".join(msgspec.json.encode(sample) + b"\n" for sample in samples), mtime=0)
    try:
        outputs.write(samples_path(path), content)
    except KvplanError:
        return machine
    kept = {"samples_file": samples_path(path).name, "samples_sha256": hashlib.sha256(content).hexdigest()}
    return msgspec.structs.replace(machine, calibration={**machine.calibration, **kept})
