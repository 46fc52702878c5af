"""What traffic reuses, as a plan tells it."""

from __future__ import annotations

import msgspec


class HitPoint(msgspec.Struct, frozen=True, kw_only=True):
    """Share of the prompt tokens that an LRU cache of one capacity would serve."""

    capacity_bytes: int
    token_hit: float


class Traffic(msgspec.Struct, frozen=True, kw_only=True):
    """What the traffic reuses: the ceiling of any cache, lengths and intervals of what comes back, and the hit-rate
    curve.
    """

    requests: int
    span_s: float
    prompt_tokens: int
    output_tokens: int
    longest_prompt_tokens: int
    longest_context_tokens: int = 0  # of a prompt and its answer
    median_prompt_tokens: int
    named: bool  # does the trace name its content
    ideal_hit: float = 0.0
    reused_prefix_tokens: int = 0  # median over the requests that reuse any
    reuse_s: float = 0.0  # median time since a reused token was last used, over tokens
    reuse_p90_s: float = 0.0
    prefix_sharers: int = 0
    shared_prefix_tokens: int = 0
    curve: tuple[HitPoint, ...] = ()
