"""A table as a file, in base units: .csv, .parquet or .md."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from kvplan import outputs
from kvplan.errors import InputError, MissingError

if TYPE_CHECKING:
    from pandas import DataFrame


def check(path: str) -> None:
    """Raise InputError or MissingError now, before the work, when a table cannot be written there."""
    if Path(path).suffix not in WRITERS:
        raise InputError(f"{path or '--export'}: a table is exported as {', '.join(WRITERS)}", hint="choose one of these endings")
    outputs.check(path)
    if path.endswith(".parquet"):
        try:
            import pyarrow  # noqa: F401
        except ImportError:
            raise MissingError(f"{path}: Parquet needs pyarrow", hint='pip install "kvplan[traces]"') from None


def export(frame: DataFrame, path: str) -> None:
    """Write a table; the ending says how."""
    with outputs.whole(path) as stream:
        WRITERS[Path(path).suffix](frame, stream)


def _csv(frame: DataFrame, stream: BinaryIO) -> None:
    frame.to_csv(stream, index=False)


def _parquet(frame: DataFrame, stream: BinaryIO) -> None:
    frame.to_parquet(stream, index=False)


def _markdown(frame: DataFrame, stream: BinaryIO) -> None:
    rows = [list(frame.columns), ["---"] * len(frame.columns), *([_cell(value) for value in row] for row in frame.itertuples(index=False))]
    stream.write("".join(f"| {' | '.join(row)} |\n" for row in rows).encode())


def _cell(value: Any) -> str:
    text = "" if value is None or value != value else f"{value:.6g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|")


WRITERS = {".csv": _csv, ".parquet": _parquet, ".md": _markdown}
"""Ending -> what writes it."""
