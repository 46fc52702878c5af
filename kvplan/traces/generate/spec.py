"""What to generate: a TOML file of clients, or of a real trace to scale.

seed = 1
duration_s = 600
[[clients]]
kind = "chat"
sessions_per_s = 0.5
arrivals = "gamma"
cv = 2.0
user_tokens = { mean = 200, cv = 1.5 }
output_tokens = { trace = "AzureLLMInferenceTrace_conv.csv" }
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

from kvplan.catalog import folder, read_text
from kvplan.errors import InputError, did_you_mean, misfit

Positive = Annotated[float, msgspec.Meta(gt=0, le=1e9)]
NotNegative = Annotated[float, msgspec.Meta(ge=0, le=1e9)]
Count = Annotated[int, msgspec.Meta(ge=0, le=10**9)]


class Spread(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A log-normal distribution by its mean and coefficient of variation, or the lengths that a trace has."""

    mean: Positive | None = None
    cv: NotNegative = 1.0
    trace: str = ""


Length = NotNegative | Spread


class Client(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A population of equal users. A field that is not given takes the value of its `kind` (see KINDS).

    Every session starts with the client's system prompt, then with one of its documents (chosen by Zipf's law), then
    takes `turns` turns: each adds what the user says and, for the next, what was answered.
    """

    kind: str
    sessions_per_s: NotNegative = 0.0
    sessions: Count = 0  # at most; needed where all arrive at once
    arrivals: str | None = None
    cv: Positive = 1.0  # gamma: of the times between sessions
    period_s: Positive = 86400.0  # diurnal
    swing: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.5  # diurnal: of the rate, relative to its mean
    burst_s: Positive = 30.0  # burst: mean length of a burst
    burst_factor: Annotated[float, msgspec.Meta(gt=1, le=1e4)] = 5.0  # burst: rate within, relative to the mean
    turns: Annotated[float, msgspec.Meta(ge=1, le=1e5)] | None = None  # mean of a geometric distribution
    system_tokens: Count | None = None
    documents: Count | None = None
    document_tokens: Length | None = None
    zipf: NotNegative | None = None
    user_tokens: Length | None = None
    output_tokens: Length | None = None
    think_s: Length | None = None
    priority: int = 0  # of its requests; lower numbers go first


class Scale(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A real trace with more or fewer users: sessions are copied or left out; what several sessions share stays
    shared.

    `start_every_s` above 0 lets sessions start anew as a Poisson process, for traces whose sessions all start at 0;
    `max_gap_s` above 0 caps the time between the turns of a session.
    """

    trace: str
    users: Positive = 1.0
    start_every_s: NotNegative = 0.0
    max_gap_s: NotNegative = 0.0


class Spec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A trace to generate: from `clients`, or by scaling a real one."""

    name: str = ""
    seed: Count = 0
    block_tokens: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 16
    duration_s: Positive = 600.0
    max_requests: Count = 0  # 0: no limit
    max_context_tokens: Annotated[int, msgspec.Meta(ge=1, le=100_000_000)] = 131_072  # a session ends before it
    answer_token_s: NotNegative = 0.02  # nominal time of one output token, for the arrival of the next turn
    clients: tuple[Client, ...] = ()
    scale: Scale | None = None


KINDS: dict[str, dict[str, object]] = {
    "chat": {
        "arrivals": "poisson",
        "turns": 4.0,
        "system_tokens": 256,
        "user_tokens": Spread(mean=150, cv=1.5),
        "output_tokens": Spread(mean=250, cv=1.0),
        "think_s": Spread(mean=40, cv=1.5),
    },
    # After the WEKA sessions: 13-15 thousand tokens of tools and system prompt, median 45 requests of a session, mean
    # answer 440 tokens.
    "agent": {
        "arrivals": "poisson",
        "turns": 45.0,
        "system_tokens": 14_000,
        "user_tokens": Spread(mean=2000, cv=2.0),
        "output_tokens": Spread(mean=440, cv=2.0),
        "think_s": Spread(mean=20, cv=3.0),
    },
    "rag": {
        "arrivals": "poisson",
        "turns": 1.0,
        "system_tokens": 256,
        "documents": 1000,
        "document_tokens": Spread(mean=4000, cv=1.0),
        "zipf": 1.0,
        "user_tokens": Spread(mean=60, cv=1.0),
        "output_tokens": Spread(mean=200, cv=1.0),
    },
    "batch": {
        "arrivals": "at_once",
        "turns": 1.0,
        "system_tokens": 1000,
        "user_tokens": Spread(mean=2000, cv=1.0),
        "output_tokens": Spread(mean=200, cv=1.0),
    },
}
"""Kind of client -> values of the fields that it does not give; assumed, but for those that name a source."""


def spec_file(path: str | Path) -> Path:
    """A specification by path, or by the name of a shipped one. Raises InputError."""
    file = Path(path).expanduser()
    shipped = {one.stem: one for one in (folder("scenarios") / "traces").glob("*.toml")}
    if file.exists():
        return file
    if str(path) not in shipped:
        raise InputError(f"{path}: no such file, and no shipped specification of that name", hint=did_you_mean(str(path), shipped))
    return shipped[str(path)]


def load_spec(path: str | Path, *, seed: int | None = None) -> Spec:
    """A specification from TOML, with another `seed` if given. Raises InputError naming the field that is wrong."""
    file = spec_file(path)
    if seed is not None and seed < 0:
        raise InputError(f"--seed {seed}: a seed is a whole number from 0 on")
    try:
        spec = msgspec.toml.decode(read_text(file), type=Spec)
    except msgspec.ValidationError as error:
        fields = (*Spec.__struct_fields__, *Client.__struct_fields__, *Scale.__struct_fields__, *Spread.__struct_fields__)
        raise misfit(error, path, set(fields)) from None
    except RecursionError:
        raise InputError(f"{path}: nested too deeply") from None
    except msgspec.DecodeError as error:
        raise InputError(f"{path}: not valid TOML: {error}") from None
    if bool(spec.clients) == bool(spec.scale):
        raise InputError(f"{path}: give either [[clients]] or [scale]")
    return msgspec.structs.replace(
        spec,
        name=spec.name or file.stem,
        seed=spec.seed if seed is None else seed,
        clients=tuple(_complete(client, str(path)) for client in spec.clients),
    )


def _complete(client: Client, path: str) -> Client:
    """The client with its kind's values where it gives none."""
    if client.kind not in KINDS:
        raise InputError(f"{path}: no kind of client named {client.kind!r}", hint=did_you_mean(client.kind, KINDS))
    missing = {name: value for name, value in KINDS[client.kind].items() if getattr(client, name) is None}
    complete = msgspec.structs.replace(client, **missing)
    if not (complete.sessions_per_s or complete.sessions):
        raise InputError(f"{path}: a {client.kind} client needs sessions_per_s or sessions")
    return complete
