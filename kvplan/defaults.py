"""What is not given, resolved in one place: command line > scenario > kvplan.toml > the trace > the GPU of this server > assumed."""

from __future__ import annotations

import gzip
import io
from collections.abc import Mapping
from pathlib import Path

import msgspec

from kvplan import catalog, outputs
from kvplan.catalog.machines import of_gpu
from kvplan.errors import InputError, misfit
from kvplan.hardware import detect
from kvplan.hardware.spec import Machine
from kvplan.provenance import Source
from kvplan.toml_text import to_toml

FILE = "kvplan.toml"
ASSUMED = {"model": "llama-3.1-8b", "machine": "h100-sxm", "engine": "vllm"}
"""The model and machine that most published figures are of, and the engine whose behaviour is measured best."""

GIVEN, SCENARIO, TRACE, FOUND, ASSUMPTION = "given", "scenario", "trace", "found in this server", "assumed"
_HEAD_BYTES = 65_536


class Default(msgspec.Struct, frozen=True, kw_only=True):
    """One name, and where it comes from."""

    value: str
    source: str


class Defaults(msgspec.Struct, frozen=True, kw_only=True):
    """Model, machine and engine of a run; a machine of None was not asked for and is not known."""

    model: Default
    machine: Default | None
    engine: Default
    engine_version: str = ""
    gpus: int = 0  # of this server, where its GPU names the machine

    def first_line(self) -> str:
        """What the user should read first: which of the names were only assumed; empty when none was."""
        taken = {name: getattr(self, name) for name in ("model", "machine")}
        assumed = {name: one.value for name, one in taken.items() if one and one.source == ASSUMPTION}
        if not assumed:
            return ""
        options = " and ".join(f"--{name}" for name in assumed)
        return f"assumed: {' on '.join(assumed.values())} ({options} name{'s' if len(assumed) == 1 else ''} another)"

    def server(self) -> Machine | None:
        """The machine's record, with the GPUs of this server where it was found in it."""
        if self.machine is None:
            return None
        known = catalog.machine(self.machine.value)
        if not self.gpus:
            return known
        source = Source(kind="measured", source="as this server's driver reports")
        return msgspec.structs.replace(known, gpus=self.gpus, provenance={**known.provenance, "gpus": source})

    def provenance(self) -> dict[str, dict[str, str]]:
        """Each name with its source."""
        named = {name: getattr(self, name) for name in ("model", "machine", "engine")}
        return {name: {"value": one.value, "source": one.source} for name, one in named.items() if one}


class _Remembered(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A kvplan.toml."""

    model: str = ""
    machine: str = ""  # a name, or the path of a profile from the folder of the file
    engine: str = ""
    engine_version: str = ""


def resolve(
    given: Mapping[str, str | None],
    *,
    written: Mapping[str, str] | None = None,
    trace: str = "",
    isolated: bool = False,
    folder: Path | None = None,
    machine_wanted: bool = True,
) -> Defaults:
    """The names of a run. `given` is what the command line or a call says and `written` what a scenario says, by `model`,
    `machine`, `engine` and `engine_version`; `isolated` leaves the folder's kvplan.toml out; without `machine_wanted` none
    is assumed.

    Raises InputError for a kvplan.toml that is none.
    """
    file = (folder or Path.cwd()) / FILE
    remembered = _read(file) if not isolated and file.is_file() else _Remembered()
    sources = ((given, GIVEN), (written or {}, SCENARIO), (_of(remembered, file), FILE))

    def named(what: str) -> Default | None:
        for names, source in sources:
            if value := names.get(what):
                return Default(value=str(value), source=source)
        return None

    model = named("model") or _of_trace(trace) or Default(value=ASSUMED["model"], source=ASSUMPTION)
    machine, gpus = named("machine"), 0
    if machine is None and (seen := detect.found()) and (known := of_gpu(seen.name)):
        machine, gpus = Default(value=known, source=f"{FOUND}: {seen.gpus} x {seen.name}"), seen.gpus
    if machine is None and machine_wanted:
        machine = Default(value=ASSUMED["machine"], source=ASSUMPTION)
    engine = named("engine") or Default(value=ASSUMED["engine"], source=ASSUMPTION)
    own_version = next((names.get("engine_version") for names, source in sources if names.get("engine_version")), "")
    return Defaults(model=model, machine=machine, engine=engine, engine_version=str(own_version or ""), gpus=gpus)


def remember(folder: Path, **names: str) -> Path:
    """Write names into the folder's kvplan.toml, keeping the others that stand there; returns its path."""
    file = folder / FILE
    before = msgspec.structs.asdict(_read(file)) if file.is_file() else {}
    kept = {name: value for name, value in {**before, **names}.items() if value}
    outputs.write(file, to_toml(msgspec.to_builtins(msgspec.convert(kept, _Remembered))).encode())
    return file


def _read(file: Path) -> _Remembered:
    try:
        return msgspec.toml.decode(catalog.read_text(file), type=_Remembered)
    except msgspec.ValidationError as error:
        raise misfit(error, file, _Remembered.__struct_fields__) from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise InputError(f"{file}: not valid TOML: {error}") from None


def _of(remembered: _Remembered, file: Path) -> dict[str, str]:
    names: dict[str, str] = msgspec.structs.asdict(remembered)
    profile = file.parent / names["machine"]
    if names["machine"].endswith(".toml") and not Path(names["machine"]).is_absolute():
        names["machine"] = str(profile)
    return names


def _of_trace(trace: str) -> Default | None:
    """The model that the first line of a trace names, where the catalog has it."""
    path = Path(trace).expanduser()
    if not trace or not path.is_file():
        return None
    with path.open("rb") as raw:
        head = raw.read(_HEAD_BYTES)
    try:
        text = gzip.GzipFile(fileobj=io.BytesIO(head)).readline() if head.startswith(b"\x1f\x8b") else head.split(b"\n", 1)[0]
        row = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, OSError, EOFError, ValueError):
        return None
    name = row.get("model") if isinstance(row, dict) else None
    if not isinstance(name, str) or catalog.named(name) is None:
        return None
    return Default(value=name, source=TRACE)
