"""The machine that a calibration yields: measured numbers over a base, each with where it comes from."""

from __future__ import annotations

from typing import Any

import msgspec

from kvplan import __version__
from kvplan.calibrate.datasheet import promised_link_Bps
from kvplan.calibrate.findings import Findings
from kvplan.calibrate.fits import RUN_TO_RUN
from kvplan.calibrate.job import Assignment
from kvplan.calibrate.names import SHOWN, unit
from kvplan.calibrate.probes import parts_of
from kvplan.calibrate.profile import tables
from kvplan.calibrate.records import Estimate, Value
from kvplan.errors import InputError
from kvplan.hardware.spec import Disk, Gpu, Host, Link, Machine
from kvplan.provenance import Source
from kvplan.results.calibrate import Figure


def build(
    job: Assignment, facts: dict[str, Value], found: Findings, gpu: Gpu, peak_sources: dict[str, str], rows: list[Estimate]
) -> Machine:
    """Base, facts and fitted numbers together.

    Raises InputError when a part was neither measured nor given by a base.
    """
    document, provenance = _start(job.base, job.stand_in)
    if "gpu_name" in facts:
        document["gpu"] = {**document.get("gpu", {}), **_own(gpu)}
        provenance |= {f"gpu.{k}": Source(kind="datasheet", source=text) for k, text in peak_sources.items()}
        provenance["gpu.memory_bytes"] = Source(kind="measured", source="as the driver reports it")
        document["gpus"] = int(facts["gpus"])
    document["host"] = {**document.get("host", {}), **_host(facts)}
    if "disk_capacity_bytes" in facts:
        document["disk"] = {**document.get("disk", {}), "capacity_bytes": int(facts["disk_capacity_bytes"])}
    kind = "fake" if job.fake else "measured"
    for path, fitted in found.values.items():
        part, _, name = path.partition(".")
        document.setdefault(part, {})[name] = round(fitted.value) if name.endswith("_bytes") else fitted.value
        provenance[path] = Source(kind=kind, source=f"kvplan calibrate, {fitted.source}", lo=fitted.lo, hi=fitted.hi)  # type: ignore[arg-type]
    if found.curves:
        document["interconnect"]["curves"] = msgspec.to_builtins(found.curves)
        text = "kvplan calibrate, collectives of NCCL by message size and number of GPUs"
        provenance["interconnect.curves"] = Source(kind=kind, source=text)  # type: ignore[arg-type]
    missing = [part for part in ("gpu", "link", "disk") if not _complete(part, document)]
    if missing:
        raise InputError(
            f"{', '.join(missing)}: not measured in this run, so there is no whole machine to write",
            hint="--merge FILE takes the rest from a machine file or a shipped machine",
        )
    name = str(facts.get("gpu_name") or (job.base.name if job.base else "machine"))
    where = f"measured on {facts.get('host', 'this server')}"
    if job.fake:
        where = "fake: no hardware was measured"
    elif job.stand_in:
        where = f"only {parts_of(job.probes)} {where}"
    document |= {
        "name": name.lower().replace("nvidia ", "").replace(" ", "-"),
        "title": f"{name}, {where}",
        "calibration": _over(
            job,
            {
                **_about(job, facts),
                **found.kept,
                "fits": _fits(found),
                "run_to_run": dict(RUN_TO_RUN),
                "tables": tables(rows),
                "domain": _domain(rows),
            },
        ),
        "provenance": msgspec.to_builtins(provenance),
    }
    return msgspec.convert(document, Machine)


def _start(base: Machine | None, stand_in: bool) -> tuple[dict[str, Any], dict[str, Source]]:
    if base is None:
        return {}, {}
    provenance = dict(base.provenance)
    if stand_in:
        provenance = {path: Source(kind="assumed", source=f"not measured: {base.name}, {s.source}") for path, s in provenance.items()}
    return msgspec.to_builtins(base), provenance


def _own(gpu: Gpu) -> dict[str, Any]:
    """The peaks of a GPU, without fields that have a default and were not set."""
    return msgspec.to_builtins(gpu)


def _host(facts: dict[str, Value]) -> dict[str, int]:
    return {"memory_bytes": int(facts.get("host_memory_bytes", 0)), "cores": int(facts.get("cpus", 1))}


_NEEDED: dict[str, type] = {"gpu": Gpu, "link": Link, "host": Host, "disk": Disk}


def _complete(part: str, document: dict[str, Any]) -> bool:
    try:
        msgspec.convert(document.get(part, {}), _NEEDED[part])
    except msgspec.ValidationError:
        return False
    return True


def _over(job: Assignment, new: dict[str, Any]) -> dict[str, Any]:
    """What this run says laid over what the base's own calibration said: a partial rerun keeps the tables of the
    other parts.
    """
    if job.base is None or job.stand_in:
        return new
    merged: dict[str, Any] = {**job.base.calibration, **new}
    for name in ("tables", "fits", "domain"):
        earlier = job.base.calibration.get(name)
        merged[name] = {**(earlier if isinstance(earlier, dict) else {}), **new[name]}
    return merged


def _about(job: Assignment, facts: dict[str, Value]) -> dict[str, Any]:
    return {
        "tool": f"kvplan {__version__}",
        "created": job.created,
        "mode": job.context.mode.name,
        "model": job.context.model.name,
        "seed": job.seed,
        "families": sorted({probe.family for probe in job.probes}),
        "facts": facts,
    }


def _fits(found: Findings) -> dict[str, Any]:
    made: dict[str, Any] = {
        name: {"median_error": f.median_error, "p90_error": f.p90_error, "points": f.rows} for name, f in found.fits.items()
    }
    return {**made, "missed": found.missed} if found.missed else made


_RANGES = {
    "copy": ("bytes",),
    "scatter": ("bytes", "pieces"),
    "gemm": ("m", "n", "k"),
    "attention_prefill": ("new", "context"),
    "attention_decode": ("batch", "context"),
    "disk_read": ("bytes", "threads"),
}


def _domain(rows: list[Estimate]) -> dict[str, list[int]]:
    """The range of each parameter that was measured: outside it the closed forms extrapolate."""
    made = {}
    for op, names in _RANGES.items():
        for name in names:
            seen = [r.point.number(name) for r in rows if r.point.op == op]
            if seen:
                made[f"{op}_{name}"] = [min(seen), max(seen)]
    return made


def figures(known: Gpu | None, found: Findings, facts: dict[str, Value]) -> tuple[Figure, ...]:
    """The lines of the closing table, with the datasheet's figure where there is one."""
    link = promised_link_Bps(facts)
    promised = {"link.h2d_Bps": link, "link.d2h_Bps": link}
    made = []
    for path, (part, name) in SHOWN.items():
        fitted = found.values.get(path)
        if fitted is None:
            continue
        factor = 2.0**30 if unit(path) == "s/GiB" else 1.0
        made.append(
            Figure(
                part=part,
                name=name,
                value=fitted.value * factor,
                lo=fitted.lo * factor,
                hi=fitted.hi * factor,
                unit=unit(path),
                datasheet=promised.get(path, 0.0),
                source=fitted.source,
            )
        )
    if "hbm_read_Bps" in found.kept:
        rate, promise = found.kept["hbm_read_Bps"], known.hbm_Bps if known else 0.0
        made.append(Figure(part="memory", name="GPU memory, reads", value=rate, lo=rate, hi=rate, unit="B/s", datasheet=promise))
    return tuple(made)
