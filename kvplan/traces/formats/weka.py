"""WEKA's agentic coding sessions: one JSON object a file, times in s from the session's start, ids of full blocks
local to the file.

Subagents run beside their parent, with times from their own start and the parent's ids. A directory of files is one
workload; its sessions all start at 0, as the files do not say when each began.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec

from kvplan.request import Request
from kvplan.traces.formats import jsonl
from kvplan.traces.formats.reader import Reader, ReadNotes, ReadOptions, Rows, moment
from kvplan.traces.source import TraceSource

_LOCAL_BITS = 32
_LocalId = Annotated[int, msgspec.Meta(ge=0, lt=2**_LOCAL_BITS)]


class _Call(msgspec.Struct, rename={"input": "in", "output": "out"}):
    t: float
    type: str = "n"
    input: jsonl.Tokens = 0
    output: jsonl.Tokens = 0
    hash_ids: tuple[_LocalId, ...] = ()
    think_time: Annotated[float, msgspec.Meta(ge=0, le=4e9)] | None = None
    agent_id: str = ""
    requests: list[dict[str, Any]] | None = None


class _Session(msgspec.Struct):
    block_size: Annotated[int, msgspec.Meta(ge=1, le=jsonl.MAX_TOKENS)]
    requests: list[_Call]
    id: str = ""


def _sniff(source: TraceSource) -> bool:
    head = source.head.lstrip()
    names = (b"block_size", b"requests", b"hash_ids")
    return head.startswith(b"{") and all(b'"%s"' % name in head for name in names)


def _block_tokens(source: TraceSource, options: ReadOptions) -> int:
    found = re.search(rb'"block_size"\s*:\s*(\d{1,9})\b', source.head)
    return int(found[1]) if found else 0


def _read(source: TraceSource, options: ReadOptions, notes: ReadNotes) -> Rows:
    session = jsonl.document(source, _Session)
    size, name = session.block_size, session.id or str(source.ordinal)
    seen: set[str] = set()
    for index, (call, start_s, agent) in enumerate(_flatten(source, session.requests, 0.0, name)):
        if len(call.hash_ids) > -(-call.input // size):
            raise source.error(index + 1, f"{len(call.hash_ids):,} hash_ids do not fit {call.input:,} tokens")
        think_s = call.think_time if call.think_time is not None and agent in seen else -1.0
        seen.add(agent)
        yield (
            index + 1,
            Request(
                index=index,
                arrival_s=start_s + moment(source, index + 1, call.t, 1.0),
                prompt_tokens=call.input,
                output_tokens=call.output,
                blocks=tuple(source.ordinal << _LOCAL_BITS | block for block in call.hash_ids),
                session=agent,
                think_s=think_s,
            ),
        )


def _flatten(source: TraceSource, calls: list[_Call], start_s: float, session: str) -> Iterator[tuple[_Call, float, str]]:
    """Calls in the order of the file, each with the start of its agent and the agent's name."""
    for number, call in enumerate(calls, start=1):
        if call.type != "subagent":
            yield call, start_s, session
            continue
        try:
            inner = msgspec.convert(call.requests or [], list[_Call])
        except msgspec.ValidationError as error:
            raise source.error(number, f"in a subagent: {jsonl.problem(error)}") from None
        for each in inner:
            yield each, start_s + moment(source, number, call.t, 1.0), f"{session}/{call.agent_id or number}"


READER = Reader(_sniff, _block_tokens, _read)
