"""How long tiers below the GPU take from empty to their steady hit rate."""

from __future__ import annotations

from typing import Any

import numpy as np

SHARE = 0.9


def warming(columns: dict[str, Any], kept: Any) -> tuple[int | None, float | None]:
    """Requests and seconds until the tiers below the GPU serve SHARE of what they serve in the second half; None where they serve nothing.

    The share of prompt tokens is smoothed over a twentieth of the requests, at least ten.
    """
    prompts = columns["prompt_tokens"][kept].astype(float)
    below = sum(columns[f"{tier}_hit_tokens"][kept] for tier in ("cpu", "disk", "remote")).astype(float)
    count = len(prompts)
    if count < 20:
        return None, None
    steady = below[count // 2 :].sum() / max(1.0, prompts[count // 2 :].sum())
    if steady <= 0:
        return None, None
    window = max(10, count // 20)
    hits, tokens = (_sums(values, window) for values in (below, prompts))
    reached = np.flatnonzero(hits >= SHARE * steady * np.maximum(tokens, 1.0))
    if not len(reached):
        return None, None
    at = int(reached[0]) + window - 1
    arrivals = columns["arrival_s"][kept]
    return at + 1, float(arrivals[at] - arrivals[0])


def _sums(values: Any, window: int) -> Any:
    """Of every `window` whole numbers in a row."""
    total = np.concatenate(([0.0], np.cumsum(values)))
    return total[window:] - total[:-window]
