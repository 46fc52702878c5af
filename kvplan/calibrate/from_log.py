"""Effective figures from the logs of an engine that cannot be stopped: vLLM start-up lines, `vllm bench serve`
results, LMCache lines.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec

from kvplan.calibrate.records import Estimate, point
from kvplan.errors import InputError
from kvplan.fit.least_squares import Fitted, Parameter, fit
from kvplan.results.calibrate import Figure, FromLogResult
from kvplan.units import GiB

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
# LMCache prints sizes divided by 2^30 as "gb": 3866 tokens of 147,456 bytes are logged as 0.5309 (LMCache PR 1740).
_MOVE = re.compile(r"(Retrieved|Stored) (\d+) out of .*?size: ([\d.]+) gb, cost ([\d.]+) ms", re.IGNORECASE)
_LINES: dict[str, tuple[re.Pattern[str], float, str]] = {
    "KV pool": (re.compile(r"Available KV cache memory: (-?[\d.]+) GiB"), GiB, "B"),
    "KV pool, tokens": (re.compile(r"GPU KV cache size: ([\d,]+) tokens"), 1.0, "tokens"),
    "weights": (re.compile(r"Model loading took ([\d.]+) ?Gi?B"), GiB, "B"),
    "CUDA graphs": (re.compile(r"Graph capturing finished in .*?took (-?[\d.]+) GiB"), GiB, "B"),
}


class _Found(msgspec.Struct, kw_only=True):
    """What the files held: bytes and seconds of loads and stores, single figures, (prompt tokens, seconds to the
    first token).
    """

    moves: dict[str, list[tuple[float, float]]]
    lines: dict[str, list[float]]
    first_tokens: list[tuple[int, float]]
    gaps_s: list[float]
    notes: list[str]


def read(paths: Iterable[Path]) -> FromLogResult:
    """Fit what the files hold. Raises InputError for a file that cannot be read, or when nothing in them is known."""
    found = _Found(moves={"Retrieved": [], "Stored": []}, lines={}, first_tokens=[], gaps_s=[], notes=[])
    files = list(paths)
    for path in files:
        _one(path, found)
    figures, settings = _figures(found)
    if not figures:
        raise InputError(
            f"{', '.join(map(str, files))}: no vLLM start-up line, benchmark result or LMCache line was recognised",
            hint="give the engine's log, or the JSON that `vllm bench serve --save-result --save-detailed` writes",
        )
    return FromLogResult(files=tuple(map(str, files)), figures=tuple(figures), settings=settings, notes=tuple(found.notes))


def _one(path: Path, found: _Found) -> None:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    if text.lstrip().startswith("{"):
        documents = [line for line in text.splitlines() if line.strip().startswith("{")] if "\n{" in text.strip() else [text]
        for document in documents:
            _benchmark(path, document, found)
        return
    for line in _ANSI.sub("", text).splitlines():
        _line(line, found)


def _line(line: str, found: _Found) -> None:
    if match := _MOVE.search(line):
        what = match[1].capitalize()
        size, seconds = float(match[3]) * GiB, float(match[4]) / 1e3
        if size > 0 and seconds > 0:
            found.moves[what].append((size, seconds))
    for name, (pattern, scale, _) in _LINES.items():
        if match := pattern.search(line):
            found.lines.setdefault(name, []).append(float(match[1].replace(",", "")) * scale)


def _benchmark(path: Path, text: str, found: _Found) -> None:
    try:
        document: dict[str, Any] = msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise InputError(f"{path}: not valid JSON: {error}") from None
    lengths, times = document.get("input_lens"), document.get("ttfts")
    gaps = document.get("itls")
    if gaps:
        found.gaps_s += [gap for one in gaps for gap in one]
    elif "median_itl_ms" in document:
        found.gaps_s.append(float(document["median_itl_ms"]) / 1e3)
    if not lengths or not times:
        found.notes.append(f"{path}: no single requests (run vllm bench serve with --save-detailed): only its medians were used")
        return
    busy = document.get("max_concurrency")
    if busy != 1:
        found.notes.append(
            f"{path}: requests overlapped, so times to the first token hold queueing; --max-concurrency 1 measures the engine"
        )
    found.first_tokens += [(n, t) for n, t in zip(lengths, times, strict=False) if n and t > 0]


def _figures(found: _Found) -> tuple[list[Figure], dict[str, float]]:
    figures: list[Figure] = []
    settings: dict[str, float] = {}
    for what, rate_path, start_path in (
        ("Retrieved", "machine.link.h2d_Bps", "engine.overhead.load_s"),
        ("Stored", "machine.link.d2h_Bps", ""),
    ):
        _moves(what, found.moves[what], rate_path, start_path, figures, settings)
    for name, values in found.lines.items():
        _, _, unit = _LINES[name]
        figures.append(_plain("vLLM", name, statistics.median(values), unit, f"lines in the log: {len(values)}"))
    if {"KV pool", "KV pool, tokens"} <= found.lines.keys():
        per_token = statistics.median(found.lines["KV pool"]) / statistics.median(found.lines["KV pool, tokens"])
        figures.append(_plain("vLLM", "KV per token and rank", per_token, "B", "pool bytes over pool tokens"))
    if found.first_tokens:
        _prefill(found.first_tokens, figures, settings)
    if found.gaps_s:
        figures.append(_plain("vLLM", "between tokens", statistics.median(found.gaps_s), "s", "median of the benchmark"))
    return figures, settings


def _plain(part: str, name: str, value: float, unit: str, source: str) -> Figure:
    return Figure(part=part, name=name, value=value, lo=value, hi=value, unit=unit, source=source)


def _fitted(part: str, name: str, fitted: Fitted, unit: str) -> Figure:
    return Figure(part=part, name=name, value=fitted.value, lo=fitted.lo, hi=fitted.hi, unit=unit, source=fitted.source)


def _row(size: float, seconds: float) -> Estimate:
    return Estimate(
        point=point("log", size=size),
        seconds=seconds,
        lo=seconds * 0.9,
        hi=seconds * 1.1,
        blocks=1,
        samples=1,
        converged=False,
        block_medians=(seconds,),
    )


def _moves(
    what: str,
    moves: list[tuple[float, float]],
    rate_path: str,
    start_path: str,
    figures: list[Figure],
    settings: dict[str, float],
) -> None:
    """Start-up and rate of LMCache's loads or stores; the rate alone when all have about the same size."""
    if not moves:
        return
    verb = {"Retrieved": "loads", "Stored": "stores"}[what]
    sizes = [size for size, _ in moves]
    if len(moves) < 4 or max(sizes) < 2 * min(sizes):
        effective = statistics.median(size / seconds for size, seconds in moves)
        figures.append(_plain("LMCache", f"{verb}, effective", effective, "B/s", f"lines in the log: {len(moves)}, of about one size"))
        settings[rate_path] = effective
        return
    start, rate = _line_fit(moves, 1e-3, 20e9, f"{len(moves)} LMCache {verb}")
    figures += [_fitted("LMCache", f"{verb}, per byte", rate, "B/s"), _fitted("LMCache", f"{verb}, start", start, "s")]
    settings[rate_path] = rate.value
    if start_path:
        settings[start_path] = start.value


