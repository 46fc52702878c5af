"""Machines by catalog name, by path, by the names that clouds give their servers, and by what drivers call the GPU."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import msgspec

from kvplan.catalog.shipped import decode_toml, names, resolve
from kvplan.errors import InputError, did_you_mean, misfit
from kvplan.hardware.spec import Machine, machine_of
from kvplan.provenance import Source
from kvplan.units import GiB


class RentedServer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A server that a cloud rents out: whose GPUs it has, how many, and its host memory (0: the machine's)."""

    machine: str
    gpus: int
    host_GiB: float = 0.0
    note: str = ""


class _Known(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    source: str
    servers: dict[str, RentedServer]
    gpus: dict[str, str]  # what drivers and people call a GPU -> machine


@cache
def known() -> _Known:
    return decode_toml(Path(__file__).with_name("machine_names.toml"), _Known)


def machine(name: str) -> Machine:
    """A machine. Raises InputError with the nearest names."""
    file = "/" in name or "\\" in name or name.endswith((".toml", ".json"))
    if file or name.lower() in names("machines"):
        return _file(name)
    wanted = plain(name)
    for server, facts in known().servers.items():
        if plain(server) == wanted:
            return _rented(server, facts)
    for gpu, found in known().gpus.items():
        if plain(gpu) == wanted:
            return _file(found)
    choices = [*names("machines"), *known().servers, *known().gpus]
    raise InputError(f"no machine named {name!r}", hint=did_you_mean(name, choices) + " A path to a file works as well.")


def _file(name: str) -> Machine:
    path = resolve("machines", name)
    try:
        return machine_of(decode_toml(path, dict))
    except msgspec.ValidationError as error:
        raise misfit(error, path) from None


def of_gpu(product: str) -> str:
    """The catalog's machine with a GPU of this product name, as drivers report it; empty where there is none."""
    wanted = plain(product)
    for gpu, found in known().gpus.items():
        if plain(gpu) == wanted:
            return found
    return ""


def plain(name: str) -> str:
    """A name without case, spaces, vendor and punctuation."""
    return re.sub(r"^(standard|nvidia|amd|azure|aws|gcp|oci)(?=.)|[^a-z0-9]", "", re.sub(r"[\s_.-]+", "", name.lower()))


def _rented(server: str, facts: RentedServer) -> Machine:
    """The catalog's machine with this server's number of GPUs and host memory."""
    base = _file(facts.machine)
    source = Source(kind="assumed", source=f"{server}: {known().source}")
    changes: dict[str, object] = {"gpus": facts.gpus, "title": f"{server}: {facts.gpus} x {base.gpu.name}"}
    noted = {"gpus": source}
    if facts.host_GiB:
        changes["host"] = msgspec.structs.replace(base.host, memory_bytes=int(facts.host_GiB * GiB))
        noted["host.memory_bytes"] = source
    return msgspec.structs.replace(base, name=server, provenance={**base.provenance, **noted}, **changes)
