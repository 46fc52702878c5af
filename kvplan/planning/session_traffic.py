"""Traffic from numbers only: so many users at a time, turns, lengths, think time and a shared prefix."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from kvplan.errors import InputError, did_you_mean
from kvplan.traces.generate.generate import generate
from kvplan.traces.generate.spec import Client, Spec, Spread
from kvplan.traces.write import convert
from kvplan.units import parse_seconds, parse_tokens

LIFETIMES = 4.0
"""The traffic lasts so many lifetimes of a session, so that most of it sees caches in their steady state."""

MOST_REQUESTS = 4000
LENGTH_CV, THINK_CV = 0.5, 0.7  # assumed spreads around the given means


class SessionMix(msgspec.Struct, frozen=True, kw_only=True):
    """What `users=40,turns=8,input=600,output=300,think=60s,shared=1k` says; `input` is what a user adds at each
    turn.
    """

    users: int = 10
    turns: int = 6
    input: int = 500
    output: int = 300
    think: float = 60.0
    shared: int = 512
    document: int = 0  # tokens that each session brings along at its start
    documents: int = 0  # how many different ones there are; 0: one for each session


def _count(text: str) -> int:
    return parse_tokens(text)


PARSERS: dict[str, Callable[[str], int | float]] = {
    "users": _count,
    "turns": _count,
    "input": parse_tokens,
    "output": parse_tokens,
    "think": parse_seconds,
    "shared": lambda text: 0 if text == "0" else parse_tokens(text),
    "document": parse_tokens,
    "documents": _count,
}


def parse_sessions(text: str) -> SessionMix:
    """Sessions from `name=value` pairs. Raises InputError naming the part that is wrong."""
    found: dict[str, int | float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = (word.strip() for word in part.partition("="))
        if name not in PARSERS or not equals:
            raise InputError(f"--sessions: {part!r} is not name=value", hint=did_you_mean(name, PARSERS))
        found[name] = PARSERS[name](value)
    return msgspec.convert(found, SessionMix)


def spec_of(sessions: SessionMix, seed: int = 0) -> Spec:
    """The traffic to generate: Poisson starts at the rate that keeps `users` sessions open."""
    answer_token_s = 0.02
    lifetime_s = sessions.turns * (sessions.think + sessions.output * answer_token_s)
    documents = (sessions.documents or 10 * sessions.users) if sessions.document else 0
    client = Client(
        kind="chat",
        arrivals="poisson",
        sessions_per_s=sessions.users / max(1e-3, lifetime_s),
        turns=float(sessions.turns),
        system_tokens=sessions.shared,
        documents=documents,
        document_tokens=Spread(mean=float(sessions.document or 1), cv=LENGTH_CV),
        zipf=0.0,
        user_tokens=Spread(mean=float(sessions.input), cv=LENGTH_CV),
        output_tokens=Spread(mean=float(sessions.output), cv=LENGTH_CV),
        think_s=Spread(mean=sessions.think, cv=THINK_CV) if sessions.think else 0.0,
    )
    return Spec(
        name="sessions",
        seed=seed,
        block_tokens=128,
        duration_s=LIFETIMES * max(1.0, lifetime_s),
        max_requests=MOST_REQUESTS,
        answer_token_s=answer_token_s,
        clients=(client,),
    )


@contextmanager
def trace_of(sessions: SessionMix) -> Iterator[str]:
    """The path of a generated trace of the sessions, gone afterwards."""
    size, requests = generate(spec_of(sessions))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "sessions.jsonl"
        convert(requests, path, block_tokens=size, name="sessions")
        yield str(path)
