"""A run as a trace that the Perfetto UI opens (https://ui.perfetto.dev): Chrome's JSON trace format.

A process is a replica. Steps and transfers are slices on its threads, requests are nested asynchronous slices with their phases, tiers,
queues and links are counters, and an arrow leads from a transfer to the request that it was for.
Format: "Trace Event Format" (Google, 2016); flows bind by `bind_id`, which Perfetto reads on asynchronous events too.
"""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import numpy as np

from kvplan import outputs
from kvplan.errors import InputError
from kvplan.sim.outcome.history import LINKS, TIERS, History
from kvplan.sim.outcome.record import RunRecord
from kvplan.sim.transfer.links import IN

STEPS = 1
"""Thread of a replica's steps; transfers have those behind it."""

LANES = 8
"""Threads that the overlapping transfers of one way share at most."""

LEAST_CHANGE = 1e-3
"""Of a tier's capacity: a counter follows what changes by more."""

BATCH = 4096
"""Events that are written at a time."""


def write(path: str, record: RunRecord, *, from_s: float = 0.0, to_s: float = math.inf) -> tuple[int, int]:
    """Write the part of a run's history that touches a window of time; returns how many events, and bytes before compression.

    Raises InputError when the run kept no history or the window is empty.
    """
    if record.history is None:
        raise InputError("this run kept no history", hint="simulate(scenario, history=True)")
    if from_s >= to_s:
        raise InputError(f"a timeline from {from_s:g} s to {to_s:g} s holds nothing")
    with outputs.whole(path) as stream:
        if path.endswith(".gz"):
            with gzip.GzipFile(filename="", fileobj=stream, mode="wb", compresslevel=5, mtime=0) as packed:
                return _write(packed, events(record, from_s, to_s))
        return _write(stream, events(record, from_s, to_s))


def _write(stream: BinaryIO | gzip.GzipFile, lines: Iterable[str]) -> tuple[int, int]:
    count = size = 0
    size += stream.write(b'{"displayTimeUnit":"ms","traceEvents":[\n')
    batch: list[str] = []
    for line in lines:
        count += 1
        batch.append(line)
        if len(batch) == BATCH:
            size += stream.write((",\n".join(batch) + ",\n").encode())
            batch.clear()
    size += stream.write((",\n".join(batch) + "\n]}\n").encode())
    return count, size


def events(record: RunRecord, from_s: float = 0.0, to_s: float = math.inf) -> Iterator[str]:
    """Each event as JSON, those that touch the window; times are microseconds."""
    history = record.history
    assert history is not None
    tables = {kind: history.table(kind) for kind in ("states", "steps", "sends", "loads", "requests")}
    span = {"steps": ("start_s", "end_s"), "requests": ("arrival_s", "last_s"), "states": ("at_s", "at_s")}
    kept = {kind: _within(tables[kind], *span[kind], from_s, to_s) for kind in span}
    yield from _names(record, history)
    yield from _steps(kept["steps"])
    yield from _counters(history, kept["states"])
    sends = tables["sends"]
    inside = (sends["end_s"] >= from_s) & (sends["start_s"] <= to_s)
    arrows = history.sent()
    drawn = {int(send): load for load, send in enumerate(arrows) if send >= 0 and inside[send]}
    yield from _sends(history, sends, np.flatnonzero(inside), drawn)
    yield from _requests(kept["requests"], record.columns, tables["loads"], {load: send for send, load in drawn.items()})


def _within(table: dict[str, Any], start: str, end: str, from_s: float, to_s: float) -> dict[str, Any]:
    rows = (table[end] >= from_s) & (table[start] <= to_s)
    return {name: column[rows] for name, column in table.items()}


def _us(seconds: Any) -> list[float]:
    """Microseconds to the nanosecond, as numbers that print shortly."""
    return (np.round(np.asarray(seconds) * 1e9) / 1e3).tolist()


def _spans(starts: Any, ends: Any) -> tuple[list[float], list[float]]:
    """Starts and durations in microseconds, so that what ends when the next begins does not reach into it."""
    began, ended = np.round(np.asarray(starts) * 1e9), np.round(np.asarray(ends) * 1e9)
    return (began / 1e3).tolist(), ((ended - began) / 1e3).tolist()


def _ints(*columns: Any) -> list[list[int]]:
    return [column.astype(np.int64).tolist() for column in columns]


# -- names ---------------------------------------------------------------------------------------------------------------


