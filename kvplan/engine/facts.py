"""What is simulated of an engine, fact by fact, and how each is known."""

from __future__ import annotations

from typing import Any

import msgspec

from kvplan.engine.spec import EngineSpec


def facts(engine: EngineSpec) -> list[dict[str, str]]:
    """Each number and rule of an engine at its version, with its value, how it is known and the source."""
    found = []
    for path, value in _flat("", engine):
        source = engine.provenance.get(path)
        kind, words = (source.kind, source.source) if source else ("assumed", "kvplan's default: nothing is known of this version")
        found.append({"fact": path, "value": str(value), "kind": kind, "source": words})
    return found


_NOT_FACTS = ("name", "title", "version", "base", "provenance", "memory", "abilities", "kv_formats")


def _flat(prefix: str, record: msgspec.Struct) -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for name in record.__struct_fields__:
        value = getattr(record, name)
        if not prefix and name in _NOT_FACTS:
            continue
        rows += _flat(f"{name}.", value) if isinstance(value, msgspec.Struct) else [(f"{prefix}{name}", value)]
    return rows
