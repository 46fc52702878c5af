"""The requests that were really sent, at the moments at which they were sent, through the simulator."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from kvplan.live.records import Answer
from kvplan.request import Request
from kvplan.results.simulate import SimResult
from kvplan.scenario import Scenario
from kvplan.sim.simulate import simulate
from kvplan.traces.write import convert


def as_sent(requests: Sequence[Request], answers: Sequence[Answer]) -> list[Request]:
    """The request behind each answer as the server saw it: when, how long, how much it wrote.

    Numbered in the order of sending, without sessions: the moments are real.
    """
    asked = {request.index: request for request in requests}
    first_s = answers[0].sent_s if answers else 0.0
    found = []
    for at, answer in enumerate(answers):
        request = asked[answer.index]
        prompt = answer.prompt_tokens if answer.prompt_tokens > 0 else request.prompt_tokens
        output = answer.output_tokens if answer.output_tokens > 0 else (answer.reads[-1][1] if answer.reads else request.output_tokens)
        found.append(
            msgspec.structs.replace(
                request, index=at, arrival_s=max(0.0, answer.sent_s - first_s), prompt_tokens=prompt, output_tokens=max(1, output),
                session="", think_s=-1.0,
            )
        )  # fmt: skip
    return found


def run(scenario: Scenario, requests: Sequence[Request], block_tokens: int) -> tuple[SimResult, dict[str, Any]]:
    """The result of these requests under a scenario, and its columns: one row a request, in their order."""
    with tempfile.TemporaryDirectory(prefix="kvplan-") as folder:
        path = str(Path(folder) / "sent.jsonl")
        convert(_fitting(requests, block_tokens), path, block_tokens=block_tokens, name="sent")
        plain = msgspec.structs.replace(scenario.run, speedup=1.0, limit=0, max_input_tokens=0, warmup=0.0, jitter_s=0.0, max_sessions=0)
        result, record = simulate(scenario.changed(trace=path, run=plain))
    return result, record.columns


def _fitting(requests: Sequence[Request], block_tokens: int) -> list[Request]:
    """Blocks cut to what the prompt has room for: a server that counts fewer tokens than were meant has fewer."""
    return [
        msgspec.structs.replace(request, blocks=request.blocks[: -(-request.prompt_tokens // block_tokens)] if block_tokens else ())
        for request in requests
    ]


def streams_at_once(columns: dict[str, Any]) -> int:
    """The most requests under way at once."""
    ran = columns["status"] == 0
    begins, lasts = columns["arrival_s"][ran], columns["e2e_s"][ran]
    moments = sorted([(float(at), 1) for at in begins] + [(float(at + last), -1) for at, last in zip(begins, lasts, strict=True)])
    most = now = 0
    for _, step in moments:
        now += step
        most = max(most, now)
    return most
