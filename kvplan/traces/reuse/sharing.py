"""What the prompts of a trace have in common."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kvplan.results.trace import Rates, Sharing, WorkingSet
from kvplan.traces.columns import Ints
from kvplan.traces.reuse.distribution import distribution
from kvplan.traces.reuse.policies import lru
from kvplan.traces.reuse.reuse import NEVER, Reuse, Window, nodes

_WITHIN_S = (0, 1, 10, 60, 300, 600, 1800, 3600, 86400)
_WINDOWS_S = (60.0, 300.0, 600.0, 1800.0)
_TURN_WAYS = 2
"""A turn's last full block is followed by its own partial block and by the next turn's."""


def sharing(reuse: Reuse) -> Sharing:
    """The sharing structure of a trace that names its content."""
    data, hit = reuse.columns, reuse.before >= 0
    request = data.request_of_event()
    hits = np.bincount(request[hit], minlength=data.requests)
    uses = np.bincount(nodes(reuse.before))
    age_s = np.round(data.arrival_s[request[hit]] - data.arrival_s[request[reuse.before[hit]]], 9)
    kept = np.diff(data.starts)
    most_hit = np.sort(uses - 1)[::-1]
    return Sharing(
        blocks=int(data.blocks.sum()),
        unique_blocks=len(uses) * data.one_in,
        used_once=float((uses == 1).mean()),
        ideal=_ideal(reuse, 0),
        ideal_warm=_ideal(reuse, data.requests // 2),
        ideal_request_mean=float((hits / np.maximum(1, kept)).mean()),
        requests_with_hit=float((hits > 0).mean()),
        requests_with_hit_beyond_first=float((hits > 1).mean()),
        hit_prefix_blocks=distribution(hits * data.one_in),
        reuse_s=distribution(age_s) if len(age_s) else None,
        reuse_within={str(within): float((age_s <= within).mean()) for within in _WITHIN_S} if len(age_s) else {},
        top_1pct_share=_share(most_hit, 0.01),
        top_10pct_share=_share(most_hit, 0.10),
        common_prefix_blocks=_common_prefix(reuse, uses, 0.5),
        working_sets=tuple(_working_set(reuse, request, window) for window in _WINDOWS_S),
        unique_over_time=_unique_over_time(reuse, request),
    )


def sessions(reuse: Reuse) -> Ints:
    """A dense number of the session of each request: the one that the file names (where it names none a request stands
    alone); in a file that names no sessions a request belongs to that of the request whose prompt it continues.
    """
    named = reuse.columns.session
    if reuse.columns.names_sessions:
        roots = np.where(named > 0, named, named.max() + 1 + np.arange(len(named)))
    else:
        found = list(range(reuse.columns.requests))
        for request, parent in enumerate(_follows(reuse).tolist()):
            if parent >= 0:
                found[request] = found[parent]
        roots = np.array(found)
    return np.unique(roots, return_inverse=True)[1]


def _follows(reuse: Reuse) -> Ints:
    """For each request the one whose prompt it continues, -1 for none.

    That is the last user of its deepest hit block, if all its full blocks are repeated. A block after which prompts go
    many ways ends a system prompt or a document, not a session's turn.
    """
    data = reuse.columns
    request = data.request_of_event()
    hits = np.bincount(request[reuse.before >= 0], minlength=data.requests)
    has = np.flatnonzero(hits)
    deepest = data.starts[has] + hits[has] - 1
    candidate = request[reuse.before[deepest]]
    repeated = hits[has] >= data.prompt_tokens[candidate] // data.block_tokens
    of_session = _continuations(reuse)[deepest] <= _TURN_WAYS
    parent = np.full(data.requests, -1, dtype=np.int64)
    parent[has[repeated & of_session]] = candidate[repeated & of_session]
    return parent


def _continuations(reuse: Reuse) -> Ints:
    """For each event, how many different blocks ever follow its block."""
    number, request = nodes(reuse.before), reuse.columns.request_of_event()
    new = np.flatnonzero((reuse.before[1:] < 0) & (request[1:] == request[:-1]))  # a block has one predecessor
    return np.bincount(number[new], minlength=int(number.max(initial=-1)) + 1)[number]


def _ideal(reuse: Reuse, first: int) -> Rates:
    window = Window(reuse, first)
    blocks, tokens = lru(window, [NEVER])[:, 0].tolist()
    return Rates(block_hit=blocks / max(1, window.blocks), token_hit=tokens / max(1, window.prompt_tokens))


def _share(most_hit: Ints, top: float) -> float:
    total = most_hit.sum()
    return float(most_hit[: int(len(most_hit) * top)].sum() / total) if total else 0.0


def _common_prefix(reuse: Reuse, uses: Ints, share: float) -> int:
    """Leading blocks that at least this share of the requests start with."""
    return int((uses >= max(2, share * reuse.columns.requests)).sum()) * reuse.columns.one_in


def _working_set(reuse: Reuse, request: Ints, window_s: float) -> WorkingSet:
    """Distinct blocks per window, windows laid end to end."""
    window = (reuse.columns.arrival_s // window_s).astype(np.int64)[request]
    new = (reuse.before < 0) | (window[reuse.before] != window)
    counts = np.unique(window[new], return_counts=True)[1] * reuse.columns.one_in
    return WorkingSet(
        window_s=window_s,
        mean_blocks=float(counts.mean()) if len(counts) else 0.0,
        max_blocks=int(counts.max(initial=0)),
    )


def _unique_over_time(reuse: Reuse, request: Ints) -> tuple[int, ...]:
    first_s: npt.NDArray[np.float64] = reuse.columns.arrival_s[request[reuse.before < 0]]
    ends = np.linspace(0, reuse.columns.arrival_s[-1], 11)[1:]
    return tuple((np.searchsorted(first_s, ends, side="right") * reuse.columns.one_in).tolist())
