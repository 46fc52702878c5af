"""How a server wants to be asked: token ids or text, and which fields beyond OpenAI's it takes."""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec

from kvplan.errors import InputError
from kvplan.live.client import StreamClient, body
from kvplan.live.content import Content
from kvplan.live.records import Answer, Endpoint, Limits, Planned, Shape
from kvplan.request import Request

TRIAL_TOKENS, TRIAL_OUTPUT = 48, 8
WARM_UP = (512, 2048)
"""Prompt lengths of the requests that are sent before the clock starts: an engine compiles at its first ones."""
SHAPES: tuple[Shape, ...] = ("ids", "text", "chat")
EXTRAS: dict[str, dict[str, bool]] = {"sglang": {"ignore_eos": True, "return_cached_tokens_details": True}}
"""Fields beyond OpenAI's by engine; others are asked for `ignore_eos` alone."""
SAYS_CACHED = {"vllm": "--enable-prompt-tokens-details", "sglang": "--enable-cache-report"}
"""The flag with which an engine tells cached tokens."""
REFUSED = frozenset({400, 404, 405, 422})
"""What a server answers to a way of asking that it does not know; another way may work."""


async def negotiate(endpoint: Endpoint, engine: str, limits: Limits, salt: bytes, shape: Shape | None = None) -> tuple[Endpoint, list[str]]:
    """The endpoint with the first way of asking that works, best first, and what a reader must know of it.

    Raises InputError when none does.
    """
    extras = EXTRAS.get(engine, {"ignore_eos": True})
    said = ""
    for way in [shape] if shape else SHAPES:
        for taken, counted in ((extras, True), (extras, False), ({}, False)):
            tried = msgspec.structs.replace(endpoint, shape=way, extras=taken, usage_in_chunks=counted)
            answer = await _trial(tried, limits, salt)
            if answer.ok:
                return tried, _remarks(tried, engine, answer)
            said = answer.error
            if answer.status in (401, 403):
                raise InputError(f"{endpoint.url} refuses the key: {said}", hint="name the variable that holds it: --key-env NAME")
            if answer.status not in REFUSED:  # the way of asking is not what is wrong
                return tried, [f"a first short request failed: {said}"]
    raise InputError(f"{endpoint.url} takes neither token ids nor text: {said}")


async def warm_up(endpoint: Endpoint, limits: Limits, salt: bytes, longest: int) -> None:
    """Some requests before the clock starts, of content that nothing else holds."""
    async with StreamClient(endpoint, limits) as client:
        for tokens in WARM_UP:
            await client.ask(_planned(endpoint, salt + bytes(str(tokens), "ascii"), min(tokens, longest)), time.perf_counter())


async def _trial(endpoint: Endpoint, limits: Limits, salt: bytes) -> Answer:
    async with StreamClient(endpoint, limits) as client:
        return await client.ask(_planned(endpoint, salt + endpoint.shape.encode(), TRIAL_TOKENS), time.perf_counter())


def _planned(endpoint: Endpoint, salt: bytes, tokens: int) -> Planned:
    content = Content("warm-up", 1, salt, text=endpoint.shape != "ids")
    prompt = content.prompt(Request(index=0, arrival_s=0.0, prompt_tokens=tokens, output_tokens=TRIAL_OUTPUT))
    return Planned(index=0, due_s=0.0, body=body(endpoint, prompt, TRIAL_OUTPUT), prompt_tokens=tokens, output_tokens=TRIAL_OUTPUT)


def _remarks(endpoint: Endpoint, engine: str, answer: Answer) -> list[str]:
    found: list[str] = []
    if endpoint.shape != "ids":
        found.append("the server takes no token ids: prompts are words, and their lengths and shared blocks are the trace's only roughly")
    if "ignore_eos" not in endpoint.extras:
        found.append("the server takes no ignore_eos: answers end where the model ends them, and are compared at that length")
    if answer.output_tokens < 0:
        found.append("the server does not count its tokens (no usage in streams): every chunk is taken for one token")
    if answer.cached_tokens < 0:
        flag = f": start it with {SAYS_CACHED[engine]}" if engine in SAYS_CACHED else ""
        found.append(f"the server does not tell cached tokens per request{flag}")
    return found


def total_tokens(requests: Sequence[Request]) -> tuple[int, int]:
    """Prompt and output tokens that requests ask for."""
    return sum(request.prompt_tokens for request in requests), sum(max(1, request.output_tokens) for request in requests)
