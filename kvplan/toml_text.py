"""Documents as TOML text, and files that are replaced whole."""

from __future__ import annotations

import json
import math
from typing import Any


def to_toml(document: dict[str, Any]) -> str:
    """A TOML document from nested dicts of numbers, strings, booleans, lists and dicts; None is left out, tables
    come after plain keys.
    """
    lines: list[str] = []
    _table(document, (), lines)
    return "\n".join(lines).strip() + "\n"


def _table(table: dict[str, Any], path: tuple[str, ...], lines: list[str]) -> None:
    plain = {k: v for k, v in table.items() if v is not None and not _is_table(v, path)}
    if path and (plain or not table):
        lines += ["", f"[{'.'.join(_key(p) for p in path)}]"]
    lines += [f"{_key(k)} = {_value(v)}" for k, v in plain.items()]
    for key, value in table.items():
        if value is not None and _is_table(value, path):
            _table(value, (*path, key), lines)


def _is_table(value: Any, path: tuple[str, ...]) -> bool:
    return isinstance(value, dict) and path[:1] != ("provenance",)


def _key(name: str) -> str:
    return name if name.replace("_", "").replace("-", "").isalnum() and name.isascii() else json.dumps(name, ensure_ascii=False)


def _value(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return _float(value)
        case str():
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
        case dict():
            return "{" + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items() if v is not None) + "}"
        case list() | tuple():
            inner = [_value(v) for v in value]
            nested = any(isinstance(v, list | tuple) for v in value)
            return "[\n  " + ",\n  ".join(inner) + ",\n]" if nested else "[" + ", ".join(inner) + "]"
    raise TypeError(f"{type(value).__name__} has no form in TOML")


def _float(value: float) -> str:
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    if math.isnan(value):
        return "nan"
    text = f"{value:.6g}"
    return text if any(c in text for c in ".e") else f"{text}.0"
