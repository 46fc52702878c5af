"""From a run's history to what a report shows of it: series of a few hundred points that keep every peak."""

from __future__ import annotations

from typing import Any

import numpy as np

from kvplan.results.simulate import BOUNDLESS
from kvplan.results.timeline import LoadPoint, PhaseShare, Timeline, TimeSeries
from kvplan.results.traffic import HitPoint
from kvplan.sim.outcome.history import LINKS, TIERS, History
from kvplan.sim.transfer.links import IN

PARTS = 240
"""Equal parts of the time, of each of which a series keeps the largest value and the mean."""

WINDOWS = 16
"""Windows of a part over which a link's busy share is measured, so that a burst is not averaged away."""

LOADS = 1500
"""Most loads that are listed one by one."""

Rows = dict[str, Any]


def timeline(history: History, warm: Any, *, first_token_s: float, curve: tuple[HitPoint, ...] = ()) -> Timeline:
    """The series, loads and phases of a run; `warm` are the rows of requests that no phase counts, `first_token_s` is the way of a first
    token to the client."""
    states, sends = history.table("states"), history.table("sends")
    span_s = float(states["at_s"].max(initial=1e-9))
    points, left_out = _loads(history, history.table("loads"), sends)
    return Timeline(
        span_s=span_s,
        tiers=tuple(_tiers(history, states, span_s)),
        links=tuple(_links(sends, span_s, history.replicas)),
        queues=tuple(_queues(states, span_s)),
        loads=points,
        loads_left_out=left_out,
        hit_curve=curve,
        phases=tuple(_phases(history.table("requests"), warm, first_token_s)),
    )


def parts(at_s: Any, values: Any, span_s: float) -> tuple[Any, Any]:
    """The largest value in each of PARTS equal parts of the time, and the mean; a value holds until the next, before the first it is 0."""
    edges = np.linspace(0.0, span_s, PARTS + 1)
    before = np.searchsorted(at_s, edges[:-1], side="right") - 1
    held = np.where(before >= 0, values[np.maximum(before, 0)], 0.0)
    times, found = np.concatenate((edges[:-1], at_s)), np.concatenate((held, values))
    order = np.argsort(times, kind="stable")
    times, found = np.minimum(times[order], span_s), found[order]
    starts = np.searchsorted(times, edges[:-1], side="left")
    lasts = np.diff(times, append=span_s)
    return np.maximum.reduceat(found, starts), np.add.reduceat(found * lasts, starts) / (span_s / PARTS)


def _series(name: str, unit: str, largest: Any, means: Any, most: float | None = None) -> TimeSeries:
    digits = {"share": 4, "bytes": 0}.get(unit, 3)
    exact, mean = (tuple(np.round(one, digits).tolist()) for one in (largest, means))
    return TimeSeries(name=name, unit=unit, values=exact, means=mean, most=most)


def _together(states: Rows, name: str, *, shared: bool) -> Any:
    """A state over all replicas after each row: the sum of their latest values, or the one value that they share."""
    values = states[name]
    if shared:
        return values
    total = np.zeros(len(values))
    for replica in np.unique(states["replica"]):
        mine = np.flatnonzero(states["replica"] == replica)
        total[mine] += np.diff(values[mine], prepend=0.0)
    return np.cumsum(total)


def _tiers(history: History, states: Rows, span_s: float) -> list[TimeSeries]:
    found = []
    for slot, name in enumerate(TIERS):
        most = history.capacity_tokens[name] * history.token_bytes[slot]
        if most and len(states["at_s"]):
            used = _together(states, name, shared=name in history.shared) * history.token_bytes[slot]
            bound = most if most < BOUNDLESS * max(1.0, float(used.max())) else None
            found.append(_series(name, "bytes", *parts(states["at_s"], used, span_s), bound))
            if name == "gpu":
                active = _together(states, "gpu_active", shared=False) * history.token_bytes[0]
                found.append(_series("gpu, in use by requests", "bytes", *parts(states["at_s"], active, span_s), most))
    return found


def _queues(states: Rows, span_s: float) -> list[TimeSeries]:
    if not len(states["at_s"]):
        return []
    counts = {name: _together(states, name, shared=False) for name in ("running", "waiting", "loading")}
    return [_series(name, "requests", *parts(states["at_s"], count, span_s)) for name, count in counts.items()]


