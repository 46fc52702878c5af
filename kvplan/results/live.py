"""What `kvplan calibrate --from-metrics` answers; its JSON is this record."""

from __future__ import annotations

import msgspec


class Flow(msgspec.Struct, frozen=True, kw_only=True):
    """Loads or stores between the GPU and the tiers below it, over the window; null where the engine does not count it.

    `predicted_Bps` is what kvplan expects of one transfer of the mean size on the machine that was named.
    """

    what: str  # loads, stores
    count: float | None
    bytes: float | None
    seconds: float | None
    mean_bytes: float | None
    Bps: float | None  # while one was under way
    predicted_Bps: float | None = None


class LiveResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a running engine counted between two readings of its metrics."""

    schema: str = "kvplan.calibrate.metrics/1"
    endpoint: str
    engine: str
    version: str
    models: list[str]
    seconds: float
    prompt_tokens: float | None
    generated_tokens: float | None
    hit_rate: dict[str, float]  # by tier, of the prompt tokens
    flows: list[Flow]
    queue_s: float | None  # means over the requests of the window
    ttft_s: float | None
    itl_s: float | None
    preemptions: float | None
    running: float | None
    waiting: float | None
    pool_used: float | None
    settings: dict[str, float] = {}
    missing: list[str] = []
    warnings: list[str] = []
