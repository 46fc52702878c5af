"""Engines by name, path and version."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec

from kvplan.catalog.shipped import decode_toml, resolve
from kvplan.engine.spec import EngineSpec
from kvplan.engine.versions import at_version, order, overlaid
from kvplan.errors import InputError, misfit, of_its_kind
from kvplan.hardware.spec import Machine


def engine(name: str, version: str = "", server: Machine | None = None) -> EngineSpec:
    """An engine by catalog name or path, at the version that its file names or at another: `vllm@0.11`; as it starts on a server."""
    stem, _, named = name.partition("@")
    wanted = (version or named).removeprefix("v")
    path = resolve("engines", stem)
    if wanted and not re.fullmatch(r"\d+(\.\d+){0,2}[\w.+-]*", wanted):
        raise InputError(f"{version or name}: {wanted!r} is not a version", hint=f"write {stem}@{_facts(path, '')['version']}")
    try:
        with of_its_kind(path, "an engine's file"):
            spec = msgspec.convert(_facts(path, wanted), EngineSpec)
    except msgspec.ValidationError as error:
        raise misfit(error, path) from None
    return spec if server is None else spec.on(server.gpu.name, server.gpu.memory_bytes)


OWN = ("title", "offload", "host_pool", "abilities", "changes", "base")
"""What an engine never takes from its base."""


OFFLOADING = tuple(
    f"overhead.{name}"
    for name in (
        *("load_s", "load_block_s", "load_piece_s", "probe_s", "submit_piece_s", "disk_file_s"),
        *("admit_key_s", "offer_key_s", "offload_step_s", "pause_offload_tokens"),
    )
)
"""Numbers of a base's own connector, which say nothing of another's."""


def _facts(path: Path, version: str, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The facts of an engine's file at a version. Where it names a `base`, that engine's numbers stand for those it lacks, and count as
    assumed; without a version of its own it follows the base's.
    """
    written: dict[str, Any] = decode_toml(path, dict)
    home = str(written.get("version", ""))
    if "base" not in written:
        return _doubted(at_version(written, version or home), home)
    follows = "version" not in written
    base_path = resolve("engines", str(written["base"]))
    if base_path.resolve() in (seen := (*above, path.resolve())):
        raise InputError(f"{path}: engines are each other's base: {written['base']}")
    base = _facts(base_path, version if follows else "", above=seen)
    own = at_version(written, version or str(written.get("version", base["version"])))
    assumed = {"kind": "assumed", "source": f"as {base['name']}'s"}
    other = () if own.get("connector") else ("second_runner", "first_runner")  # an engine of its own does not run in them
    taken = {key: value for key, value in base.items() if key not in (*OWN, *other, "provenance")}
    known = {path: one for path, one in base.get("provenance", {}).items() if path not in OFFLOADING} if own.get("connector") else {}
    sources = {path: known.get(path, assumed) for path in (_numbers(taken, own) if not known else (*_numbers(taken, own), *known))}
    sources = {path: one for path, one in sources.items() if path.partition(".")[0] not in OWN}
    return _doubted({**overlaid(taken, own), "provenance": {**sources, **own.get("provenance", {})}}, home)


def _doubted(facts: dict[str, Any], home: str) -> dict[str, Any]:
    """At another version than the file's own, what was measured there is assumed; what sources say holds by its `since`."""
    if not home or order(facts["version"])[:2] == order(home)[:2]:
        return facts
    sources = {
        path: {"kind": "assumed", "source": f"as at {home}: {one['source']}"} if one["kind"] in ("measured", "derived") else one
        for path, one in facts.get("provenance", {}).items()
    }
    return {**facts, "provenance": sources}


def engine_versions(name: str) -> list[str]:
    """The version of an engine's file, and the later ones at which its facts change."""
    written: dict[str, Any] = decode_toml(resolve("engines", name), dict)
    home = str(written.get("version", "")) or engine(name).version
    since = {str(change["since"]) for change in written.get("changes", ()) if order(str(change["since"])) > order(home)}
    return [home, *sorted(since, key=order)]


def _numbers(taken: dict[str, Any], own: dict[str, Any]) -> list[str]:
    """Dotted paths of the numbers that an engine takes from its base."""
    plain = [field for field, value in taken.items() if isinstance(value, int | float) and field not in own]
    return plain + [f"overhead.{field}" for field in taken.get("overhead", {}) if field not in own.get("overhead", {})]
