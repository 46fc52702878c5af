"""Models by catalog name, Hugging Face id or path: from the catalog, from files here, and last from a hub."""

from __future__ import annotations

import re
from pathlib import Path

from kvplan.catalog import hub, local
from kvplan.catalog.names import QUANTISATIONS, Named, named, shape
from kvplan.catalog.shipped import names, resolve
from kvplan.errors import InputError, did_you_mean
from kvplan.model import Explained, ModelSpec, explain

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def model(name: str, *, as_family: str = "") -> ModelSpec:
    """A model by catalog name, by Hugging Face id (with or without its organisation, and quantised variants), or by the path
    of a config.json or of a folder that holds one; `as_family` reads it as if it were of that family.

    Raises InputError with the nearest names, MissingError where a hub refuses or cannot be reached.
    """
    path = Path(name).expanduser()
    if path.exists() and (path.is_dir() or path.suffix):
        return local.read(path, as_family=as_family)
    known = named(name)
    if known and not known.quantised:
        return _known(name, known)
    is_id = bool(_ID.fullmatch(name)) and not name.endswith((".json", ".toml"))
    if is_id and (found := local.cached(name)):
        return local.read(found, name=name.rpartition("/")[2], as_family=as_family)
    if known:
        return _known(name, known)
    hint = did_you_mean(shape(name.rpartition("/")[2]), names("models"))
    if is_id:
        return local.read(hub.fetched(name, hint=hint), name=name.rpartition("/")[2], as_family=as_family)
    if "/" in name or name.endswith(".json"):
        raise InputError(f"{name}: no such file", hint=hint)
    raise InputError(f"no model named {name!r}", hint=f"{hint} A Hugging Face id or the path of a config.json works as well.")


def _known(asked: str, known: Named) -> ModelSpec:
    path = resolve("models", known.name)
    fields = dict(known.fields)
    if known.quantised:
        fields["quantization_config"] = QUANTISATIONS[known.quantised]
    base = local.read(path)
    if not fields or (known.quantised == "bf16" and not base.quantization):
        return base
    note = f"{asked}: the shape of {known.name}" + (
        f" with {known.quantised} weights by rule; its own config.json may keep more parts wide" if known.quantised else ""
    )
    return local.changed(path, name=asked.rpartition("/")[2].lower(), fields=fields, note=note)


def explained(name: str, *, as_family: str = "") -> Explained:
    """How the config of a model is read, which a path, a folder, a catalog name or a Hugging Face id names. Raises as `model` does."""
    path, known = Path(name).expanduser(), named(name)
    if not path.exists():
        if known and not known.quantised:
            path = resolve("models", known.name)
        elif _ID.fullmatch(name):
            path = local.cached(name) or hub.fetched(name)
        else:
            raise InputError(f"{name}: no such file", hint=did_you_mean(shape(name), names("models")))
    found = local.config(path)
    source = f"Hugging Face {name} config.json" if _ID.fullmatch(name) and not Path(name).exists() else found.source
    return explain(found.config, name=found.name, source=source, params=found.params, as_family=as_family)
