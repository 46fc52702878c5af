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

LIFETIMES, LEAST_LIFETIMES = 4.0, 2.0
"""The traffic lasts so many lifetimes of a session; fewer, but not under the second, where that would be too many requests."""

WARMUP = 0.25
"""Share of the requests that only fill the caches: the first lifetime of four, in which users arrive one by one."""

MOST_REQUESTS = 12_000

SEARCHED_REQUESTS = 3_000
"""So many are enough to say whether that many users are served within a limit."""

LENGTH_CV, THINK_CV = 0.5, 0.7  # assumed spreads around the given means
ANSWER_TOKEN_S = 0.02  # assumed time of an output token, for when the next turn comes


class SessionMix(msgspec.Struct, frozen=True, kw_only=True):
    """What `users=40,turns=8,input=600,output=300,think=60s,shared=1k` says."""

    users: int = 10
    turns: int = 6
    input: int = 500
    output: int = 300
    think: float = 60.0
    shared: int = 512
    document: int = 0
    documents: int = 0

    @property
    def text(self) -> str:
        """All of it as it can be given again."""
        return ",".join(f"{name}={getattr(self, name):g}{'s' if name == 'think' else ''}" for name in self.__struct_fields__)

    @property
    def lifetime_s(self) -> float:
        """Seconds from a session's first turn to its end."""
        return max(1.0, self.turns * (self.think + self.output * ANSWER_TOKEN_S))


MEANING = {
    "users": "sessions open at a time",
    "turns": "requests of a session, in the mean; sessions and lengths vary around what is given",
    "input": "tokens that a user adds at each turn",
    "output": "tokens of an answer",
    "think": "time from an answer to the next turn",
    "shared": "tokens that all prompts begin with, such as a system prompt",
    "document": "tokens that a session brings along at its start",
    "documents": "how many different documents there are; 0: ten for each user",
}
"""Key -> what it says."""


def _count(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value < 0:
        raise InputError(f"{text!r} is not a whole number")
    return value


MOST_TOKENS = 100_000_000
"""More than any model takes."""


def _tokens(text: str, *, least: int = 0) -> int:
    tokens = 0 if text == "0" and not least else parse_tokens(text)
    if tokens > MOST_TOKENS:
        raise InputError(f"{text!r}: at most {MOST_TOKENS:,} tokens")
    return tokens


def _some_tokens(text: str) -> int:
    return _tokens(text, least=1)


PARSERS: dict[str, Callable[[str], int | float]] = {
    "users": _count,
    "turns": _count,
    "input": _some_tokens,
    "output": _some_tokens,
    "think": parse_seconds,
    "shared": _tokens,
    "document": _tokens,
    "documents": _count,
}


def explained() -> str:
    """Every key with its default and meaning, a line each."""
    return "\n".join(f"{part:<14} {MEANING[part.partition('=')[0]]}" for part in SessionMix().text.split(","))


def parse_sessions(text: str) -> SessionMix:
    """Sessions from `name=value` pairs. Raises InputError naming the part that is wrong."""
    found: dict[str, int | float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = (word.strip() for word in part.partition("="))
        if not equals:
            raise InputError(f"--sessions: {part!r} is not name=value", hint="such as users=40,turns=8")
        if name not in PARSERS:
            raise InputError(f"--sessions has no key {name!r}", hint=f"{did_you_mean(name, PARSERS)} --sessions help explains them")
        if name in found:
            raise InputError(f"--sessions gives {name} twice", hint=f"{name}: {MEANING[name]}")
        try:
            found[name] = PARSERS[name](value)
        except InputError as error:
            raise InputError(f"--sessions {part}: {error.message}", hint=error.hint or MEANING[name]) from None
        if name in ("users", "turns") and not found[name]:
            raise InputError(f"--sessions {part}: at least one", hint=MEANING[name])
    mix = msgspec.convert(found, SessionMix)
    if mix.users * mix.turns * LEAST_LIFETIMES > MOST_REQUESTS:
        most = int(MOST_REQUESTS / LEAST_LIFETIMES / mix.turns)
        hint = f"at most users={most} of {mix.turns} turns: give the share of one replica"
        raise InputError(f"--sessions users={mix.users}: more than one plan simulates", hint=hint)
    return mix


def spec_of(sessions: SessionMix, seed: int = 0, *, most_requests: int = MOST_REQUESTS) -> Spec:
    """The traffic to generate: Poisson starts at the rate that keeps `users` sessions open."""
    documents = (sessions.documents or 10 * sessions.users) if sessions.document else 0
    client = Client(
        kind="chat",
        arrivals="poisson",
        sessions_per_s=sessions.users / sessions.lifetime_s,
        turns=float(sessions.turns),
        system_tokens=sessions.shared,
        documents=documents,
        document_tokens=Spread(mean=float(sessions.document or 1), cv=LENGTH_CV),
        zipf=0.0,
        user_tokens=Spread(mean=float(sessions.input), cv=LENGTH_CV),
        output_tokens=Spread(mean=float(sessions.output), cv=LENGTH_CV),
        think_s=Spread(mean=sessions.think, cv=THINK_CV) if sessions.think else 0.0,
    )
    lifetimes = max(LEAST_LIFETIMES, min(LIFETIMES, most_requests / (sessions.users * sessions.turns)))
    return Spec(
        name="sessions",
        seed=seed,
        block_tokens=128,
        duration_s=lifetimes * sessions.lifetime_s,
        answer_token_s=ANSWER_TOKEN_S,
        clients=(client,),
    )


class SessionTrace:
    """Generated traces of sessions in a folder: of the users that were asked for, and of more or fewer."""

    def __init__(self, mix: SessionMix, folder: Path) -> None:
        self.mix, self._folder = mix, folder
        self.path = self._written(mix, MOST_REQUESTS, "sessions")

    def more(self, factor: float) -> tuple[str, int]:
        """The path of a trace of `factor` times the users, and how many these are."""
        users = max(1, round(self.mix.users * factor))
        return self._written(msgspec.structs.replace(self.mix, users=users), SEARCHED_REQUESTS, f"sessions-{users}"), users

    def _written(self, mix: SessionMix, most: int, name: str) -> str:
        path = self._folder / f"{name}.jsonl"
        if not path.exists():
            size, requests = generate(spec_of(mix, most_requests=most))
            convert(requests, path, block_tokens=size, name="sessions")
        return str(path)


@contextmanager
def trace_of(sessions: SessionMix) -> Iterator[SessionTrace]:
    """Traces of the sessions, gone afterwards."""
    with TemporaryDirectory() as folder:
        yield SessionTrace(sessions, Path(folder))
