"""What a trace holds: arrivals, lengths, sessions, sharing; what is odd about it, and what it cannot say."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kvplan.results.trace import ArrivalStats, InspectResult, SessionStats
from kvplan.traces import columns
from kvplan.traces.columns import MAX_EVENTS, Columns
from kvplan.traces.reuse.distribution import distribution
from kvplan.traces.reuse.reuse import Reuse, analyse
from kvplan.traces.reuse.sharing import sessions, sharing
from kvplan.traces.trace import Trace

_BINS = 60


def inspect(trace: Trace, *, max_events: int = MAX_EVENTS) -> InspectResult:
    """All of it in one pass over the trace; above `max_events` block events, sharing is measured on a sample of the
    blocks.
    """
    data = columns.load(trace, max_events=max_events)
    reuse = analyse(data)
    arrivals = _arrivals(data.arrival_s, trace.first_s)
    return InspectResult(
        trace=trace.name,
        format=trace.format,
        block_tokens=trace.block_tokens,
        requests=data.requests,
        reading=trace.report,
        arrivals=arrivals,
        prompt_tokens=distribution(data.prompt_tokens),
        output_tokens=distribution(data.output_tokens),
        sessions=_sessions(reuse),
        sharing=sharing(reuse) if trace.block_tokens else None,
        quirks=tuple(_quirks(reuse, arrivals, trace)),
        cannot_say=tuple(_cannot_say(data, trace, arrivals)),
        provenance={"trace": f"{trace.name}, read as {trace.format}", "percentiles": "nearest rank"},
        warnings=tuple(trace.report.sentences()),
    )


def _arrivals(arrival_s: npt.NDArray[np.float64], first_s: float) -> ArrivalStats:
    """Peaks are per whole second of the file's own clock, the dispersion per second from the first request."""
    span_s = float(arrival_s[-1])
    per_s, on_clock, on_clock_10 = (_counts(values) for values in (arrival_s, arrival_s + first_s % 1, (arrival_s + first_s % 10) / 10))
    gaps = np.diff(arrival_s)
    stamps, batch = np.unique(arrival_s, return_counts=True)
    edges = np.linspace(0, span_s or 1, _BINS + 1)
    return ArrivalStats(
        span_s=span_s,
        mean_per_s=len(arrival_s) / span_s if span_s else 0.0,
        peak_1s_per_s=int(on_clock.max()),
        peak_10s_per_s=float(on_clock_10.max()) / 10,
        dispersion_1s=float(per_s.var() / per_s.mean()),
        interarrival_cv=float(gaps.std() / gaps.mean()) if span_s else 0.0,
        distinct_stamps=len(stamps),
        largest_batch=int(batch.max()),
        counts=tuple(np.histogram(arrival_s, edges)[0].tolist()),
    )


def _counts(values: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """How many values have each whole part; beyond some ten years of seconds only the parts that occur are counted."""
    whole = np.floor(values).astype(np.int64)
    return np.bincount(whole) if whole[-1] < 4e8 else np.unique(whole, return_counts=True)[1]


def _sessions(reuse: Reuse) -> SessionStats | None:
    data, named = reuse.columns, reuse.columns.names_sessions
    if not named and (not data.block_tokens or data.one_in > 1):
        return None
    session = sessions(reuse)
    order = np.argsort(session, kind="stable")
    same = session[order[1:]] == session[order[:-1]]
    gaps = np.round((data.arrival_s[order[1:]] - data.arrival_s[order[:-1]])[same], 9)
    turns = np.bincount(session)
    return SessionStats(
        inferred=not named,
        sessions=len(turns),
        turns=distribution(turns),
        gap_s=distribution(gaps) if len(gaps) else None,
    )


def _quirks(reuse: Reuse, arrivals: ArrivalStats, trace: Trace) -> list[str]:
    data = reuse.columns
    quirks = [f"{count.rows:,} rows: {count.what}" for count in trace.report.counts if count.kind == "quirk"]
    if (period_s := _period_s(data, arrivals)) > 0:
        quirks.append(
            f"arrivals come in batches every {period_s:.3g} s ({arrivals.distinct_stamps:,} stamps, "
            f"up to {arrivals.largest_batch} requests each): spread them before reading queueing times below that"
        )
    if zero := int((data.output_tokens == 0).sum()):
        quirks.append(f"{zero:,} requests have no output tokens")
    if not trace.block_tokens:
        return quirks
    size, prompt = data.block_tokens, data.prompt_tokens
    partial = int(((data.blocks == -(-prompt // size)) & (prompt % size > 0)).sum())
    if partial:
        quirks.append(
            f"the last id covers a partial block in {partial:,} of {data.requests:,} requests: "
            "engines cache full blocks only, so these ids overstate what they can hit"
        )
    if fewer := int((data.blocks < prompt // size).sum()):
        quirks.append(f"{fewer:,} requests name fewer blocks than their prompt has")
    hits = np.bincount(data.request_of_event()[reuse.before >= 0], minlength=data.requests)
    if data.one_in == 1 and (whole := int(((hits == data.blocks) & (data.blocks > 0)).sum())):
        quirks.append(f"{whole:,} requests repeat an earlier prompt whole; engines still compute at least one token")
    if twins := _duplicates(data):
        quirks.append(f"exact duplicates (same time, lengths and ids): {twins:,}")
    return quirks


def _period_s(data: Columns, arrivals: ArrivalStats) -> float:
    """The usual time between batches where most requests share their stamp and stamps are evenly spaced; else 0."""
    stamps = np.unique(data.arrival_s)
    if len(stamps) < 10 or arrivals.distinct_stamps > 0.5 * data.requests:
        return 0.0
    gaps = np.diff(stamps)
    middle = float(np.median(gaps))
    return middle if np.mean(np.abs(gaps - middle) < 0.05 * middle) > 0.5 else 0.0


def _duplicates(data: Columns) -> int:
    """Requests equal to another in time, lengths and last key (a key stands for all ids before it)."""
    if data.one_in > 1:
        return 0
    last = np.where(data.blocks > 0, np.append(data.keys, np.uint64(0))[data.starts[1:] - 1], np.uint64(0))
    rows = np.rec.fromarrays([data.arrival_s, data.prompt_tokens, data.output_tokens, last])
    return data.requests - len(np.unique(rows))


def _cannot_say(data: Columns, trace: Trace, arrivals: ArrivalStats) -> list[str]:
    limits = []
    if not trace.block_tokens:
        limits.append("hit rates: the file names no content")
    else:
        limits.append("whether generated tokens are used again: ids name prompts only")
    if arrivals.span_s == 0:
        limits.append("rates and queueing: the file has no times")
    if not trace.names_sessions:
        limits.append("which requests form a session: the file does not name them")
    return limits
