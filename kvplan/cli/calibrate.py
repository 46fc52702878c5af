"""`kvplan calibrate`: measure this server and write its profile."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kvplan import catalog
from kvplan.cli.console import Exit, emit_json, err, out
from kvplan.errors import InputError

COMMON, ADVANCED = "Common", "Advanced"
EPILOG = "kvplan calibrate --device fake -o my.toml\n\nkvplan calibrate --only disk --quick --disk-path /data"
STAND_IN = "h100-sxm"  # fills a profile of which only a part was measured; the profile and the table say so


def calibrate(
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the machine profile here.", rich_help_panel=COMMON)] = None,
    only: Annotated[str, typer.Option(help="Measure one part: gpu, compute, disk or host.", rich_help_panel=COMMON)] = "",
    disk_path: Annotated[Path, typer.Option(help="Folder on the disk to measure.", rich_help_panel=COMMON)] = Path(),
    quick: Annotated[bool, typer.Option("--quick", help="Measure coarsely, in about 90 s.", rich_help_panel=COMMON)] = False,
    full: Annotated[bool, typer.Option("--full", help="Measure finely, in about 20 min.", rich_help_panel=COMMON)] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.", rich_help_panel=COMMON)] = False,
    model: Annotated[
        str, typer.Option(help="Shapes to time: llama-3.1-8b, llama-3.2-1b, qwen2.5-7b.", rich_help_panel=ADVANCED)
    ] = "llama-3.1-8b",
    device: Annotated[str, typer.Option(help="cuda, or fake: no hardware.", rich_help_panel=ADVANCED)] = "cuda",
    merge: Annotated[str, typer.Option(help="Machine that supplies what is not measured.", rich_help_panel=ADVANCED)] = "",
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(help="Compare two profiles instead.", metavar="A B", rich_help_panel=ADVANCED),
    ] = None,
    from_log: Annotated[
        list[Path] | None,
        typer.Option(help="Read a running engine's logs instead.", metavar="FILE", rich_help_panel=ADVANCED),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.", rich_help_panel=ADVANCED)] = False,
    busy_ok: Annotated[bool, typer.Option("--busy-ok", help="Measure a GPU that is in use.", rich_help_panel=ADVANCED)] = False,
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
    )
    result = calibrate(options, lambda line: err().print(line, markup=False))
    if as_json:
        emit_json(result)
    else:
        render(result, out())
    return Exit.DONE


calibrate.__epilog__ = EPILOG  # type: ignore[attr-defined]


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
