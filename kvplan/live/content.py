"""Prompts for a replay: the content of a block is a function of the trace, the block and a salt of the run, so that blocks
are shared as in the trace and every run finds cold caches."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np

from kvplan.errors import InputError
from kvplan.live.client import body
from kvplan.live.records import Endpoint, Limits, Planned
from kvplan.request import Request

LOW, HIGH = 1000, 30_000
"""Token ids that are used: special tokens lie below or far above in every vocabulary of 32,000 words and more (assumed; Llama,
Qwen, Mistral, Gemma, GPT-OSS and DeepSeek hold to it)."""

_COMMON = (
    "time year people way day man thing woman life child world school state family student group country problem hand part "
    "place case week company system program question work government number night point home water room mother area money "
    "story fact month lot right study book eye job word business issue side kind head house service friend father power "
    "hour game line end member law car city community name president team minute idea kid body information back parent face "
    "others level office door health person art war history party result change morning reason research girl guy moment air "
    "teacher force education foot boy age policy process music market sense nation plan college interest death experience "
    "effect use class control field development role effort rate heart drug show leader light voice wife police mind price "
    "report decision son view relationship town road arm difference value building action season society tax director "
    "position player record paper space ground form event official matter center couple site project activity star table "
    "need court oil situation cost industry figure street image phone data picture practice piece land product doctor wall "
    "patient worker news test movie north love support technology step baby computer type attention film tree source "
    "organization hair look window culture chance brother energy period course summer plant cup "
)
WORDS = _COMMON.split()
"""Common words, each one token after a space in the usual vocabularies (assumed; the server's own count is what is compared)."""


class Content:
    """Writes prompts as token ids or as text."""

    def __init__(self, trace: str, block_tokens: int, salt: bytes, *, text: bool = False) -> None:
        self._seed = hashlib.blake2b(trace.encode() + b"\0" + salt, digest_size=16).digest()
        self._block_tokens, self._text = block_tokens, text
        self._pieces: dict[int, list[str]] = {}

    def prompt(self, request: Request) -> str:
        """The prompt of a request: ids as they stand in a JSON array, or words."""
        pieces: list[str] = []
        for key in request.blocks:
            pieces += self._block(key)
        del pieces[request.prompt_tokens :]
        if len(pieces) < request.prompt_tokens:  # what no block names is the request's own
            pieces += self._pieces_of(f"own {request.index}", request.prompt_tokens - len(pieces))
        return (" " if self._text else ",").join(pieces)

    def _block(self, key: int) -> list[str]:
        found = self._pieces.get(key)
        if found is None:
            found = self._pieces[key] = self._pieces_of(f"block {key}", self._block_tokens)
        return found

    def _pieces_of(self, what: str, count: int) -> list[str]:
        digest = hashlib.blake2b(what.encode(), key=self._seed, digest_size=16).digest()
        draw = np.random.default_rng(int.from_bytes(digest, "little"))
        if self._text:
            return [WORDS[at] for at in draw.integers(0, len(WORDS), count)]
        return list(map(str, draw.integers(LOW, HIGH, count).tolist()))


def within(requests: list[Request], limits: Limits) -> tuple[list[Request], str]:
    """The first requests that the limits allow, and which limit cut them; empty when none did."""
    tokens = 0
    first_s = requests[0].arrival_s if requests else 0.0
    for at, request in enumerate(requests):
        tokens += request.prompt_tokens + max(1, request.output_tokens)
        if at >= limits.requests:
            return requests[:at], f"{limits.requests:,} requests"
        if tokens > limits.tokens:
            return requests[:at], f"{limits.tokens:,} tokens"
        if request.arrival_s - first_s > limits.seconds:
            return requests[:at], f"{limits.seconds:g} s"
    return requests, ""


def planned(requests: list[Request], content: Content, endpoint: Endpoint) -> Iterator[Planned]:
    """The requests with their bodies, written before the clock starts so that it costs no time while others are read.

    Raises InputError without requests.
    """
    if not requests:
        raise InputError("there is no request to send")
    first_s = requests[0].arrival_s
    for request in requests:
        output = max(1, request.output_tokens)
        yield Planned(
            index=request.index,
            due_s=request.arrival_s - first_s,
            body=body(endpoint, content.prompt(request), output),
            prompt_tokens=request.prompt_tokens,
            output_tokens=output,
            session=request.session,
            think_s=request.think_s,
        )
