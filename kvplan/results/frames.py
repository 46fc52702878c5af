"""Results as pandas DataFrames; pandas is loaded when the first one is asked for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from pandas import DataFrame


def rows(records: Iterable[dict[str, Any]]) -> DataFrame:
    """One row a record."""
    import pandas

    return pandas.DataFrame(list(records))


def flat(record: msgspec.Struct) -> dict[str, Any]:
    """The numbers and words of a record by dotted names, such as `ttft_s.p50` or `tiers.cpu.hit_rate`; other lists are left out."""
    found: dict[str, Any] = {}
    _flatten(msgspec.to_builtins(record), "", found)
    return {name: value for name, value in found.items() if not name.startswith("timeline.")}


def _flatten(value: Any, name: str, found: dict[str, Any]) -> None:
    if isinstance(value, list) and value and all(isinstance(one, dict) and "name" in one for one in value):
        value = {one["name"]: {key: part for key, part in one.items() if key != "name"} for one in value}
    if isinstance(value, dict):
        for key, part in value.items():
            _flatten(part, f"{name}.{key}" if name else key, found)
    elif not isinstance(value, list):
        found[name] = value
