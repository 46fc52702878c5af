"""`kvplan validate`: hold a prediction against a running server."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

from kvplan import units
from kvplan.cli.console import Exit, emit_json, err, out, warn
from kvplan.cli.html import check_html, reported
from kvplan.cli.options import As_json, Html, Quiet, Set, named
from kvplan.cli.server import KEY_VARIABLE, address
from kvplan.errors import InputError, MissingError

EXAMPLES = """
kvplan validate http://localhost:8000 chat.jsonl --machine h100-sxm
kvplan validate http://localhost:8000 --machine my.toml --fit engine.toml
kvplan validate http://localhost:8000 trace.jsonl --machine h100-sxm --results profile_export.jsonl
"""

_SERVER, _BOUNDS, _ADVANCED = "The server", "Bounds", "Advanced"


def validate(
    url: Annotated[str, typer.Argument(metavar="URL", help="An OpenAI-compatible server, such as http://localhost:8000.")],
    source: Annotated[
        str, typer.Argument(metavar="TRACE|SCENARIO", help="What to replay. Default: a designed probe of a few minutes.")
    ] = "",
    model: Annotated[
        str, typer.Option(metavar="NAME", help="Model, where the catalog does not know the served name.", autocompletion=named("models"))
    ] = "",
    machine: Annotated[
        str, typer.Option(metavar="NAME", help="Its machine: a catalog name or a calibrated .toml file.", autocompletion=named("machines"))
    ] = "",
    engine: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Engine, where the server does not say, or a fitted .toml file.", autocompletion=named("engines")
        ),
    ] = "",
    fit: Annotated[str, typer.Option(metavar="ENGINE.toml", help="Fit the engine's overheads on a probe and write them here.")] = "",
    tolerance: Annotated[str, typer.Option(metavar="P", help="How far a prediction may be off, such as 10%.")] = "10%",
    served_model: Annotated[str, typer.Option(metavar="NAME", help="Where it serves several.", rich_help_panel=_SERVER)] = "",
    key_env: Annotated[str, typer.Option(metavar="NAME", help="Variable that holds the key.", rich_help_panel=_SERVER)] = KEY_VARIABLE,
    ca: Annotated[str, typer.Option(metavar="FILE", help="Certificates to trust.", rich_help_panel=_SERVER)] = "",
    insecure: Annotated[bool, typer.Option("--insecure", help="Do not check the certificate.", rich_help_panel=_SERVER)] = False,
    metrics: Annotated[str, typer.Option(metavar="URL", help="Its metrics, where not at /metrics.", rich_help_panel=_SERVER)] = "",
    prompts: Annotated[
        str, typer.Option(metavar="KIND", help="ids, text or chat. Default: the first that works.", rich_help_panel=_SERVER)
    ] = "",
    gpu_kv: Annotated[str, typer.Option(metavar="SIZE", help="Its GPU memory for KV, over all ranks.", rich_help_panel=_SERVER)] = "",
    cpu: Annotated[str, typer.Option(metavar="SIZE", help="Its CPU tier.", rich_help_panel=_SERVER)] = "",
    disk: Annotated[str, typer.Option(metavar="SIZE", help="Its disk tier.", rich_help_panel=_SERVER)] = "",
    remote: Annotated[str, typer.Option(metavar="SIZE", help="Its remote pool.", rich_help_panel=_SERVER)] = "",
    tp: Annotated[int, typer.Option(metavar="N", help="Its tensor parallel ranks.", rich_help_panel=_SERVER)] = 0,
    kv_dtype: Annotated[str, typer.Option(metavar="D", help="Its KV dtype.", rich_help_panel=_SERVER)] = "",
    limit: Annotated[int, typer.Option(metavar="N", help="At most N requests.", rich_help_panel=_BOUNDS)] = 1000,
    max_tokens: Annotated[str, typer.Option(metavar="N", help="At most N tokens in all.", rich_help_panel=_BOUNDS)] = "20000000",
    max_seconds: Annotated[str, typer.Option(metavar="T", help="Send nothing later.", rich_help_panel=_BOUNDS)] = "10min",
    max_errors: Annotated[int, typer.Option(metavar="N", help="Stop after N failures.", rich_help_panel=_BOUNDS)] = 5,
    silence: Annotated[str, typer.Option(metavar="T", help="A stream silent so long has failed.", rich_help_panel=_BOUNDS)] = "2min",
    speedup: Annotated[float, typer.Option(metavar="X", help="Replay the arrivals X times as fast.", rich_help_panel=_BOUNDS)] = 0.0,
    max_input: Annotated[int, typer.Option(metavar="N", help="Drop longer prompts.", rich_help_panel=_BOUNDS)] = 0,
    processes: Annotated[int, typer.Option(metavar="N", help="Client processes. Default: by streams.", rich_help_panel=_ADVANCED)] = 0,
    results: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            help="Read results of aiperf, guidellm, vllm bench serve or kvplan validate instead.",
            rich_help_panel=_ADVANCED,
        ),
    ] = "",
    cold: Annotated[bool, typer.Option("--no-warm-up", help="Send no requests beforehand.", rich_help_panel=_ADVANCED)] = False,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of the probe's choice.", rich_help_panel=_ADVANCED)] = 0,
    sets: Set = None,
    html: Html = None,
    as_json: As_json = False,
    quiet: Quiet = False,
) -> int:
    """Replay a trace against a running server and hold the prediction against what is measured."""
    try:
        from kvplan.live.validate import ValidateQuestion
    except ModuleNotFoundError as error:
        raise MissingError(f"validate needs the package {error.name}, which is not installed", hint="pip install 'kvplan[live]'") from None
    from kvplan.live import course
    from kvplan.live.records import Endpoint, Limits
    from kvplan.live.world import Given
    from kvplan.report.validate import show

    given = Given(
        model=model, machine=machine, engine=engine, gpu_kv=gpu_kv, cpu=cpu, disk=disk, remote=remote, tp=tp,
        kv_dtype=kv_dtype, sets=tuple(sets or ()), speedup=speedup, limit=0, max_input=max_input,
    )  # fmt: skip
    endpoint = Endpoint(url=address(url), model=served_model, key=os.environ.get(key_env, ""), verify=not insecure, ca_file=ca)
    if key_env != KEY_VARIABLE and not endpoint.key:
        raise InputError(f"--key-env {key_env}: no such variable, or it is empty")
    question = ValidateQuestion(
        endpoint=endpoint,
        source=source,
        given=given,
        limits=Limits(
            requests=_positive("--limit", limit),
            tokens=units.parse_tokens(max_tokens),
            seconds=units.parse_seconds(max_seconds),
            errors=_positive("--max-errors", max_errors),
            silence_s=units.parse_seconds(silence),
        ),
        tolerance=_share(tolerance),
        shape=_one_of("--prompts", prompts, ("ids", "text", "chat")),
        metrics_at=metrics,
        processes=processes,
        warm=not cold,
    )

    def say(text: str) -> None:
        if not quiet:
            err().print(text, markup=False)

    check_html(html)
    result = course.run(question, say, fit=fit, results=results, seed=seed)
    if as_json:
        emit_json(result)
    else:
        show(out(), result)
    for text in [] if quiet else result.warnings:
        warn(text)
    reported(result, html, quiet=quiet)
    return _exit(result)


def _exit(result: Any) -> int:
    codes = {"agrees": Exit.DONE, "off": Exit.NO, "incomplete": Exit.NO, "refused": Exit.MISSING, "interrupted": Exit.INTERRUPTED}
    if result.fitted is not None and not result.fitted.accepted and result.verdict == "agrees":
        return Exit.NO
    return codes[result.verdict]


def _positive(option: str, value: int) -> int:
    if value < 1:
        raise InputError(f"{option} must be at least 1, not {value}")
    return value


def _share(text: str) -> float:
    """A share from `10%` or `0.1`. Raises InputError outside of 0 to 1."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        raise InputError(f"--tolerance {text}: not a share", hint="write 10% or 0.1") from None
    if not 0 < value < 1:
        raise InputError(f"--tolerance {text}: must lie between 0 and 100 %", hint="write 10% or 0.1")
    return value


def _one_of(option: str, text: str, choices: tuple[str, ...]) -> Any:
    if text and text not in choices:
        raise InputError(f"{option} {text}: choose {', '.join(choices)}")
    return text or None
