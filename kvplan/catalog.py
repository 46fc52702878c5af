"""Names and paths to objects: models, machines, engines, scenarios."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from kvplan.engine.spec import EngineSpec
from kvplan.engine.versions import at_version, overlaid
from kvplan.errors import InputError, did_you_mean
from kvplan.hardware.spec import Machine, machine_of
from kvplan.model import ModelSpec, from_hf_config

_PACKAGE = Path(__file__).resolve().parent
_PYTHON_CONSTANTS = re.compile(r"-?\bInfinity\b|\bNaN\b")  # json.dump writes them; JSON has no such numbers


@cache
def folder(kind: str) -> Path:
    """The folder of shipped `machines`, `engines`, `models` or `scenarios`, in a checkout or in an installed wheel."""
    for candidate in (*_PACKAGE.glob(f"*/{kind}"), _PACKAGE.parent / kind):
        if candidate.is_dir():
            return candidate
    raise InputError(f"the folder of {kind} is missing from this installation", hint="install kvplan again")


def names(kind: str) -> list[str]:
    """Names of everything shipped of a kind, sorted."""
    return sorted(path.stem for path in folder(kind).iterdir() if path.suffix in (".toml", ".json"))


def resolve(kind: str, name: str) -> Path:
    """The file of a shipped name or a path. Raises InputError with the nearest names."""
    if "/" in name or "\\" in name or name.endswith((".toml", ".json")):
        path = Path(name).expanduser()
        if not path.exists():
            raise InputError(f"{name}: no such file", hint=did_you_mean(path.stem, names(kind)))
        return path
    for suffix in (".toml", ".json"):
        path = folder(kind) / f"{name.lower()}{suffix}"
        if path.is_file():
            return path
    raise InputError(
        f"no {kind.removesuffix('s')} named {name!r}",
        hint=did_you_mean(name, names(kind)) + " A path to a file works as well.",
    )


def read_text(path: Path) -> str:
    """The text of a file. Raises InputError when it cannot be read or is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None


def _decode_toml(path: Path, kind: type) -> object:
    try:
        return msgspec.toml.decode(read_text(path), type=kind)
    except msgspec.ValidationError as error:
        raise InputError(f"{path}: {error}") from None
    except msgspec.DecodeError as error:
        raise InputError(f"{path}: not valid TOML: {error}") from None


def machine(name: str) -> Machine:
    """A machine by catalog name or path."""
    path = resolve("machines", name)
    try:
        return machine_of(_decode_toml(path, dict))  # type: ignore[arg-type]
    except msgspec.ValidationError as error:
        raise InputError(f"{path}: {error}") from None


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


def _facts(path: Path, version: str) -> dict[str, Any]:
    """The facts of an engine's file at a version. Where it names a `base`, that engine's numbers stand for those it lacks, and count as
    assumed; without a version of its own it follows the base's.
    """
    written: dict[str, Any] = _decode_toml(path, dict)  # type: ignore[assignment]
    if "base" not in written:
        return at_version(written, version or str(written.get("version", "")))
    follows = "version" not in written
    base = _facts(resolve("engines", str(written["base"])), version if follows else "")
    own = at_version(written, version or str(written.get("version", base["version"])))
    assumed = {"kind": "assumed", "source": f"as {base['name']}'s"}
    taken = {key: value for key, value in base.items() if key not in (*OWN, "provenance")}
    sources = dict.fromkeys(_numbers(taken, own), assumed)
    return {**overlaid(taken, own), "provenance": {**sources, **own.get("provenance", {})}}


def _numbers(taken: dict[str, Any], own: dict[str, Any]) -> list[str]:
    """Dotted paths of the numbers that an engine takes from its base."""
    plain = [field for field, value in taken.items() if isinstance(value, int | float) and field not in own]
    return plain + [f"overhead.{field}" for field in taken.get("overhead", {}) if field not in own.get("overhead", {})]


def _decode_json(path: Path) -> Any:
    text = read_text(path)
    try:
        return msgspec.json.decode(_PYTHON_CONSTANTS.sub("0", text) if "Infinity" in text or "NaN" in text else text)
    except msgspec.DecodeError as error:
        raise InputError(f"{path}: not valid JSON: {error}") from None


def model(name: str) -> ModelSpec:
    """A model by catalog name, or by the path of a Hugging Face config.json or of the directory that holds one."""
    path = Path(name).expanduser()
    tail = name.rpartition("/")[2]
    if tail != name and not path.exists() and tail.lower() in names("models"):
        name = tail  # a Hugging Face id such as Qwen/Qwen3-32B
    if path.is_dir():
        path = path / "config.json"
        if not path.is_file():
            raise InputError(f"{name}: the directory has no config.json")
    else:
        path = resolve("models", name)
    raw = _decode_json(path)
    if not isinstance(raw, dict):
        raise InputError(f"{path}: not a JSON object")
    if isinstance(raw.get("config"), dict):
        return from_hf_config(
            raw["config"],
            name=path.stem,
            where=str(path),
            source=str(raw.get("source", "")),
            params=int(raw.get("params", 0)),
        )
    quantized = path.with_name("hf_quant_config.json")  # where ModelOpt keeps what config.json leaves out
    if "quantization_config" not in raw and quantized.is_file():
        found = _decode_json(quantized)
        inner = found.get("quantization") if isinstance(found, dict) else None
        if isinstance(inner, dict):
            raw["quantization_config"] = {"quant_method": "modelopt", **inner}
    label = path.parent.name if path.name == "config.json" and path.parent.name else path.stem
    return from_hf_config(raw, name=label, where=str(path), source=str(path))
