"""Streams of an OpenAI-compatible server: events out of bytes, and how many tokens had come at each."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec


class Details(msgspec.Struct):
    """`cached_tokens` of the prompt."""

    cached_tokens: int | None = None


class Sglext(msgspec.Struct):
    """What SGLang adds at the end when asked: where cached tokens came from (device, host, storage)."""

    cached_tokens_details: dict[str, Any] | None = None


class Usage(msgspec.Struct):
    """What the server counted."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: Details | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class _Choice(msgspec.Struct):
    text: str | None = None
    delta: _Delta | None = None
    finish_reason: str | None = None


class Chunk(msgspec.Struct):
    """One event of a stream."""

    choices: list[_Choice] = []
    usage: Usage | None = None
    sglext: Sglext | None = None
    error: Any = None

    @property
    def has_text(self) -> bool:
        """Does it carry text."""
        for choice in self.choices:
            delta = choice.delta or _Delta()
            if choice.text or delta.content or delta.reasoning_content or delta.reasoning:
                return True
        return False

    @property
    def finished(self) -> bool:
        """Does it say why the answer ended."""
        return any(choice.finish_reason for choice in self.choices)


decode = msgspec.json.Decoder(Chunk).decode
DONE = b"[DONE]"
MAX_EVENT_BYTES = 16 * 2**20


class EventCutter:
    """Cuts a stream of bytes into the data of its events, wherever the network cut it."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> list[bytes]:
        """The data of the events that are complete with this piece. Raises ValueError on one that does not end."""
        lines = (self._rest + piece).split(b"\n")
        self._rest = lines.pop()
        if len(self._rest) > MAX_EVENT_BYTES:
            raise ValueError(f"an event of more than {MAX_EVENT_BYTES:,} bytes")
        return [line[5:].strip() for line in lines if line.startswith(b"data:")]


class Event(NamedTuple):
    """One event with a choice: when it came, the tokens so far where the server says them, and whether it has text."""

    moment_s: float
    so_far: int | None
    has_text: bool


def counted(events: list[Event], total: int | None) -> list[tuple[float, int]]:
    """(moment, tokens so far) of every event that brought tokens.

    A server that counts in every chunk is believed. Otherwise every event is a token, an empty one too (tokens may have no
    text); one event more than `total` is an empty head or tail without a token; fewer than `total` mean several tokens an
    event: as many in each where that is whole, else one in the first and the rest spread evenly.
    """
    if events and all(event.so_far is not None for event in events):
        found, before = [], 0
        for event in events:
            if event.so_far is not None and event.so_far > before:
                found.append((event.moment_s, event.so_far))
                before = event.so_far
        return found
    total = len(events) if total is None else total
    kept = list(events)
    if len(kept) > total and not kept[0].has_text:
        del kept[0]
    if len(kept) > total and not kept[-1].has_text:
        del kept[-1]
    kept = kept[:total] if len(kept) > total else kept
    if not kept:
        return []
    each, odd = divmod(total, len(kept))
    if not odd:
        return [(event.moment_s, each * (at + 1)) for at, event in enumerate(kept)]
    share = (total - 1) / max(1, len(kept) - 1)
    return [(event.moment_s, 1 + round(share * at)) for at, event in enumerate(kept)]
