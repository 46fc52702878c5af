"""Per-request results of other load generators, and of earlier runs, as the measured side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from kvplan.errors import InputError
from kvplan.live.records import Answer
from kvplan.request import Request
from kvplan.results.validate import ValidateResult

ROW_LIMIT = 1_000_000


def read(path: str) -> tuple[str, list[Answer]]:
    """The tool that wrote a file, and its answers in the order of sending. Raises InputError when it holds no requests."""
    try:
        data = Path(path).expanduser().read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    for tool, (wanted, reader) in READERS.items():
        if wanted in data[:65536] or (tool != "aiperf" and wanted in data):
            answers = _checked(path, tool, reader, data)
            if not answers:
                raise InputError(f"{path}: no request with times in it", hint=HINTS[tool])
            answers.sort(key=lambda answer: answer.sent_s)
            first_s = answers[0].sent_s
            return tool, [_moved(answer, first_s, at) for at, answer in enumerate(answers)]
    raise InputError(f"{path}: not a result of aiperf, guidellm, vllm bench serve or kvplan", hint="; ".join(HINTS.values()))


def _checked(path: str, tool: str, reader: Callable[[bytes], list[Answer]], data: bytes) -> list[Answer]:
    try:
        return reader(data)[:ROW_LIMIT]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise InputError(f"{path}: not a result of {tool} that can be read ({type(error).__name__}: {error})", hint=HINTS[tool]) from None


def _moved(answer: Answer, first_s: float, at: int) -> Answer:
    answer.index, answer.sent_s, answer.due_s = at, answer.sent_s - first_s, answer.sent_s - first_s
    answer.reads = [(moment_s - first_s, tokens) for moment_s, tokens in answer.reads]
    answer.end_s -= first_s
    return answer


def _answer(sent_s: float, ttft_s: float, e2e_s: float, prompt: float, output: float, *, cached: Any = None, error: str = "") -> Answer:
    output = max(1, int(output))
    if not (0 <= ttft_s <= e2e_s + 1e-9) and not error:
        raise ValueError(f"a first token after {ttft_s:g} s of {e2e_s:g} s")
    reads = [(sent_s + ttft_s, 1)] + ([(sent_s + e2e_s, output)] if output > 1 else [])
    return Answer(
        index=0, due_s=sent_s, sent_s=sent_s, reads=[] if error else reads, end_s=sent_s + e2e_s, prompt_tokens=int(prompt),
        output_tokens=output, cached_tokens=-1 if cached is None else int(cached), error=error, status=0 if error else 200,
    )  # fmt: skip


def _vllm(data: bytes) -> list[Answer]:
    """`vllm bench serve --save-result --save-detailed`: lists with one entry a request."""
    found = msgspec.json.decode(data)
    answers = []
    errors = found.get("errors") or [""] * len(found["ttfts"])
    for at, sent_s in enumerate(found["start_times"]):
        gaps = found["itls"][at]
        gaps = gaps if isinstance(gaps, list) else []
        ttft_s = float(found["ttfts"][at])
        error = str(errors[at] or "")[:200]
        one = _answer(float(sent_s), ttft_s, ttft_s + sum(gaps), found["input_lens"][at], found["output_lens"][at], error=error)
        if not error and len(gaps) == one.output_tokens - 1:
            moment_s = one.sent_s + ttft_s
            one.reads = [(moment_s, 1)]
            for number, gap in enumerate(gaps):
                moment_s += gap
                one.reads.append((moment_s, number + 2))
        answers.append(one)
    return answers


def _aiperf(data: bytes) -> list[Answer]:
    """aiperf's profile_export.jsonl: one record a line, metrics with their units."""
    answers = []
    for line in data.splitlines():
        row = msgspec.json.decode(line) if line.strip() else {}
        about, metrics = row.get("metadata") or {}, row.get("metrics") or {}
        if about.get("benchmark_phase", "profiling") != "profiling" or "request_start_ns" not in about:
            continue
        error = str((row.get("error") or {}).get("message") or "an error")[:200] if row.get("error") else ""
        if about.get("was_cancelled"):
            error = error or "cancelled"
        sent_s = about["request_start_ns"] / 1e9
        if error:
            answers.append(_answer(sent_s, 0.0, 0.0, 0, 1, error=error))
            continue
        ttft_s, e2e_s = _seconds(metrics["time_to_first_token"]), _seconds(metrics["request_latency"])
        cached = metrics.get("usage_prompt_cache_read_tokens")
        answers.append(
            _answer(
                sent_s, ttft_s, e2e_s, _plain(metrics["input_sequence_length"]), _plain(metrics["output_sequence_length"]),
                cached=None if cached is None else _plain(cached),
            )
        )  # fmt: skip
    return answers