def _names(record: RunRecord, history: History) -> Iterator[str]:
    replicas = record.scenario.cluster.replicas
    for place in range(history.replicas):
        name = f"replica {place + 1}" if place < replicas else f"prefill replica {place - replicas + 1}"
        yield _name("process_name", place, 0, f"{name}: {record.scenario.model.name} on {record.scenario.machine.name}")
        yield _name("thread_name", place, STEPS, "GPU steps")


def _name(kind: str, place: int, thread: int, name: str) -> str:
    return json.dumps({"ph": "M", "name": kind, "pid": place + 1, "tid": thread, "args": {"name": name}}, separators=(",", ":"))


def _thread(tier: int, direction: int, lane: int) -> int:
    return STEPS + 1 + ((tier - 1) * 2 + (direction != IN)) * LANES + lane


def _way(tier: int, direction: int) -> str:
    return f"{'loads from' if direction == IN else 'stores to'} {LINKS[tier]}"


# -- slices and counters of a replica --------------------------------------------------------------------------------------


def _steps(steps: dict[str, Any]) -> Iterator[str]:
    at, took = _spans(steps["start_s"], steps["end_s"])
    stalls = _us(steps["stall_s"])
    numbers = _ints(steps["replica"], steps["steps"], steps["prefill_tokens"], steps["decodes"])
    for ts, dur, stall, place, count, new, decodes in zip(at, took, stalls, *numbers, strict=True):
        name = f"{count} decode steps" if count > 1 else "prefill and decode" if new and decodes else "prefill" if new else "decode"
        more = f',"waits_for_transfers_us":{stall}' if stall else ""
        yield (
            f'{{"ph":"X","name":"{name}","cat":"step","pid":{place + 1},"tid":{STEPS},"ts":{ts},"dur":{dur},'
            f'"args":{{"prefill_tokens":{new},"decode_tokens":{decodes * count},"sequences":{decodes}{more}}}}}'
        )


def _counters(history: History, states: dict[str, Any]) -> Iterator[str]:
    """Queues as they change, tiers as they change by a thousandth."""
    gib = 2.0**30
    for place in np.unique(states["replica"]).astype(int).tolist():
        rows = states["replica"] == place
        at = _us(states["at_s"][rows])
        for name in ("running", "waiting", "loading"):
            yield from _counter(place, f"requests {name}", "requests", at, states[name][rows], 1.0)
        for slot, tier in enumerate(TIERS):
            used = states[tier][rows] * history.token_bytes[slot] / gib
            if len(used) and used.max() >= 0:
                least = LEAST_CHANGE * max(1e-9, history.capacity_tokens[tier] * history.token_bytes[slot] / gib)
                yield from _counter(place, f"{tier} tier", "GiB", at, np.round(used, 4), least)


def _counter(place: int, name: str, unit: str, at: list[float], values: Any, least: float) -> Iterator[str]:
    last = math.nan
    for ts, value in zip(at, values.tolist(), strict=True):
        if not abs(value - last) < least:
            last = value
            yield f'{{"ph":"C","name":"{name}","pid":{place + 1},"ts":{ts},"args":{{"{unit}":{value:g}}}}}'


def _sends(history: History, sends: dict[str, Any], rows: Any, drawn: dict[int, int]) -> Iterator[str]:
    """Transfers as slices, in lanes where they overlap, and the rate of each way as a counter."""
    kept = {name: column[rows] for name, column in sends.items()}
    at, took = _spans(kept["start_s"], kept["end_s"])
    waited = _us(np.maximum(0.0, kept["start_s"] - kept["ready_s"]))
    free: dict[tuple[int, int, int], list[float]] = {}
    last: dict[tuple[int, int, int], float] = {}
    numbers = _ints(*(kept[name] for name in ("replica", "tier", "direction", "tokens")))
    for row, ts, dur, wait, place, tier, direction, tokens in zip(rows.tolist(), at, took, waited, *numbers, strict=True):
        if not tokens:
            continue
        way = (place, tier, direction)
        lanes = free.setdefault(way, [0.0] * LANES)
        lane = next((number for number, end in enumerate(lanes) if end <= ts), None)
        size = tokens * history.token_bytes[tier]
        flow = f',"bind_id":"{row + 1:#x}","flow_out":true' if row in drawn else ""
        if lane is not None:
            if not lanes[lane]:
                yield _name("thread_name", place, _thread(tier, direction, lane), _way(tier, direction))
            lanes[lane] = ts + dur
            yield (
                f'{{"ph":"X","name":"{tokens} tokens","cat":"transfer","pid":{place + 1},"tid":{_thread(tier, direction, lane)},"ts":{ts},'
                f'"dur":{dur},"args":{{"bytes":{size:.0f},"waited_us":{wait}}}{flow}}}'
            )
        name = _way(tier, direction)
        if last.get(way, ts) < ts:
            yield f'{{"ph":"C","name":"{name}","pid":{place + 1},"ts":{last[way]},"args":{{"GB/s":0}}}}'
        yield f'{{"ph":"C","name":"{name}","pid":{place + 1},"ts":{ts},"args":{{"GB/s":{size / max(dur, 1e-3) / 1e3:.4g}}}}}'
        last[way] = max(ts + dur, last.get(way, 0.0))
    for (place, tier, direction), end in last.items():
        yield f'{{"ph":"C","name":"{_way(tier, direction)}","pid":{place + 1},"ts":{end},"args":{{"GB/s":0}}}}'


