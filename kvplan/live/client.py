"""One stream of an OpenAI-compatible server, with the moments at which it was sent and read and the client's own lag taken off."""

from __future__ import annotations

import os
import selectors
import ssl
import time
from types import TracebackType
from typing import Any

import aiohttp
import msgspec

from kvplan.errors import InputError
from kvplan.live import sse
from kvplan.live.records import Answer, Endpoint, Limits, Planned


class TimedSelector(selectors.DefaultSelector):
    """A selector that knows when what it found became ready.

    When it had to wait, that is the moment it woke; when it did not, the data came some time since it last looked: the
    middle of that time. A coroutine that reads runs one turn of the loop after the bytes were received, hence `ready_s`
    of the turn before.
    """

    def __init__(self) -> None:
        super().__init__()
        self._looked_s = self._ready_s = self.ready_s = time.perf_counter()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        before_s = time.perf_counter()
        found = super().select(timeout)
        woke_s = time.perf_counter()
        waited = found and woke_s - before_s > _WAITED_S
        self.ready_s = self._ready_s
        self._ready_s = woke_s if waited else (self._looked_s + woke_s) / 2
        self._looked_s = woke_s
        return found


_LEARN = 0.2
"""How much the last request counts in what the next one's head is expected to take."""
_WAITED_S = 50e-6
"""A look at sockets that are ready takes some microseconds."""


def body(endpoint: Endpoint, prompt: str, output_tokens: int) -> bytes:
    """The JSON of a request whose answer has exactly so many tokens where the server can force that."""
    fields: dict[str, Any] = {"model": endpoint.model, "max_tokens": output_tokens, "temperature": 0, "stream": True}
    fields["stream_options"] = {"include_usage": True} | ({"continuous_usage_stats": True} if endpoint.usage_in_chunks else {})
    fields |= endpoint.extras
    if endpoint.shape == "text":
        fields["prompt"] = prompt
    if endpoint.shape == "chat":
        fields["messages"] = [{"role": "user", "content": prompt}]
    encoded = msgspec.json.encode(fields)
    return encoded[:-1] + b',"prompt":[' + prompt.encode() + b"]}" if endpoint.shape == "ids" else encoded


