"""ShareGPT: a JSON array (or JSON lines) of `conversations` of turns `from`, `value`; each answer is one request with
all turns before it.
"""

from __future__ import annotations

import msgspec

from kvplan.request import Request
from kvplan.traces.formats import jsonl, text
from kvplan.traces.formats.reader import Reader, ReadNotes, ReadOptions, Rows
from kvplan.traces.source import TraceSource

_ANSWERS = {"gpt", "assistant", "chatgpt", "bing", "bard", "model"}


class _Turn(msgspec.Struct, rename={"speaker": "from"}):
    value: str
    speaker: str = ""


class _Chat(msgspec.Struct):
    conversations: list[_Turn]
    id: str | int = ""


def _sniff(source: TraceSource) -> bool:
    return "conversations" in jsonl.first(source)


def _read(source: TraceSource, options: ReadOptions, notes: ReadNotes) -> Rows:
    words, index = text.Words(options, text.block_tokens(source, options), notes), 0
    notes.warn("this format has no times: every session starts at 0 s, and each turn follows at once on the last answer")
    for line, chat in jsonl.rows(source, _Chat):
        past, first = "", True
        for turn in chat.conversations:
            if turn.speaker in _ANSWERS and past:
                prompt, blocks = words.prompt(past)
                yield (
                    line,
                    Request(
                        index=index,
                        arrival_s=0.0,
                        prompt_tokens=prompt,
                        output_tokens=words.count(turn.value),
                        blocks=blocks,
                        session=str(chat.id or line),
                        think_s=-1.0 if first else 0.0,
                    ),
                )
                index, first = index + 1, False
            past += f"<{turn.speaker}>\n{turn.value}\n"


READER = Reader(_sniff, text.block_tokens, _read)