def _links(sends: Rows, span_s: float, replicas: int) -> list[TimeSeries]:
    """The busy share of each way between tiers and direction, as a mean over the replicas."""
    found = []
    edges = np.linspace(0.0, span_s, PARTS * WINDOWS + 1)
    for slot in (1, 2, 3):
        for direction, word in ((IN, "loads from"), (1 - IN, "stores to")):
            mine = (sends["tier"] == slot) & (sends["direction"] == direction) & (sends["tokens"] > 0)
            if mine.any():
                busy = np.diff(_busy_before(edges, sends["start_s"][mine], sends["end_s"][mine])) / np.diff(edges) / replicas
                windows = np.minimum(1.0, busy).reshape(PARTS, WINDOWS)
                found.append(_series(f"{word} {LINKS[slot]}", "share", windows.max(axis=1), windows.mean(axis=1), 1.0))
    return found


def _busy_before(at_s: Any, starts: Any, ends: Any) -> Any:
    """Seconds of the intervals [start, end) before each time."""

    def passed(marks: Any) -> Any:
        marks = np.sort(marks)
        count = np.searchsorted(marks, at_s)
        return count * at_s - np.concatenate(([0.0], np.cumsum(marks)))[count]

    return passed(starts) - passed(ends)


def _loads(history: History, loads: Rows, sends: Rows) -> tuple[tuple[LoadPoint, ...], int]:
    """Every losing load first, then others evenly over time, up to a bound; and how many that leaves out."""
    count = len(loads["end_s"])
    lost = loads["load_s"] - loads["recompute_s"]
    losing = np.flatnonzero(lost > 0)
    losing = losing[np.argsort(-lost[losing], kind="stable")][:LOADS]
    others = np.flatnonzero(lost <= 0)
    room = LOADS - len(losing)
    if len(others) > room:
        others = others[np.linspace(0, len(others) - 1, room).astype(int)] if room else others[:0]
    kept = np.sort(np.concatenate((losing, others))).astype(int)
    sent = history.sent()
    return tuple(_point(loads, at, sends, sent[at]) for at in kept), count - len(kept)


def _point(loads: Rows, at: int, sends: Rows, sent: int) -> LoadPoint:
    load_s, recompute_s = float(loads["load_s"][at]), float(loads["recompute_s"][at])
    return LoadPoint(
        index=int(loads["index"][at]),
        at_s=round(float(loads["end_s"][at]), 6),
        tier=TIERS[int(loads["tier"][at])],
        tokens=int(loads["tokens"][at]),
        load_s=load_s,
        recompute_s=recompute_s,
        why=_why(load_s, recompute_s, sends, sent, "below" if loads["tier"][at] > 1 else "steps"),
    )


def _why(load_s: float, recompute_s: float, sends: Rows, sent: int, rest: str) -> str:
    if load_s <= recompute_s:
        return "faster"
    if sent < 0:
        return rest
    moving_s = float(sends["end_s"][sent] - sends["start_s"][sent])
    behind_s = float(sends["start_s"][sent] - sends["ready_s"][sent])
    if moving_s > recompute_s:
        return "rate"
    return "link" if behind_s > load_s - moving_s - behind_s else rest


PHASES = ("front end", "waiting", "loading", "computing the prompt", "on its way to the client", "decoding")


def _phases(requests: Rows, warm: Any, first_token_s: float) -> list[PhaseShare]:
    """Mean seconds of each phase: of all requests, of those in the middle by time to first token, and of the slowest."""
    kept = ~np.isin(requests["index"], warm)
    if not kept.any():
        return []
    requests = {name: column[kept] for name, column in requests.items()}
    first, admit, enter = requests["first_s"], requests["admit_s"], requests["enter_s"]
    seconds = {
        "front end": enter - requests["arrival_s"],
        "waiting": np.maximum(0.0, admit - enter - requests["load_s"]),
        "loading": np.minimum(requests["load_s"], np.maximum(0.0, first - enter)),
        "computing the prompt": np.maximum(0.0, first - np.maximum(admit, enter)),
        "on its way to the client": np.full(len(first), first_token_s),
        "decoding": np.maximum(0.0, requests["last_s"] - first),
    }
    ttft = first - requests["arrival_s"]
    order = np.argsort(ttft, kind="stable")
    count = len(order)
    groups = {"all": order}
    if count >= 20:
        groups |= {"the middle fifth": order[count * 2 // 5 : count * 3 // 5], "the slowest tenth": order[count * 9 // 10 :]}
    if count >= 500:
        groups["the slowest hundredth"] = order[count * 99 // 100 :]
    return [
        PhaseShare(group=name, requests=len(rows), seconds={phase: float(values[rows].mean()) for phase, values in seconds.items()})
        for name, rows in groups.items()
    ]
