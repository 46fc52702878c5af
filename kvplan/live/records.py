"""What is sent to a server, and what came back."""

from __future__ import annotations

from typing import Literal

import msgspec

Shape = Literal["ids", "text", "chat"]
"""How a prompt travels: token ids or text to /v1/completions, or one message to /v1/chat/completions."""


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """An OpenAI-compatible server: where it is and how it wants to be asked. The key is shown nowhere."""

    url: str  # without /v1
    model: str = ""
    key: str = ""
    verify: bool = True  # check the certificate
    ca_file: str = ""
    shape: Shape = "ids"
    extras: dict[str, bool] = {}  # fields beyond OpenAI's that the server takes, such as ignore_eos
    usage_in_chunks: bool = False  # does every chunk tell the tokens so far

    def __repr__(self) -> str:
        return f"Endpoint({self.url})"


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a run may ask of a server at most."""

    requests: int = 1000
    tokens: int = 20_000_000  # prompts and answers together
    seconds: float = 600.0  # nothing is sent later; what is under way may end
    errors: int = 5  # as many failed requests end the run
    silence_s: float = 120.0  # a stream that says nothing for so long has failed


class Planned(msgspec.Struct, frozen=True, kw_only=True):
    """One request to send, `due_s` after the start, or `think_s` after the session's request before it has ended."""

    index: int
    due_s: float
    body: bytes
    prompt_tokens: int
    output_tokens: int
    session: str = ""  # its requests are sent by one process, in order
    think_s: float = -1.0  # below 0: `due_s` counts


class Answer(msgspec.Struct, kw_only=True):
    """What became of one request. Times are seconds after the start of the run on the client's clock.

    `reads` holds (moment, tokens so far) of every chunk with tokens; moments have the client's own read lag taken off.
    """

    index: int
    due_s: float
    sent_s: float = -1.0
    first_byte_s: float = -1.0  # of the answer's head, which engines send before the first token
    reads: list[tuple[float, int]] = []
    read_lags_s: list[float] = []
    end_s: float = -1.0
    prompt_tokens: int = -1  # as the server counted; -1: it did not say
    output_tokens: int = -1
    cached_tokens: int = -1
    cached_by: dict[str, int] = {}  # device, host, storage, where the server says
    error: str = ""
    status: int = 0

    @property
    def ok(self) -> bool:
        """Did the stream come to its end, with a token."""
        return not self.error and bool(self.reads)

    @property
    def ttft_s(self) -> float:
        """From the moment of sending to the first token."""
        return self.reads[0][0] - self.sent_s

    @property
    def e2e_s(self) -> float:
        """From the moment of sending to the last token."""
        return self.reads[-1][0] - self.sent_s

    @property
    def itl_s(self) -> float | None:
        """Mean time between tokens after the first chunk; None with one chunk only."""
        (first_s, first), (last_s, last) = self.reads[0], self.reads[-1]
        return (last_s - first_s) / (last - first) if last > first else None


class Lateness(msgspec.Struct, frozen=True, kw_only=True):
    """How late one client process was: sends after their moment, reads after the data lay ready, its most streams at once."""

    process: int
    send_s: list[float]
    read_s: list[float]
    streams: int


class Replay(msgspec.Struct, frozen=True, kw_only=True):
    """A replay: its answers in the order of sending, the lateness of each client process, and why it ended early, if it did."""

    answers: list[Answer]
    lateness: list[Lateness]
    stopped: str = ""
    interrupted: bool = False
