"""kvplan trace: inspect, convert and generate traces; hit rate against capacity."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from kvplan.cli.console import Exit, emit_json, err, out, warn
from kvplan.cli.export import check_export, exported
from kvplan.cli.html import check_html, reported
from kvplan.cli.options import Export, Html, named, scenarios
from kvplan.errors import InputError
from kvplan.outputs import replaced
from kvplan.traces.formats import FORMATS

EXAMPLES = {
    "inspect": """
kvplan trace inspect trace.jsonl
kvplan trace inspect sessions/ --json
""",
    "curve": """
kvplan trace curve trace.jsonl --model llama-3.1-8b
kvplan trace curve trace.jsonl --policy lru,fifo,opt --capacity 5000,20000 --warmup 0.5
""",
    "convert": """
kvplan trace convert trace.jsonl trace.csv --to azure
kvplan trace convert sessions/ all.jsonl.gz
""",
    "generate": """
kvplan trace generate chat.toml chat.jsonl
kvplan trace generate twice.toml twice.jsonl.gz --to mooncake
""",
    "record": """
kvplan trace record lookup_hashes/ -o trace.jsonl --output-tokens 300
kvplan trace record vllm.log -o trace.jsonl.gz
""",
}

_ADVANCED = "Advanced"

_FORMATS = ", ".join(FORMATS)

_WRITTEN = "native, mooncake, kvcache-simulator, azure or vidur."
_TRACE = "A file or folder, whose format is recognised; or a shipped scenario's name."
TracePath = Annotated[str, typer.Argument(metavar="TRACE", help=_TRACE, autocompletion=scenarios)]
Json = Annotated[bool, typer.Option("--json", help="Write one JSON document.")]
Model = Annotated[str | None, typer.Option(metavar="NAME", help="Show sizes in GiB for this model.", autocompletion=named("models"))]
Limit = Annotated[int | None, typer.Option(metavar="N", help="Read the first N requests only.")]
Format = Annotated[str | None, typer.Option(metavar="NAME", help=f"Format, where not recognised: {_FORMATS}.", rich_help_panel=_ADVANCED)]
BlockTokens = Annotated[int | None, typer.Option(metavar="N", help="Tokens of a block.", rich_help_panel=_ADVANCED)]
TimeUnit = Annotated[str | None, typer.Option(metavar="UNIT", help="Unit of the times: s, ms, us, ns.", rich_help_panel=_ADVANCED)]
Tokenizer = Annotated[str | None, typer.Option(metavar="FILE", help="tokenizer.json for text.", rich_help_panel=_ADVANCED)]
MaxInput = Annotated[int | None, typer.Option(metavar="N", help="Drop longer prompts (tokens).", rich_help_panel=_ADVANCED)]


def inspect(
    trace: TracePath,
    json: Json = False,
    export: Export = None,
    limit: Limit = None,
    format: Format = None,
    block_tokens: BlockTokens = None,
    time_unit: TimeUnit = None,
    tokenizer: Tokenizer = None,
    max_input: MaxInput = None,
) -> int:
    """Show rates, lengths, sessions, sharing and quirks of a trace."""
    from kvplan.report.trace import show_inspect
    from kvplan.traces.reuse.inspect import inspect as inspect_trace

    opened = _open(trace, format, block_tokens, time_unit, tokenizer, limit, max_input)
    return _emit(inspect_trace(opened), show_inspect, json, export)


def curve(
    trace: TracePath,
    policy: Annotated[str, typer.Option(metavar="P[,P]", help="lru, fifo, opt.")] = "lru",
    capacity: Annotated[str, typer.Option(metavar="N[,N]", help="Capacities in blocks, or sizes such as 64GiB with --model.")] = "",
    warmup: Annotated[float, typer.Option(metavar="F", help="Share of the requests left out of the rates.")] = 0.0,
    model: Model = None,
    tiers: Annotated[str, typer.Option(metavar="N[,N]", help="Tiers from the top down, as --capacity.")] = "",
    html: Html = None,
    json: Json = False,
    export: Export = None,
    kv_dtype: Annotated[str, typer.Option(metavar="D", help="KV dtype, for sizes.", rich_help_panel=_ADVANCED)] = "auto",
    limit: Limit = None,
    format: Format = None,
    block_tokens: BlockTokens = None,
    time_unit: TimeUnit = None,
    tokenizer: Tokenizer = None,
) -> int:
    """Show the hit rate at every capacity of a cache."""
    from kvplan.report.trace import show_curve
    from kvplan.traces.reuse.curve import curve as curve_of

    check_html(html)
    result = curve_of(
        _open(trace, format, block_tokens, time_unit, tokenizer, limit, None),
        policies=_split(policy),
        capacities=_split(capacity),
        tiers=_split(tiers),
        warmup=warmup,
        model=model,
        kv_dtype=kv_dtype,
    )
    code = _emit(result, show_curve, json, export)
    reported(result, html, quiet=False)
    return code


def convert(
    trace: TracePath,
    output: Annotated[str, typer.Argument(metavar="OUT", help="The file to write; .gz or .zst compresses.")],
    to: Annotated[str, typer.Option(metavar="FORMAT", help=f"{_WRITTEN} Default: native.")] = "",
    limit: Limit = None,
    max_input: MaxInput = None,
    format: Format = None,
    block_tokens: BlockTokens = None,
    time_unit: TimeUnit = None,
    tokenizer: Tokenizer = None,
) -> int:
    """Write a trace in another format, and say what that cannot hold."""
    from kvplan.traces.write import convert as write
    from kvplan.traces.write import format_for

    to = format_for(output, to)
    opened = _open(trace, format, block_tokens, time_unit, tokenizer, limit, max_input)
    for sentence in opened.report.sentences():
        warn(sentence)
    old = replaced(output)
    _written(output + old, to, *write(opened, output, block_tokens=opened.block_tokens, name=opened.name, format=to, source=trace))
    return Exit.DONE


def generate(
    spec: Annotated[
        str, typer.Argument(metavar="SPEC.toml", help="Clients to generate, or a trace to scale; or a shipped one's name, such as rag.")
    ],
    output: Annotated[str, typer.Argument(metavar="OUT", help="The file to write; .gz or .zst compresses.")],
    to: Annotated[str, typer.Option(metavar="FORMAT", help=f"{_WRITTEN} Default: native.")] = "",
    seed: Annotated[int | None, typer.Option(metavar="N", help="In place of the specification's.")] = None,
) -> int:
    """Generate a trace from clients, or scale a real one up or down.

    SPEC.toml holds seed, duration_s and a table of clients for each kind of
    user: kind = chat, agent, rag or batch; sessions_per_s; arrivals = poisson,
    gamma, diurnal or burst; lengths as a number, { mean, cv } or { trace }.
    Or it holds a table scale with trace and users, to add users to a real one.
    Examples lie in scenarios/traces.
    """
    from kvplan.traces.generate.generate import generate as requests_of
    from kvplan.traces.generate.spec import load_spec, spec_file
    from kvplan.traces.write import convert as write
    from kvplan.traces.write import format_for

    to = format_for(output, to)
    wanted = load_spec(spec, seed=seed)
    block_tokens, requests = requests_of(wanted, folder=spec_file(spec).parent)
    old = replaced(output)
    _written(output + old, to, *write(requests, output, block_tokens=block_tokens, name=wanted.name, format=to, source=spec))
    return Exit.DONE


def record(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A log, or a folder of logs; its format is recognised.")],
    output: Annotated[str, typer.Option("--output", "-o", metavar="OUT", help="The trace to write; .gz or .zst compresses.")] = "",
    format: Annotated[
        str | None, typer.Option(metavar="NAME", help="lmcache-hashes, dynamo, vllm-log, sglang-log or openai, where not recognised.")
    ] = None,
    tokenizer: Annotated[str | None, typer.Option(metavar="FILE", help="tokenizer.json, for logs that hold text.")] = None,
    output_tokens: Annotated[int, typer.Option(metavar="N", help="Length of answers, where the log holds none.")] = 0,
    to: Annotated[str, typer.Option(metavar="FORMAT", help=_WRITTEN, rich_help_panel=_ADVANCED)] = "native",
    block_tokens: BlockTokens = None,
) -> int:
    """Record a trace from what an engine or cache has logged: times, lengths and salted hashes of blocks, never text.

    LMCache: lmcache server --lookup-hash-log-dir DIR. Dynamo: DYN_REQUEST_TRACE=1. vLLM: --enable-log-requests with
    VLLM_LOGGING_LEVEL=DEBUG. SGLang: --log-requests --log-requests-level 3 --log-requests-format json. Access logs in OpenAI's
    form: with a tokenizer. KV events do not show hits and are no source.
    """
    from kvplan.traces.record.record import record as write

    if not output:
        raise InputError("kvplan trace record: where to?", hint="name the file: -o trace.jsonl")
    count, losses, report = write(
        source, output, format=format, tokenizer=tokenizer, block_tokens=block_tokens, output_tokens=output_tokens, to=to
    )
    for sentence in report.sentences():
        warn(sentence)
    _written(output, to, count, losses)
    return Exit.DONE


def _open(
    path: str,
    format: str | None,
    block_tokens: int | None,
    time_unit: str | None,
    tokenizer: str | None,
    limit: int | None,
    max_input: int | None,
) -> Any:
    from kvplan.traces import open_trace
    from kvplan.traces.shipped import shipped

    return open_trace(
        shipped(path),
        format=format,
        block_tokens=block_tokens,
        time_unit=time_unit,
        tokenizer=tokenizer,
        limit=min(limit, 10**12) if limit else limit,
        max_input=max_input,
        hold=False,
    )


def _emit(result: Any, view: Any, json: bool, export: str | None) -> int:
    if export is not None:
        check_export(export)
    for sentence in result.warnings:
        warn(sentence)
    if json:
        emit_json(result)
    else:
        view(out(), result)
    exported(result, export, quiet=False)
    return Exit.DONE


def _written(output: str, format: str, count: int, losses: list[str]) -> None:
    for sentence in losses:
        warn(sentence)
    err().print(f"{output}: {count:,} requests as {format}", markup=False)


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


COMMANDS: dict[str, Callable[..., int]] = {"inspect": inspect, "curve": curve, "convert": convert, "generate": generate, "record": record}
"""Name of a command of `kvplan trace` -> what runs it."""
