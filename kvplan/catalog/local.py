"""Models from files: a config.json, a folder that holds one, a local Hugging Face cache."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from kvplan.catalog.shipped import decode_json
from kvplan.errors import InputError, of_its_kind
from kvplan.model import ModelSpec, from_hf_config

_INDEX = "model.safetensors.index.json"
_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}


class FoundConfig(NamedTuple):
    """A config.json and what is known beside it."""

    config: dict[str, Any]
    name: str
    where: str
    source: str
    params: int


def config(path: Path, *, name: str = "") -> FoundConfig:
    """The config of a catalog file, a config.json or a folder with one. Raises InputError."""
    if path.is_dir():
        path = path / "config.json"
        if not path.is_file():
            raise InputError(f"{path.parent}: the directory has no config.json")
    raw = decode_json(path)
    if not isinstance(raw, dict):
        raise InputError(f"{path}: not a JSON object")
    if isinstance(raw.get("config"), dict):
        return FoundConfig(raw["config"], name or path.stem, str(path), str(raw.get("source", "")), int(raw.get("params", 0)))
    _add_quantisation(path, raw)
    label = name or (path.parent.name if path.name == "config.json" and path.parent.name else path.stem)
    return FoundConfig(raw, label, str(path), str(path), _parameters(path, raw))


def read(path: Path, *, name: str = "", as_family: str = "") -> ModelSpec:
    """A model from a catalog file, a config.json or a folder with one. Raises InputError."""
    found = config(path, name=name)
    with of_its_kind(path, "a config"):
        return from_hf_config(
            found.config, name=found.name, where=found.where, source=found.source, params=found.params, as_family=as_family
        )


def changed(path: Path, *, name: str, fields: dict[str, Any], note: str) -> ModelSpec:
    """A catalog file's model with some fields of its config replaced."""
    raw = decode_json(path)
    config = _without(raw["config"], set(fields) & {"quantization_config"})
    spec = from_hf_config({**config, **fields}, name=name, where=name, source=str(raw.get("source", "")), params=int(raw.get("params", 0)))
    return msgspec.structs.replace(spec, notes=(*spec.notes, note))


def _without(config: dict[str, Any], names: set[str]) -> dict[str, Any]:
    """A config without some fields, in its nested parts as well."""
    return {key: _without(value, names) if isinstance(value, dict) else value for key, value in config.items() if key not in names}


def _add_quantisation(path: Path, raw: dict[str, Any]) -> None:
    """What ModelOpt keeps beside the config."""
    beside = path.with_name("hf_quant_config.json")
    if "quantization_config" in raw or not beside.is_file():
        return
    found = decode_json(beside)
    inner = found.get("quantization") if isinstance(found, dict) else None
    if isinstance(inner, dict):
        raw["quantization_config"] = {"quant_method": "modelopt", **inner}


def _parameters(path: Path, raw: dict[str, Any]) -> int:
    """Parameters by the index of the weights beside the config; 0 where it does not say."""
    index = path.with_name(_INDEX)
    if not index.is_file():
        return 0
    found = decode_json(index)
    told = found.get("metadata") if isinstance(found, dict) else None
    if not isinstance(told, dict):
        return 0
    if isinstance(told.get("total_parameters"), int):
        return int(told["total_parameters"])
    width = _BYTES.get(str(raw.get("torch_dtype") or raw.get("dtype")), 0)
    plain = width and "quantization_config" not in raw and isinstance(told.get("total_size"), int | float)
    return int(told["total_size"]) // width if plain else 0


def cached(repository: str) -> Path | None:
    """The newest config.json of a model in the local Hugging Face cache; None where it has none."""
    folder = cache_folder() / f"models--{repository.replace('/', '--')}"
    reference = folder / "refs" / "main"
    if reference.is_file():
        found = folder / "snapshots" / reference.read_text().strip() / "config.json"
        if found.is_file():
            return found
    snapshots = sorted(folder.glob("snapshots/*/config.json"), key=lambda path: path.stat().st_mtime)
    return snapshots[-1] if snapshots else None


def cache_folder() -> Path:
    """Where Hugging Face's tools keep what they have fetched: HF_HUB_CACHE, else in HF_HOME."""
    if named := os.environ.get("HF_HUB_CACHE"):
        return Path(named).expanduser()
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(home).expanduser() / "hub"
