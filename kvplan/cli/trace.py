"""kvplan trace: inspect, convert and generate traces; hit rate against capacity."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from kvplan.cli.console import Exit, emit_json, out, warn
from kvplan.cli.main import guard

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Inspect, convert and generate traces; hit rate against capacity.",
)

_ADVANCED = "Advanced"

TracePath = Annotated[str, typer.Argument(metavar="TRACE", help="A file or folder; its format is recognised.")]
Json = Annotated[bool, typer.Option("--json", help="Write one JSON document.", rich_help_panel="Common")]
Model = Annotated[str | None, typer.Option(help="Show sizes in GiB for this model.", rich_help_panel="Common")]
Limit = Annotated[int | None, typer.Option(help="Read the first requests only.", rich_help_panel="Common")]
Format = Annotated[str | None, typer.Option(help="Format, if recognised wrongly.", rich_help_panel=_ADVANCED)]
BlockTokens = Annotated[int | None, typer.Option(help="Tokens of a block.", rich_help_panel=_ADVANCED)]
TimeUnit = Annotated[str | None, typer.Option(help="Unit of the times: s, ms, us, ns.", rich_help_panel=_ADVANCED)]
Tokenizer = Annotated[str | None, typer.Option(help="tokenizer.json for text.", rich_help_panel=_ADVANCED)]
MaxInput = Annotated[int | None, typer.Option(help="Drop longer prompts (tokens).", rich_help_panel=_ADVANCED)]


@app.command(epilog="kvplan trace inspect trace.jsonl\n\nkvplan trace inspect sessions/ --json")
@guard
def inspect(
    trace: TracePath,
    json: Json = False,
    limit: Limit = None,
    format: Format = None,
    block_tokens: BlockTokens = None,
    time_unit: TimeUnit = None,
    tokenizer: Tokenizer = None,
    max_input: MaxInput = None,
) -> int:
    """Show rates, lengths, sessions, sharing and quirks of a trace."""
    from kvplan.report.trace import inspect_view
    from kvplan.traces.inspect import inspect as inspect_trace

    opened = _open(trace, format, block_tokens, time_unit, tokenizer, limit, max_input)
    return _emit(inspect_trace(opened), inspect_view, json)


@app.command(
    epilog="kvplan trace curve trace.jsonl --model llama-3.1-8b\n\n"
    "kvplan trace curve trace.jsonl --policy lru,fifo,opt --capacity 5000,20000 --warmup 0.5"
)
@guard
def curve(
    trace: TracePath,
    policy: Annotated[str, typer.Option(help="lru, fifo, opt; commas.", rich_help_panel="Common")] = "lru",
    capacity: Annotated[str, typer.Option(help="Blocks, or GiB with --model; commas.", rich_help_panel="Common")] = "",
    warmup: Annotated[
        float, typer.Option(help="Share of the requests left out of the rates.", rich_help_panel="Common")
    ] = 0.0,
    model: Model = None,
    tiers: Annotated[str, typer.Option(help="Tiers from the top down, as --capacity.", rich_help_panel="Common")] = "",
    json: Json = False,
    kv_dtype: Annotated[str, typer.Option(help="KV dtype, for sizes.", rich_help_panel=_ADVANCED)] = "auto",
    limit: Limit = None,
    format: Format = None,
    block_tokens: BlockTokens = None,
    time_unit: TimeUnit = None,
    tokenizer: Tokenizer = None,
) -> int:
    """Show the hit rate at every capacity of a cache."""
    from kvplan.report.trace import curve_view
    from kvplan.traces.curve import curve as curve_of

    result = curve_of(
        _open(trace, format, block_tokens, time_unit, tokenizer, limit, None),
        policies=_split(policy),
        capacities=_split(capacity),
        tiers=_split(tiers),
        warmup=warmup,
        model=model,
        kv_dtype=kv_dtype,
    )
    return _emit(result, curve_view, json)


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

    return open_trace(
        path,
        format=format,
        block_tokens=block_tokens,
        time_unit=time_unit,
        tokenizer=tokenizer,
        limit=limit,
        max_input=max_input,
    )


def _emit(result: Any, view: Any, json: bool) -> int:
    for sentence in result.warnings:
        warn(sentence)
    if json:
        emit_json(result)
    else:
        out().print(view(result))
    return Exit.DONE


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