def _plain(metric: Any) -> float:
    return float(metric["value"] if isinstance(metric, dict) else metric)


def _seconds(metric: Any) -> float:
    unit = metric.get("unit", "ms") if isinstance(metric, dict) else "ms"
    return _plain(metric) * {"s": 1.0, "sec": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}[unit]


def _guidellm(data: bytes) -> list[Answer]:
    """guidellm's JSON: benchmarks, each with requests that were successful, incomplete or errored. The first benchmark counts."""
    rows = msgspec.json.decode(data)["benchmarks"][0]["requests"]
    answers = []
    for row in rows["successful"]:
        timings = (row.get("info") or {}).get("timings") or {}
        sent_s = float(timings.get("request_start") or row["request_start_time"])
        last_s = float(timings.get("last_token_iteration") or row["request_end_time"])
        used = row.get("input_metrics") or {}
        answers.append(
            _answer(
                sent_s, row["time_to_first_token_ms"] / 1e3, last_s - sent_s, row["prompt_tokens"], row["output_tokens"],
                cached=used.get("cached_tokens"),
            )
        )  # fmt: skip
    for row in rows.get("errored") or []:
        if row.get("request_start_time"):
            answers.append(_answer(float(row["request_start_time"]), 0.0, 0.0, 0, 1, error="an error"))
    return answers


def _kvplan(data: bytes) -> list[Answer]:
    """The JSON of an earlier `kvplan validate`: to predict the same requests with another engine file, machine or tier."""
    found = msgspec.json.decode(data, type=ValidateResult)
    return [
        _answer(row.sent_s, row.ttft_s, row.e2e_s, row.prompt_tokens, row.output_tokens, cached=row.cached_tokens) for row in found.rows
    ]


READERS: dict[str, tuple[bytes, Callable[[bytes], list[Answer]]]] = {
    "aiperf": (b'"request_start_ns"', _aiperf),
    "guidellm": (b'"benchmarks"', _guidellm),
    "vllm bench serve": (b'"start_times"', _vllm),
    "kvplan validate": (b'"kvplan.validate/1"', _kvplan),
}
"""Tool -> what stands in its files, and their reader."""
HINTS = {
    "aiperf": "aiperf writes profile_export.jsonl",
    "guidellm": "guidellm writes benchmarks.json with --output-path",
    "vllm bench serve": "vllm bench serve --save-result --save-detailed",
    "kvplan validate": "kvplan validate --json",
}


def earlier(path: str, tool: str) -> ValidateResult | None:
    """The earlier run of kvplan itself that a file holds; None for other tools'."""
    return msgspec.json.decode(Path(path).expanduser().read_bytes(), type=ValidateResult) if tool == "kvplan validate" else None


def beside(requests: Sequence[Request], answers: Sequence[Answer], tool: str) -> list[Request]:
    """The trace's requests in the order in which the tool sent them: the i-th answer is of the i-th request, which must be about
    as long.

    Raises InputError when the lengths tell that the file is of another trace.
    """
    if len(answers) > len(requests):
        raise InputError(f"{tool} sent {len(answers):,} requests, the trace has {len(requests):,}", hint="give the trace that it replayed")
    pairs = [(request, answer) for request, answer in zip(requests, answers, strict=False) if not answer.error]
    wrong = sum(abs(request.prompt_tokens - answer.prompt_tokens) > 8 + 0.1 * request.prompt_tokens for request, answer in pairs)
    if wrong > 0.05 * len(pairs):
        raise InputError(
            f"{wrong:,} of {len(pairs):,} prompts are not as long as in the trace: {tool} did not send it in this order",
            hint="give the trace that it replayed, or leave it out: then no prompt shares anything",
        )
    return [msgspec.structs.replace(request, index=at) for at, request in enumerate(requests[: len(answers)])]


def without_trace(answers: Sequence[Answer]) -> list[Request]:
    """Requests of the lengths that were measured; they share nothing."""
    return [
        Request(index=at, arrival_s=answer.sent_s, prompt_tokens=max(1, answer.prompt_tokens), output_tokens=answer.output_tokens)
        for at, answer in enumerate(answers)
    ]