# -- requests ------------------------------------------------------------------------------------------------------------


def _requests(requests: dict[str, Any], columns: dict[str, Any], loads: dict[str, Any], arrows: dict[int, int]) -> Iterator[str]:
    """A request with its phases, and a point in it for each of its loads."""
    of: dict[int, list[int]] = {}
    for load, index in enumerate(loads["index"].astype(int).tolist()):
        of.setdefault(index, []).append(load)
    ended, took, again = _us(loads["end_s"]), _us(loads["load_s"]), _us(loads["recompute_s"])
    tiers, tokens = _ints(loads["tier"], loads["tokens"])
    places = {index: row for row, index in enumerate(columns["index"].tolist())}
    values = {name: columns[name].tolist() for name in FACTS}
    marks = [_us(requests[name]) for name in ("arrival_s", "enter_s", "admit_s", "first_s", "last_s")]
    for index, place, *times in zip(*_ints(requests["index"], requests["replica"]), *marks, strict=True):
        row, ends = places[index], _rising(times)
        head = f'"cat":"request","id":"{index + 1:#x}","pid":{place + 1},"tid":{STEPS}'
        args = ",".join(f'"{name}":{values[name][row]}' for name in FACTS if values[name][row])
        yield f'{{"ph":"b","name":"request",{head},"ts":{ends[0]},"args":{{"index":{index}{"," if args else ""}{args}}}}}'
        mine = of.get(index, [])
        for phase, start, end in zip(PHASES, ends, ends[1:], strict=False):
            if end <= start:
                continue
            yield f'{{"ph":"b","name":"{phase}",{head},"ts":{start}}}'
            for load in [load for load in mine if start < ended[load] <= end]:
                yield _loaded(head, ended[load], tiers[load], tokens[load], took[load], again[load], arrows.get(load))
            yield f'{{"ph":"e","name":"{phase}",{head},"ts":{end}}}'
        yield f'{{"ph":"e","name":"request",{head},"ts":{ends[-1]}}}'
    rejected = columns["status"] == 1
    for index, ts in zip(columns["index"][rejected].tolist(), _us(columns["arrival_s"][rejected]), strict=True):
        yield f'{{"ph":"i","s":"p","name":"request {index} can never fit","cat":"request","pid":1,"tid":{STEPS},"ts":{ts}}}'


FACTS = (
    "prompt_tokens", "output_tokens", "gpu_hit_tokens", "cpu_hit_tokens", "disk_hit_tokens", "remote_hit_tokens", "computed_tokens",
    "preemptions",
)  # fmt: skip
PHASES = ("front end", "waiting", "prefill", "decode")


def _rising(times: list[float]) -> list[float]:
    """The ends of the phases, none before the one before it; what never happened ends at once."""
    found = times[:1]
    for time in times[1:]:
        found.append(max(time, found[-1]))
    return found


def _loaded(head: str, ts: float, tier: int, tokens: int, took: float, again: float, send: int | None) -> str:
    flow = f',"bind_id":"{send + 1:#x}","flow_in":true' if send is not None else ""
    lost = f',"lost_us":{took - again:.3f}' if took > again else ""
    return (
        f'{{"ph":"n","name":"loaded from {TIERS[tier]}",{head},"ts":{ts},'
        f'"args":{{"tokens":{tokens},"load_us":{took},"recompute_us":{again}{lost}}}{flow}}}'
    )