def _line_fit(pairs: list[tuple[float, float]], start_s: float, rate: float, source: str) -> tuple[Fitted, Fitted]:
    def model(v: dict[str, float]) -> Callable[[Estimate], float]:
        return lambda row: v["start"] + float(row.point.params["size"]) / v["rate"]

    parameters = [Parameter(name="start", typical=start_s, width=3.0), Parameter(name="rate", typical=rate, width=3.0)]
    values = fit(model, parameters, [_row(size, seconds) for size, seconds in pairs], scale=0.1, source=source).values
    return values["start"], values["rate"]


def _prefill(pairs: list[tuple[int, float]], figures: list[Figure], settings: dict[str, float]) -> None:
    """Time to the first token as a start and a rate of prompt tokens, below the length from which attention bends
    the line.
    """
    short = [(float(n), t) for n, t in pairs if n <= 8192]
    if len(short) < 4 or max(n for n, _ in short) < 2 * min(n for n, _ in short):
        figures.append(_plain("vLLM", "to the first token", statistics.median(t for _, t in pairs), "s", "prompts of about one length"))
        return
    start, rate = _line_fit(short, 2e-2, 4e4, f"{len(short)} requests of a benchmark")
    figures += [_fitted("vLLM", "to the first token, start", start, "s"), _fitted("vLLM", "prompt tokens", rate, "tokens/s")]
    settings["engine.overhead.transit_s"] = start.value
