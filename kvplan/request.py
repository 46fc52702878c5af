"""What arrives at an engine: requests whose prompts are named block by block."""

from __future__ import annotations

import msgspec

RETENTION = 35
"""Retention priority where a request gives none: TensorRT-LLM's default, of 0 to 100."""


class Request(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One request of a trace.

    `blocks` are prefix keys, one for each `block_tokens` of the prompt in order: two requests share their first k
    blocks if and only if their first k keys are equal (a reader chains content hashes into such keys). The last key
    may cover a partial block, and keys may be missing at the tail; tokens without a key are unique to the request.
    Empty: the trace names no content.
    """

    index: int  # 0-based row of the file
    arrival_s: float  # from the start of the trace
    prompt_tokens: int
    output_tokens: int
    blocks: tuple[int, ...] = ()
    session: str = ""
    think_s: float = -1.0  # >= 0: arrives this long after the session's previous request has finished
    retention: int = RETENTION  # 0-100, higher ones are kept longer, where the eviction policy is `retention`
    priority: int = 0  # lower numbers go first, where the engine schedules by priority
