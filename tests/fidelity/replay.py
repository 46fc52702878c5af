"""The measured cases, run through the simulator."""

from __future__ import annotations

import json
import statistics
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from kvplan import scenario, units
from kvplan.memory.layout import layout
from kvplan.sim.simulate import simulate
from tests.deployed import deployed

MEASURED = Path(__file__).resolve().parents[1] / "measured"
FAR_S = 60.0
"""Between requests that must not meet."""

OTHERS = 8
"""Prompts that push one out of the GPU."""

KEY = 64
"""Tokens of a key: what a hit leaves to compute."""


class Case(NamedTuple):
    """A measured file, and what ran there."""

    file: str
    model: str
    machine: str
    engine: str = "vllm"
    sets: tuple[str, ...] = ()  # settings of what ran, where they are not the defaults

    def load(self) -> dict[str, Any]:
        return json.loads((MEASURED / self.file).read_text())


Row = tuple[str, float, float | None]
"""Name of a case, measured and predicted seconds; None where the simulator did not serve it."""


def run_rows(case: Case, rows: list[dict[str, Any]], **tiers: str) -> dict[str, Any]:
    """Columns of a replay of rows in kvplan's own format, by row."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in ({"kvplan": "trace/1", "block_tokens": KEY}, *rows)))
        return replay(case, path, **tiers)


def replay(case: Case, trace: Path, **tiers: str) -> dict[str, Any]:
    """Columns of a replay of a trace, by row."""
    loaded = scenario.load(str(trace), model=case.model, machine=case.machine, engine=case.engine, tiers=tiers, sets=case.sets)
    return simulate(loaded)[1].columns


def as_sent(case: Case, trace: Path) -> list[dict[str, Any]]:
    """Those rows of a trace that were sent, at the moments at which they were, in this order."""
    rows = [json.loads(line) for line in trace.read_text().splitlines()]
    sent = sorted(case.load()["replay"], key=lambda row: row["t_submit"])
    return [{**rows[row["i"]], "timestamp": row["t_submit"] * 1e3} for row in sent]


def replay_as_sent(case: Case, trace: Path, **tiers: str) -> dict[str, Any]:
    """Columns of a replay of those rows."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in as_sent(case, trace)))
        return replay(case, path, **tiers)


def _row(at: int, tokens: int, first_key: int, *, output: int = 2, own: tuple[int, ...] = ()) -> dict[str, Any]:
    """A request whose keys count up from `first_key` but for the last ones, which are its `own`."""
    keys = [*range(first_key, first_key + -(-tokens // KEY) - len(own)), *own]
    return {"t": at * FAR_S, "in": tokens, "out": output, "blocks": keys}


def _sizes(measured: dict[str, Any]) -> dict[str, str]:
    args = measured["args"]
    host = args.get("cpu_kv") or args.get("lmcache")
    return {"gpu_kv": f"{args['gpu_kv']}GiB"} | ({"cpu": f"{host}GiB"} if host else {})


def _served(columns: dict[str, Any], row: int) -> float | None:
    ttft = float(columns["ttft_s"][row]) if row in columns["index"].tolist() else float("nan")
    return ttft if ttft == ttft else None


def cold(case: Case) -> list[Row]:
    """Each length alone, nothing cached."""
    measured = case.load()
    times = _medians(measured, "cold")
    rows = [_row(at, tokens, at * 10**6) for at, tokens in enumerate(times)]
    found = run_rows(case, rows, **_sizes(measured))
    return [(f"{tokens:,}", seconds, _served(found, at)) for at, (tokens, seconds) in enumerate(times.items())]


def hits(case: Case, kind: str) -> list[Row]:
    """All but 64 tokens of each length on the GPU, or (`cpu_hit`) pushed out of a pool of little more than the prompt by others. The engine
    was told to forget its GPU cache instead, so that the others must not take the tier's room."""
    measured, rows = case.load(), []
    pool = layout(deployed(case.model, case.engine))
    for tokens, seconds in _medians(measured, kind).items():
        cached, sizes = tokens - 64, _sizes(measured)
        asked = [_row(0, cached, 0)]
        if kind == "cpu_hit":
            asked += [_row(1 + other, cached, (1 + other) * 10**6) for other in range(OTHERS)]
            sizes["cpu"] = f"{(1 + OTHERS) * units.parse_bytes(sizes['cpu'])}B"
            sizes["gpu_kv"] = f"{pool.reserved_bytes(tokens + 300)}B"
        asked.append(_row(2 + OTHERS, tokens, 0, own=(10**8,)))
        rows.append((f"{tokens:,}", seconds, _served(run_rows(case, asked, **sizes), len(asked) - 1)))
    return rows


def decode(case: Case) -> list[Row]:
    """Step time of each batch x context while all of it decodes: mean time between tokens of the request that started last."""
    measured, rows = case.load(), []
    for seen in measured["decode"]:
        batch, context = seen["batch"], seen["ctx"]
        found = run_rows(case, [_row(0, context, 10**6 * i, output=96) for i in range(batch)], **_sizes(measured))
        last = (found["arrival_s"] + found["ttft_s"]).argmax()
        rows.append((f"{batch} x {context:,}", seen["itl_of_last_started"], float(found["itl_s"][last])))
    return rows


def _medians(measured: dict[str, Any], kind: str) -> dict[int, float]:
    times = _repetitions(measured, kind)
    return {tokens: statistics.median(times[tokens]) for tokens in sorted(times)}


def _repetitions(measured: dict[str, Any], kind: str) -> dict[int, list[float]]:
    times: dict[int, list[float]] = {}
    for row in measured["probe"]:
        if row["kind"] == kind:
            times.setdefault(row["n"], []).append(row["ttft"])
    return times