class StreamClient:
    """Connections to one server. Use as an asynchronous context, in a loop over the given selector."""

    def __init__(self, endpoint: Endpoint, limits: Limits, selector: TimedSelector | None = None) -> None:
        self._endpoint, self._limits, self._selector = endpoint, limits, selector
        self.streams = self.most_streams = 0
        self.head_s = 0.4e-3  # from the call to the head on the wire, as of late

    async def __aenter__(self) -> StreamClient:
        endpoint = self._endpoint
        watch = aiohttp.TraceConfig()
        watch.on_request_headers_sent.append(_note_sent)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=tls(endpoint)),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=self._limits.silence_s),
            headers={"Authorization": f"Bearer {endpoint.key}"} if endpoint.key else {},
            trace_configs=[watch],
            read_bufsize=2**18,
        )
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._session.close()

    async def get(self, path: str) -> tuple[int, bytes]:
        """Status and body of a page of the server; `path` may be a whole address.

        Raises InputError when it cannot be reached.
        """
        address = path if "://" in path else self._endpoint.url + path
        try:
            async with self._session.get(address) as response:
                return response.status, await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            wrong_certificate = isinstance(error, aiohttp.ClientConnectorCertificateError)
            hint = "name its certificate: --ca FILE, or --insecure" if wrong_certificate else "is the server up, and the address right?"
            raise InputError(f"{address}: {self._words(error)}", hint=hint) from None

    async def ask(self, planned: Planned, start_s: float) -> Answer:
        """Send a request and read its stream to the end. What goes wrong is in the answer's `error`."""
        answer = Answer(index=planned.index, due_s=planned.due_s)
        path = "/v1/chat/completions" if self._endpoint.shape == "chat" else "/v1/completions"
        self.streams += 1
        self.most_streams = max(self.most_streams, self.streams)
        asked_s = time.perf_counter()
        stamp = _Stamp(asked_s)
        events: list[sse.Event] = []
        try:
            async with self._session.post(
                self._endpoint.url + path,
                data=planned.body,
                headers={"Content-Type": "application/json"},
                trace_request_ctx=stamp,
            ) as response:
                answer.status, answer.first_byte_s = response.status, self._ready() - start_s
                if response.status != 200:
                    answer.error = self._refusal(response.status, await response.content.read(2000))
                else:
                    await self._read(response, answer, events, start_s)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            said = "the stream stalled" if isinstance(error, TimeoutError) else f"the stream broke: {self._words(error)}"
            answer.error = said if answer.status else f"no answer: {self._words(error)}"
        finally:
            self.streams -= 1
        answer.sent_s, answer.end_s = stamp.sent_s - start_s, time.perf_counter() - start_s
        self.head_s += _LEARN * (min(stamp.sent_s - asked_s, 10 * self.head_s) - self.head_s)
        answer.reads = sse.counted(events, answer.output_tokens if answer.output_tokens >= 0 else None)
        if not answer.error and not answer.reads:
            answer.error = "the stream ended without a token"
        return answer

    async def _read(self, response: aiohttp.ClientResponse, answer: Answer, events: list[sse.Event], start_s: float) -> None:
        """Read a stream to its end; what it says goes into the answer and the events."""
        cut, ended = sse.EventCutter(), False
        async for piece in response.content.iter_any():
            ready_s = self._ready()
            answer.read_lags_s.append(max(0.0, time.perf_counter() - ready_s))
            try:
                for data in cut.feed(piece):
                    ended = self._take(data, ready_s - start_s, answer, events) or ended
            except (msgspec.DecodeError, UnicodeDecodeError, ValueError, RecursionError) as error:
                answer.error = f"an event is not what OpenAI's API streams: {self._words(error)}"
            if answer.error:
                return
        if not ended:
            answer.error = f"the stream broke off after {len(events):,} chunks"

    def _take(self, data: bytes, moment_s: float, answer: Answer, events: list[sse.Event]) -> bool:
        """One event; True when it ends the answer."""
        if data == sse.DONE:
            return True
        chunk = sse.decode(data)
        if chunk.error is not None:
            answer.error = self._refusal(0, data)
        if chunk.usage is not None:
            _note_usage(answer, chunk.usage)
        if chunk.sglext is not None and chunk.sglext.cached_tokens_details:
            details = chunk.sglext.cached_tokens_details
            answer.cached_by = {name: count for name, count in details.items() if isinstance(count, int)}
            answer.cached_tokens = max(answer.cached_tokens, sum(answer.cached_by.values()))
        if chunk.choices:
            events.append(sse.Event(moment_s, chunk.usage.completion_tokens if chunk.usage else None, chunk.has_text))
        return chunk.finished

    def _ready(self) -> float:
        return self._selector.ready_s if self._selector is not None else time.perf_counter()

    def _refusal(self, status: int, text: bytes) -> str:
        said = " ".join(text.decode(errors="replace").split())[:200]
        return self._hidden(f"HTTP {status}: {said}" if status else f"the server reports an error: {said}")

    def _words(self, error: Exception) -> str:
        if isinstance(error, aiohttp.ClientConnectorError) and not isinstance(error, aiohttp.ClientSSLError):
            number = error.os_error.errno or 0
            why = os.strerror(number) if number > 0 else str(error.os_error.strerror or "")
            return f"nothing answers there ({why.lower()})" if why else "nothing answers there"
        return self._hidden(str(error) or type(error).__name__)

    def _hidden(self, text: str) -> str:
        return text.replace(self._endpoint.key, "***") if self._endpoint.key else text


class _Stamp:
    """When the head of a request went out; until then, when it was to."""

    def __init__(self, now_s: float) -> None:
        self.sent_s = now_s


async def _note_sent(session: aiohttp.ClientSession, context: Any, sent: aiohttp.TraceRequestHeadersSentParams) -> None:
    if context.trace_request_ctx is not None:
        context.trace_request_ctx.sent_s = time.perf_counter()


def _note_usage(answer: Answer, usage: sse.Usage) -> None:
    if usage.prompt_tokens is not None:
        answer.prompt_tokens = usage.prompt_tokens
    if usage.completion_tokens is not None:
        answer.output_tokens = usage.completion_tokens
    details = usage.prompt_tokens_details
    if details is not None and details.cached_tokens is not None:
        answer.cached_tokens = details.cached_tokens


def tls(endpoint: Endpoint) -> ssl.SSLContext | bool:
    """How certificates are checked: by the system's authorities, by a file of the user's, or not. Raises InputError for a bad file."""
    if not endpoint.verify:
        return False
    if not endpoint.ca_file:
        return True
    try:
        return ssl.create_default_context(cafile=endpoint.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise InputError(f"{endpoint.ca_file}: not a file of certificates ({error})") from None
