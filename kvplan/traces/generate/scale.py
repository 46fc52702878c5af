"""A real trace with more or fewer users, who share among themselves what the real ones shared."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from kvplan.errors import InputError
from kvplan.request import Request
from kvplan.traces.columns import Ints, load
from kvplan.traces.generate.spec import Scale
from kvplan.traces.reuse.reuse import analyse, nodes
from kvplan.traces.reuse.sharing import sessions
from kvplan.traces.trace import Trace

Floats = npt.NDArray[np.float64]

_SPREAD_S = 60.0
"""A copy of a session starts up to this long after it: not at once with it, yet under the same load of the day."""


def scaled(trace: Trace, scale: Scale, seed: int) -> Iterator[Request]:
    """Requests in arrival order from 0 s. Each session comes `users` times on average, as itself and as copies that
    share with all others what several sessions share, and nothing else.

    Raises InputError when the trace names no content or is too long to hold.
    """
    if not trace.block_tokens:
        raise InputError(f"{trace.name}: users can be added only to a trace that names its content")
    data, rng = load(trace), np.random.default_rng(seed)
    if data.one_in > 1:
        raise InputError(f"{trace.name}: too long to scale", hint="cut it first with kvplan trace convert --limit")
    reuse = analyse(data)
    key, named = nodes(reuse.before), [(request.session, request.think_s, request.priority) for request in trace]
    session = sessions(reuse)
    begin_s, since_s = _clock(data.arrival_s, session, scale.max_gap_s)
    who, copy = _instances(len(begin_s), scale.users, rng)
    at_s = _starts(begin_s[who], copy, scale, rng)
    request, instance = _rows(session, who)
    arrival_s = at_s[instance] + since_s[request]
    order = np.lexsort((copy[instance], request, arrival_s))
    own = _private(key, session[data.request_of_event()])
    distinct, zero_s = int(key.max(initial=-1)) + 1, arrival_s.min(initial=np.inf)
    for row in order.tolist():
        t, twin = int(request[row]), int(copy[instance[row]])
        blocks = key[data.starts[t] : data.starts[t + 1]]
        name, think_s, priority = named[t]
        yield Request(
            index=0,
            arrival_s=round(float(arrival_s[row] - zero_s), 9),
            prompt_tokens=int(data.prompt_tokens[t]),
            output_tokens=int(data.output_tokens[t]),
            blocks=tuple((blocks + own[blocks] * (twin * distinct)).tolist()),
            session=f"{name}#{twin}" if name and twin else name,
            think_s=think_s if not scale.max_gap_s else min(think_s, scale.max_gap_s),
            priority=priority,
        )


def _clock(arrival_s: Floats, session: Ints, max_gap_s: float) -> tuple[Floats, Floats]:
    """When each session begins, and how long after that each request comes, with long gaps cut."""
    order = np.argsort(session, kind="stable")
    first = np.append(True, session[order[1:]] != session[order[:-1]])
    gaps = np.where(first, 0.0, np.diff(arrival_s[order], prepend=0.0))
    total = np.cumsum(np.minimum(gaps, max_gap_s) if max_gap_s else gaps)
    since = np.empty_like(total)
    since[order] = total - np.repeat(total[first], np.diff(np.append(np.flatnonzero(first), len(order))))
    return arrival_s[order][first], since


def _instances(count: int, users: float, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Session and copy number of each instance; the fraction of `users` is a chance per session."""
    times = np.floor(users) + (rng.random(count) < users % 1)
    who = np.repeat(np.arange(count), times.astype(np.int64))
    copy = np.arange(len(who)) - np.repeat(np.cumsum(times) - times, times.astype(np.int64)).astype(np.int64)
    return who, copy


def _starts(begin_s: Floats, copy: Ints, scale: Scale, rng: np.random.Generator) -> Floats:
    if not scale.start_every_s:
        return begin_s + np.where(copy > 0, rng.uniform(0, _SPREAD_S, len(copy)), 0.0)
    starts = np.empty(len(begin_s))
    order = np.lexsort((rng.random(len(begin_s)), begin_s))  # sessions that begin together come in any order
    starts[order] = np.cumsum(rng.exponential(scale.start_every_s, len(begin_s)))
    return starts


def _rows(session: Ints, who: Ints) -> tuple[Ints, Ints]:
    """Request and instance of each row: every instance repeats all requests of its session."""
    by_session = np.argsort(session, kind="stable")
    size = np.bincount(session, minlength=int(session.max()) + 1)
    first = np.cumsum(size) - size
    instance = np.repeat(np.arange(len(who)), size[who])
    place = np.arange(len(instance)) - np.repeat(np.cumsum(size[who]) - size[who], size[who])
    return by_session[first[who[instance]] + place], instance


def _private(key: Ints, session: Ints) -> npt.NDArray[np.bool_]:
    """Which keys only one session uses."""
    pairs = np.unique(np.stack((key, session)), axis=1) if len(key) else np.zeros((2, 0), dtype=np.int64)
    return np.bincount(pairs[0]) == 1
