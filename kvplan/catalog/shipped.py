"""Files that come with kvplan, by name, and files of the user, by path."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from kvplan.errors import InputError, did_you_mean, from_os, misfit

_PACKAGE = Path(__file__).resolve().parents[1]
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
        raise from_os(error, path) from None


def decode_toml(path: Path, kind: type) -> Any:
    """A TOML file as a record. Raises InputError."""
    try:
        return msgspec.toml.decode(read_text(path), type=kind)
    except msgspec.ValidationError as error:
        raise misfit(error, path) from None
    except msgspec.DecodeError as error:
        raise InputError(f"{path}: not valid TOML: {error}") from None
    except RecursionError:
        raise InputError(f"{path}: nested too deeply") from None


def decode_json(path: Path) -> Any:
    """A JSON file. Raises InputError."""
    text = read_text(path)
    try:
        return msgspec.json.decode(_PYTHON_CONSTANTS.sub("0", text) if "Infinity" in text or "NaN" in text else text)
    except msgspec.DecodeError as error:
        raise InputError(f"{path}: not valid JSON: {error}") from None
    except RecursionError:
        raise InputError(f"{path}: nested too deeply") from None
