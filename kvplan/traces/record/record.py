"""Record a trace: read a log, replace what it names by salted hashes, write times, lengths and hashes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from kvplan.errors import InputError
from kvplan.request import Request
from kvplan.results.trace import ReadReport
from kvplan.traces.trace import open_trace
from kvplan.traces.write import convert

REFUSED = {
    "kv-events": "KV events name new blocks only: hits are silent, and no request has a name; record the request log instead",
    "otel": "OpenTelemetry spans hold lengths and times, no content; record the request log instead",
}
"""Sources from which no trace with content can come, and why."""


def record(
    source: str,
    output: str,
    *,
    format: str | None = None,
    tokenizer: str | None = None,
    block_tokens: int | None = None,
    output_tokens: int = 0,
    salt: bytes = b"",
    to: str = "native",
) -> tuple[int, list[str], ReadReport]:
    """Write the trace of a log; returns the number of requests, what the format written cannot hold, and what reading met.

    `salt` empty: a new one, so that hashes of two recordings cannot be compared, and no dictionary of prompts finds them.
    `output_tokens` stands in for answers that the source does not hold. Raises InputError as `open_trace` does.
    """
    if format in REFUSED:
        raise InputError(f"{source}: {REFUSED[format]}", hint="formats: lmcache-hashes, dynamo, vllm-log, sglang-log, openai")
    trace = open_trace(source, format=format, tokenizer=tokenizer, block_tokens=block_tokens)
    if trace.format == "lmcache-hashes" and not output_tokens:
        raise InputError(f"{source}: LMCache's lookup hashes hold no answers", hint="say how long they are: --output-tokens N")
    salted = _Salted(salt or os.urandom(32), output_tokens if trace.format == "lmcache-hashes" else 0)
    count, losses = convert(
        salted.of(iter(trace)), output, block_tokens=trace.block_tokens, name=Path(output).name.partition(".")[0], format=to
    )
    return count, losses, trace.report


class _Salted:
    """Requests whose block keys and session names are keyed hashes."""

    def __init__(self, salt: bytes, output_tokens: int) -> None:
        self._salt = salt[:64]
        self._output_tokens = output_tokens
        self._known: dict[int, int] = {}

    def of(self, requests: Iterator[Request]) -> Iterator[Request]:
        """The same requests; equal keys stay equal."""
        for request in requests:
            yield msgspec.structs.replace(
                request,
                blocks=tuple(self._block(key) for key in request.blocks),
                session=self._digest(b"s" + request.session.encode())[:8].hex() if request.session else "",
                output_tokens=self._output_tokens or request.output_tokens,
            )

    def _block(self, key: int) -> int:
        found = self._known.get(key)
        if found is None:
            found = int.from_bytes(self._digest(b"b" + str(key).encode())[:8], "little") >> 1
            self._known[key] = found
        return found

    def _digest(self, what: bytes) -> bytes:
        return hashlib.blake2b(what, key=self._salt, digest_size=16).digest()
