"""Prompts that a file holds as text: their tokens by a local tokenizer, or estimated."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from kvplan.errors import InputError, MissingError
from kvplan.traces.formats import keys
from kvplan.traces.formats.reader import ReadNotes, ReadOptions
from kvplan.traces.source import TraceSource

CHARS_PER_TOKEN = 4
"""The rule of thumb for English text; code and other languages differ by up to a factor of two."""
TOKEN_BLOCK, TEXT_BLOCK = 16, 64


class Message(msgspec.Struct):
    """One message of a chat, as OpenAI's API names it."""

    role: str = ""
    content: str | list[dict[str, Any]] | None = None
    tool_calls: list[Any] | None = None


def joined(messages: Iterable[Message]) -> str:
    """The text of a chat: role and content of each message, in order, so that a longer chat starts with the shorter
    one's text.
    """
    return "".join(f"<{message.role}>\n{_content(message)}\n" for message in messages)


def _content(message: Message) -> str:
    parts = message.content if isinstance(message.content, list) else [{"text": message.content or ""}]
    text = "\n".join(str(part.get("text", "")) for part in parts)
    return text + (msgspec.json.encode(message.tool_calls).decode() if message.tool_calls else "")


def block_tokens(source: TraceSource, options: ReadOptions) -> int:
    """The block size for text: an engine's usual one with a tokenizer, a coarser one for estimates."""
    return options.block_tokens or (TOKEN_BLOCK if options.tokenizer else TEXT_BLOCK)


class Words:
    """Counts tokens and names blocks of text, full blocks only as engines cache them."""

    def __init__(self, options: ReadOptions, size: int, notes: ReadNotes) -> None:
        self._size, self._notes = size, notes
        self._tokenizer = _load(options.tokenizer) if options.tokenizer else None

    def prompt(self, text: str) -> tuple[int, tuple[int, ...]]:
        """Tokens of a prompt and its prefix keys."""
        if self._tokenizer is None:
            return self.count(text), keys.of_text(text, self._size * CHARS_PER_TOKEN)
        ids = self._tokenizer.encode(text).ids
        return len(ids), keys.of_tokens(ids, self._size)

    def count(self, text: str) -> int:
        """Tokens of a text."""
        if self._tokenizer is None:
            self._notes.warn(f"lengths are estimated at {CHARS_PER_TOKEN} characters a token: name a tokenizer.json to count them")
            return -(-len(text) // CHARS_PER_TOKEN)
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)


def _load(path: str) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise MissingError(
            "counting tokens needs the package tokenizers, which is not installed", hint="pip install 'kvplan[traces]'"
        ) from None
    try:
        return Tokenizer.from_file(path)
    except Exception as error:  # the package raises plain Exception
        raise InputError(f"{path}: not a tokenizer.json ({error})") from None
