"""Files for the tests of traces: real ones from beside the checkout, and small ones written by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.public import public


@pytest.fixture
def real() -> Callable[[str], Path]:
    """The path of a public trace; the test is skipped where it is not at hand."""

    def path(name: str) -> Path:
        found = public(f"traces/{name}")
        if not found.exists():
            pytest.skip(f"traces/{name} is not in KVPLAN_PUBLIC_DATA")
        return found

    return path


@pytest.fixture
def mooncake(tmp_path: Path) -> Callable[..., Path]:
    """Writes rows of (timestamp in ms, input_length, output_length, hash_ids) as a Mooncake trace."""

    def write(*rows: tuple[float, int, int, list[int]], name: str = "trace.jsonl") -> Path:
        path = tmp_path / name
        names = ("timestamp", "input_length", "output_length", "hash_ids")
        path.write_text("".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows))
        return path

    return write
