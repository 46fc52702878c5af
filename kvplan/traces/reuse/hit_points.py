"""What an LRU cache of each size would make of a trace, in bytes."""

from __future__ import annotations

import numpy as np

from kvplan.results.traffic import HitPoint
from kvplan.traces.reuse.policies import lru
from kvplan.traces.reuse.reuse import Reuse, Window

POINTS = 48


def hit_points(reuse: Reuse, block_bytes: float) -> tuple[HitPoint, ...]:
    """Token hit rate of LRU at capacities in equal ratios, up to where it reaches the ideal; none where nothing comes again."""
    if not reuse.again.any():
        return ()
    most = int(reuse.distance[reuse.again].max()) + reuse.columns.one_in
    capacities = sorted({round(x) for x in np.geomspace(min(16, most), most, POINTS)})
    total = max(1, int(reuse.columns.prompt_tokens.sum()))
    hits = lru(Window(reuse, 0), capacities)[1]
    return tuple(
        HitPoint(capacity_bytes=round(capacity * block_bytes), token_hit=float(tokens / total))
        for capacity, tokens in zip(capacities, hits, strict=True)
    )
