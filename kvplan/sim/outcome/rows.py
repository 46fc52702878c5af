"""One row a request, as a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from kvplan import outputs
from kvplan.errors import InputError, MissingError
from kvplan.sim.outcome.record import STATUS, RunRecord

ORDER = (
    "index", "arrival_s", "prompt_tokens", "output_tokens", "gpu_hit_tokens", "cpu_hit_tokens", "disk_hit_tokens",
    "remote_hit_tokens", "computed_tokens", "queue_s", "load_s", "ttft_s", "itl_s", "e2e_s", "preemptions", "status",
)  # fmt: skip


def check(path: Path) -> None:
    """Raise InputError or MissingError now, before the work, when a file cannot be written there."""
    if path.suffix not in WRITERS:
        raise InputError(f"{path}: rows are written as {', '.join(WRITERS)}", hint="choose one of these endings")
    outputs.check(path)
    if path.suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError:
            raise MissingError(f"{path}: Parquet needs pyarrow", hint='pip install "kvplan[traces]"') from None


def table(record: RunRecord) -> dict[str, Any]:
    """Columns by name, in the order of the trace; `status` as words."""
    columns = dict(record.columns)
    columns["status"] = [STATUS[code] for code in columns["status"]]
    return {name: columns[name] for name in ORDER}


def write(path: Path, record: RunRecord) -> None:
    """Write the rows; the file appears whole or not at all."""
    columns = table(record)
    with outputs.whole(path) as stream:
        WRITERS[path.suffix](stream, columns)


BATCH = 65_536
"""Rows that are Python objects at a time."""


def _jsonl(file: BinaryIO, columns: dict[str, Any]) -> None:
    encode, names = msgspec.json.Encoder().encode, list(columns)
    for first in range(0, len(columns["index"]), BATCH):
        parts = (column[first : first + BATCH] for column in columns.values())
        lists = [part if isinstance(part, list) else part.tolist() for part in parts]
        for row in zip(*lists, strict=True):
            file.write(encode(dict(zip(names, row, strict=True))) + b"\n")  # NaN becomes null


def _csv(file: BinaryIO, columns: dict[str, Any]) -> None:
    import pandas

    pandas.DataFrame(columns).to_csv(file, index=False)


def _parquet(file: BinaryIO, columns: dict[str, Any]) -> None:
    import pandas

    pandas.DataFrame(columns).to_parquet(file, index=False)


WRITERS: dict[str, Callable[[BinaryIO, dict[str, Any]], None]] = {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}
