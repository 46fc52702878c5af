"""Fields of records by dotted path, as `--set path=value` gives them."""

from __future__ import annotations

import typing
from functools import cache
from typing import Any

import msgspec

from kvplan import units
from kvplan.errors import InputError, did_you_mean, misfit
from kvplan.provenance import Source


def parse_value(name: str, value: Any) -> Any:
    """A setting's value by the unit that its name carries; text without one is a number, a truth value or itself."""
    if not isinstance(value, str):
        return value
    for suffix, parse in (
        ("_bytes", units.parse_bytes),
        ("Bps", units.parse_rate),
        ("_tokens", units.parse_tokens),
        ("_s", units.parse_seconds),
    ):
        if name.endswith(suffix) and not (suffix == "_tokens" and value == "0"):
            return parse(value)
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    for number in (int, float):
        try:
            return number(value)
        except ValueError:
            continue
    return value


def replaced(record: Any, parts: list[str], value: Any, path: str) -> Any:
    """A record with the field at `parts` replaced, `path` as the user wrote it; a number with a source then counts as set by the user.

    Raises InputError naming the path for a field that does not exist or a value that does not fit its type.
    """
    if not parts or not isinstance(record, msgspec.Struct):
        raise InputError(f"{path} is not a setting")
    fields = _types(type(record))
    name = parts[0]
    if name not in fields:
        raise InputError(f"{path} is not a setting", hint=did_you_mean(name, fields))
    if len(parts) > 1:
        changes: dict[str, Any] = {name: replaced(getattr(record, name), parts[1:], value, path)}
    else:
        changes = {name: _converted(name, value, fields[name], path)}
    sources = getattr(record, "provenance", {})
    if ".".join(parts) in sources:
        changes["provenance"] = {**sources, ".".join(parts): Source(kind="assumed", source="set by the user")}
    return msgspec.structs.replace(record, **changes)


@cache
def _types(kind: type) -> dict[str, Any]:
    """Fields of a record with their types, bounds included."""
    return typing.get_type_hints(kind, include_extras=True)


def _converted(name: str, value: Any, kind: Any, path: str) -> Any:
    try:
        parsed = parse_value(name, value)
    except InputError as error:
        raise InputError(f"{path}: {error.message}", hint=error.hint) from None
    for strict in (True, False):
        try:
            return msgspec.convert(parsed, kind, strict=strict)
        except msgspec.ValidationError as error:
            problem = error
    raise InputError(f"{path}: {value!r} does not fit: {misfit(problem).message}") from None
