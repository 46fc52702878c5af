"""How a config.json was read, for the terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator

import msgspec
from rich.console import Console

from kvplan.memory.formats import LOGICAL
from kvplan.memory.kv import growth_bytes, sequence_bytes
from kvplan.memory.weights import parameters
from kvplan.model import Explained, Layers
from kvplan.report.tables import print_rows
from kvplan.units import format_bytes

_LENGTH = 32_768
_WIDEST = 72


def show(console: Console, found: Explained) -> None:
    """The family, its groups of layers, and the fields that decided and that did not."""
    model = found.model
    how = model.family if found.known else f"{model.family or 'no model_type'}, which is not known: as a plain decoder"
    console.print(f"[bold]{model.name}[/] · read as {how} · {model.source}", highlight=False)
    rows = [["layers", "kind", "what each keeps"]]
    rows += [[f"{layer.count:,}", layer.kind, ", ".join(_kept(layer))] for layer in model.layers]
    print_rows(console, rows, left=(1, 2))
    fmt = LOGICAL["bf16"]
    size, growth = sequence_bytes(model, _LENGTH, fmt), growth_bytes(model, _LENGTH, fmt)
    kv = f"bf16 KV of {_LENGTH:,} tokens {format_bytes(size)}, {growth:,} B for each further one"
    console.print(f"{kv} · {parameters(model).total / 1e9:,.2f} B parameters", highlight=False)
    for title, fields in (("read", found.read), ("the family's default", found.assumed)):
        if fields:
            console.print(f"\n{title}", style="bold")
            for name, value in sorted(fields.items()):
                text = json.dumps(value)
                console.print(f"  {name} = {text if len(text) <= _WIDEST else text[: _WIDEST - 3] + '...'}", markup=False, highlight=False)
    console.print(f"\nnot looked at: {', '.join(found.unread) or 'nothing'}", markup=False, highlight=False)


def _kept(layer: Layers) -> Iterator[str]:
    """What a layer sets apart from kind, count and weights."""
    for name, value in msgspec.to_builtins(layer).items():  # defaults are left out
        if name not in ("kind", "count") and "params" not in name:
            yield f"{name} {value:,}" if isinstance(value, int) else f"{name} {value}"
