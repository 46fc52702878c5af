"""`kvplan calibrate`: measure this server and write its profile."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from kvplan import catalog, defaults, outputs
from kvplan.catalog.machines import of_gpu
from kvplan.cli.console import Exit, emit_json, err, note, out, warn
from kvplan.cli.options import Quiet
from kvplan.cli.server import KEY_VARIABLE, address
from kvplan.errors import InputError, MissingError
from kvplan.hardware.spec import Gpu
from kvplan.toml_text import to_toml
from kvplan.units import parse_seconds

ADVANCED = "Advanced"
EXAMPLES = """
kvplan calibrate --device fake -o my.toml
kvplan calibrate --only disk --quick --disk-path /data
"""
STAND_IN = "h100-sxm"  # fills a profile of which only a part was measured; the profile and the table say so


def calibrate(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="The profile to write. Default: machine.toml.")
    ] = None,
    only: Annotated[str, typer.Option(metavar="PART", help="One part: gpu, compute, disk, host, or a probe such as collectives.")] = "",
    disk_path: Annotated[Path, typer.Option(metavar="DIR", help="Folder on the disk to measure. Default: this one.")] = Path(),
    quick: Annotated[bool, typer.Option("--quick", help="Measure coarsely, in about 90 s.")] = False,
    full: Annotated[bool, typer.Option("--full", help="Measure finely, in about 20 min.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    model: Annotated[
        str, typer.Option(metavar="NAME", help="Shapes to time: llama-3.1-8b, llama-3.2-1b, qwen2.5-7b.", rich_help_panel=ADVANCED)
    ] = "llama-3.1-8b",
    device: Annotated[str, typer.Option(metavar="NAME", help="cuda, or fake: no hardware.", rich_help_panel=ADVANCED)] = "cuda",
    merge: Annotated[str, typer.Option(metavar="NAME", help="Machine that supplies what is not measured.", rich_help_panel=ADVANCED)] = "",
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(help="Compare two profiles instead.", metavar="A B", rich_help_panel=ADVANCED),
    ] = None,
    from_log: Annotated[
        list[Path] | None,
        typer.Option(help="Read a running engine's logs instead.", metavar="FILE", rich_help_panel=ADVANCED),
    ] = None,
    from_metrics: Annotated[
        str, typer.Option(help="Read a running engine's metrics twice instead.", metavar="URL", rich_help_panel=ADVANCED)
    ] = "",
    window: Annotated[str, typer.Option(help="Between the two readings of --from-metrics.", metavar="T", rich_help_panel=ADVANCED)] = "30s",
    machine: Annotated[str, typer.Option(help="With --from-metrics: what to predict by.", metavar="NAME", rich_help_panel=ADVANCED)] = "",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.", rich_help_panel=ADVANCED)] = False,
    busy_ok: Annotated[bool, typer.Option("--busy-ok", help="Measure a GPU that is in use.", rich_help_panel=ADVANCED)] = False,
    remember: Annotated[
        bool, typer.Option("--remember", help="Make it the machine of this folder, in kvplan.toml.", rich_help_panel=ADVANCED)
    ] = False,
    quiet: Quiet = False,
) -> int:
    """Measure this server's link, disk and compute, and write the profile that --machine takes."""
    from kvplan.calibrate.measure.server import CalibrateOptions, calibrate
    from kvplan.report.calibrate import render

    if quick and full:
        raise InputError("--quick and --full exclude each other")
    if compare:
        return _compare(*compare, as_json)
    if from_log:
        return _from_log(from_log, as_json)
    if from_metrics:
        return _from_metrics(from_metrics, window, machine, as_json)
    piped = output is not None and str(output) == outputs.STDOUT
    output = None if piped else output or (None if device == "fake" else _unnamed(resume))
    if remember and output is None:
        raise InputError("--remember needs a profile", hint="-o FILE writes one")
    options = CalibrateOptions(
        only=only,
        mode="quick" if quick else "full" if full else "standard",
        model=model,
        device=device,
        disk_path=disk_path,
        output=output,
        resume=resume,
        busy_ok=busy_ok,
        base=catalog.machine(merge or STAND_IN) if merge or only else None,
        stand_in=not merge,
        known=_known,
    )
    try:
        result = calibrate(options, lambda line: note(line, quiet=quiet))
    except KeyboardInterrupt:
        if output:
            note(f"what the finished probes measured is kept: the same command with --resume{_named(output)} goes on")
        raise
    if piped:
        outputs.write(outputs.STDOUT, to_toml(msgspec.to_builtins(result.machine)).encode())
    elif as_json:
        emit_json(result)
    else:
        render(result, out())
    if result.problem:
        kept = f"the profile is in {result.profile}" if result.profile else "--json would have printed the whole machine"
        raise MissingError(result.problem, hint=kept)
    if result.profile and (remember or _wanted(as_json, quiet)):
        note(f"{defaults.remember(Path(), machine=result.profile)}: {result.profile} is now the machine of this folder", quiet=quiet)
    return Exit.DONE


def _unnamed(resume: bool) -> Path:
    """Where a profile goes that has no name: it never replaces one. Raises InputError."""
    path = Path("machine.toml")
    if path.exists() and not resume:
        raise InputError(f"{path} is here already", hint=f"-o FILE names another, -o {path} replaces it")
    return path


def _known(gpu: str) -> Gpu | None:
    name = of_gpu(gpu)
    return catalog.machine(name).gpu if name else None


def _named(output: Path) -> str:
    return "" if output == Path("machine.toml") else f" and -o {output}"


def _wanted(as_json: bool, quiet: bool) -> bool:
    """Does the person at the terminal want it for every command in this folder."""
    if as_json or quiet or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    err().print("make it the machine of this folder, in kvplan.toml? [y/N] ", end="", markup=False)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _compare(first: Path, second: Path, as_json: bool) -> int:
    from kvplan.calibrate.compare import compare
    from kvplan.report.calibrate import render_compare

    result = compare(catalog.machine(str(first)), catalog.machine(str(second)))
    if as_json:
        emit_json(result)
    else:
        render_compare(result, out())
    return Exit.DONE if result.agree else Exit.NO


def _from_log(files: list[Path], as_json: bool) -> int:
    from kvplan.calibrate.from_log import read
    from kvplan.report.calibrate import render_log

    result = read(files)
    if as_json:
        emit_json(result)
    else:
        render_log(result, out())
    return Exit.DONE


def _from_metrics(url: str, window: str, machine: str, as_json: bool) -> int:
    try:
        from kvplan.live.watch import watch
    except ModuleNotFoundError as error:
        raise MissingError(
            f"--from-metrics needs the package {error.name}, which is not installed", hint="pip install 'kvplan[live]'"
        ) from None
    from kvplan.live.records import Endpoint
    from kvplan.live.world import Given
    from kvplan.report.live import show

    metrics_at = url if url.rstrip("/").endswith("/metrics") else ""
    base = address(metrics_at.rstrip("/").removesuffix("/metrics") if metrics_at else url)
    window_s = parse_seconds(window)
    if not 0 < window_s <= 3600:
        raise InputError(f"--window {window}: between nothing and an hour", hint="write 30s or 5min")
    endpoint = Endpoint(url=base, key=os.environ.get(KEY_VARIABLE, ""))
    result = watch(endpoint, metrics_at, window_s, Given(machine=machine))
    if as_json:
        emit_json(result)
    else:
        show(out(), result)
    for text in result.warnings:
        warn(text)
    return Exit.DONE
