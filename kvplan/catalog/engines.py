"""Engines by name, path and version."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec

from kvplan.catalog.shipped import decode_toml, resolve
from kvplan.engine.spec import EngineSpec
from kvplan.engine.versions import at_version, overlaid
from kvplan.errors import InputError


def engine(name: str, version: str = "") -> EngineSpec:
    """An engine by catalog name or path, at the version that its file names or at another: `vllm@0.11`."""
    stem, _, named = name.partition("@")
    wanted = (version or named).removeprefix("v")
    path = resolve("engines", stem)
    if wanted and not re.fullmatch(r"\d+(\.\d+){0,2}[\w.+-]*", wanted):
        raise InputError(f"{version or name}: {wanted!r} is not a version", hint=f"write {stem}@{_facts(path, '')['version']}")
    try:
        return msgspec.convert(_facts(path, wanted), EngineSpec)
    except msgspec.ValidationError as error:
        raise InputError(f"{path}: {error}") from None


OWN = ("title", "offload", "host_pool", "abilities", "changes", "base")
"""What an engine never takes from its base."""


def _facts(path: Path, version: str, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The facts of an engine's file at a version. Where it names a `base`, that engine's numbers stand for those it lacks, and count as
    assumed; without a version of its own it follows the base's.
    """
    written: dict[str, Any] = decode_toml(path, dict)
    if "base" not in written:
        return at_version(written, version or str(written.get("version", "")))
    follows = "version" not in written
    base_path = resolve("engines", str(written["base"]))
    if base_path.resolve() in (seen := (*above, path.resolve())):
        raise InputError(f"{path}: engines are each other's base: {written['base']}")
    base = _facts(base_path, version if follows else "", above=seen)
    own = at_version(written, version or str(written.get("version", base["version"])))
    assumed = {"kind": "assumed", "source": f"as {base['name']}'s"}
    taken = {key: value for key, value in base.items() if key not in (*OWN, "provenance")}
    sources = dict.fromkeys(_numbers(taken, own), assumed)
    return {**overlaid(taken, own), "provenance": {**sources, **own.get("provenance", {})}}


def _numbers(taken: dict[str, Any], own: dict[str, Any]) -> list[str]:
    """Dotted paths of the numbers that an engine takes from its base."""
    plain = [field for field, value in taken.items() if isinstance(value, int | float) and field not in own]
    return plain + [f"overhead.{field}" for field in taken.get("overhead", {}) if field not in own.get("overhead", {})]
