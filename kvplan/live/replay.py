"""Send requests on an absolute schedule from one process or several, and keep what came back."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import signal
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any

from kvplan.live.client import StreamClient, TimedSelector
from kvplan.live.records import Answer, Endpoint, Lateness, Limits, Planned, Replay

STREAMS = 64
"""Streams that one process reads with a p99 lag of 10 ms and less (measured: 2.1 ms at 64 streams of 50 chunks a second each,
176 ms at 256, on two shared cores)."""
LAG_SHARE, LAG_S = 0.02, 1e-3
"""A verdict needs a median lag within 2 % of the median time to first token, or within a millisecond."""
HOPELESS = frozenset({401, 403, 404})
"""Answers that every other request would get too."""

Told = Callable[[Answer], None]


def replay(
    planned: Sequence[Planned],
    endpoint: Endpoint,
    limits: Limits,
    *,
    processes: int = 1,
    told: Told | None = None,
) -> Replay:
    """Send all requests at their moments and read their answers; an interrupt or too many errors end it early, and what was
    measured until then is kept."""
    keeper = _Keeper(limits, told)
    parts = [part for part in _parts(planned, processes) if part]
    gather = _here if len(parts) == 1 else _apart
    lateness: list[Lateness] = []
    try:
        gather(parts, endpoint, limits, keeper, lateness)
    except KeyboardInterrupt:
        keeper.interrupted = True
    answers = sorted(keeper.answers, key=lambda answer: (answer.sent_s, answer.index))
    return Replay(answers=answers, lateness=lateness, stopped=keeper.stopped, interrupted=keeper.interrupted)


def late(run: Replay) -> str:
    """Why the client was too late for a verdict; empty when it was not."""
    first = [answer.ttft_s for answer in run.answers if answer.ok]
    if not first:
        return ""
    bound_s = max(LAG_S, LAG_SHARE * statistics.median(first))
    for what, lags in (
        ("sent", [lag for part in run.lateness for lag in part.send_s]),
        ("read", [lag for part in run.lateness for lag in part.read_s]),
    ):
        if lags and statistics.median(lags) > bound_s:
            return (
                f"this client {what} {statistics.median(lags) * 1e3:.1f} ms late in the median, over {bound_s * 1e3:.1f} ms: "
                "run it on an idle machine or with more --processes"
            )
    return ""


class _Keeper:
    """Collects answers and says when to stop."""

    def __init__(self, limits: Limits, told: Told | None) -> None:
        self.answers: list[Answer] = []
        self.stopped, self.interrupted, self._failed = "", False, 0
        self._limits, self._told = limits, told

    def take(self, answer: Answer) -> bool:
        """Keep an answer; True when the run has to end."""
        self.answers.append(answer)
        if self._told is not None:
            self._told(answer)
        if answer.error and not self.stopped:
            self._failed += 1
            if answer.status in HOPELESS or self._failed >= self._limits.errors:
                self.stopped = f"{self._failed} requests failed; the last one: {answer.error}"
        return bool(self.stopped)


def _parts(planned: Sequence[Planned], processes: int) -> list[list[Planned]]:
    """Requests dealt out to processes, those of a session to one."""
    parts: list[list[Planned]] = [[] for _ in range(max(1, processes))]
    owner: dict[str, int] = {}
    for at, one in enumerate(planned):
        part = owner.setdefault(one.session, at % len(parts)) if one.session else at % len(parts)
        parts[part].append(one)
    return parts


def _here(parts: list[list[Planned]], endpoint: Endpoint, limits: Limits, keeper: _Keeper, lateness: list[Lateness]) -> None:
    """All from this process."""
    selector = TimedSelector()
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
        start_s = time.perf_counter() + 0.05
        client = StreamClient(endpoint, limits, selector)
        try:
            runner.run(_drive(parts[0], client, limits, start_s, keeper.take, asyncio.Event()))
        finally:
            lateness.append(_lateness(0, keeper.answers, client))


async def _drive(
    planned: Sequence[Planned], client: StreamClient, limits: Limits, start_s: float, take: Callable[[Answer], bool], stop: asyncio.Event
) -> None:
    """Send each request at its moment; ends when all answers are there or `stop` is set."""
    chains: dict[str, list[Planned]] = {}
    for one in planned:
        chains.setdefault(one.session or f"\0{one.index}", []).append(one)

    async def chain(turns: list[Planned]) -> None:
        ended_s = 0.0
        under_way: list[asyncio.Task[float]] = []
        for one in turns:
            moment_s = ended_s + one.think_s if one.think_s >= 0 and under_way else one.due_s
            await _until(start_s + moment_s - client.head_s)
            if moment_s > limits.seconds or stop.is_set():
                return
            task = asyncio.create_task(_ask(client, one, start_s, moment_s, take, stop))
            under_way.append(task)
            if turns[-1].think_s >= 0:
                ended_s = await task
        await asyncio.gather(*under_way)

    enabled = gc.isenabled()
    gc.disable()  # a collection would delay every stream by its length
    try:
        async with client:
            running = [asyncio.create_task(chain(turns)) for turns in chains.values()]
            halt = asyncio.create_task(stop.wait())
            everything = asyncio.create_task(_all(running))
            try:
                await asyncio.wait([everything, halt], return_when=asyncio.FIRST_COMPLETED)
                if everything.done():
                    everything.result()
            finally:
                for task in (*running, everything, halt):
                    task.cancel()
                await asyncio.gather(*running, everything, halt, return_exceptions=True)
    finally:
        if enabled:
            gc.enable()


async def _all(tasks: list[asyncio.Task[None]]) -> bool:
    await asyncio.gather(*tasks)
    return True


async def _ask(
    client: StreamClient, one: Planned, start_s: float, moment_s: float, take: Callable[[Answer], bool], stop: asyncio.Event
) -> float:
    answer = await client.ask(one, start_s)
    answer.due_s = moment_s
    if take(answer):
        stop.set()
    return answer.end_s


async def _until(moment_s: float) -> None:
    """Sleep until a moment of the clock. The loop's timers round up to a millisecond, so the last one and a half turn the loop, which
    reads other streams meanwhile."""
    while (left_s := moment_s - time.perf_counter()) > 0:
        await asyncio.sleep(left_s - 1.5e-3 if left_s > 2e-3 else 0)


def _lateness(process: int, answers: Sequence[Answer], client: StreamClient) -> Lateness:
    return Lateness(
        process=process,
        send_s=[max(0.0, answer.sent_s - answer.due_s) for answer in answers if answer.status],
        read_s=[lag for answer in answers for lag in answer.read_lags_s],
        streams=client.most_streams,
    )


# -- several processes ----------------------------------------------------------------------------------------------------


def _apart(parts: list[list[Planned]], endpoint: Endpoint, limits: Limits, keeper: _Keeper, lateness: list[Lateness]) -> None:
    """Each part from a process of its own; they start at the same moment of the system's clock."""
    context = multiprocessing.get_context("spawn")
    pipes, workers = [], []
    try:
        for number, part in enumerate(parts):
            mine, theirs = context.Pipe()
            worker = context.Process(target=_work, args=(theirs, number, part, endpoint, limits), daemon=True)
            worker.start()
            theirs.close()
            pipes.append(mine)
            workers.append(worker)
        for pipe in pipes:
            pipe.recv()  # it is ready
        start_s = time.perf_counter() + 0.2
        for pipe in pipes:
            pipe.send(start_s)
        try:
            _collect(pipes, keeper, lateness)
        except KeyboardInterrupt:
            keeper.interrupted = True
            _halt(pipes)
            _collect(pipes, keeper, lateness)
    finally:
        for worker in workers:
            worker.join(5)
            if worker.is_alive():
                worker.terminate()


def _collect(pipes: list[Connection], keeper: _Keeper, lateness: list[Lateness]) -> None:
    """Answers until every process has ended; a process that dies counts as an end."""
    while pipes:
        for pipe in wait(pipes):
            assert isinstance(pipe, Connection)
            try:
                told = pipe.recv()
            except (EOFError, OSError):
                keeper.stopped = keeper.stopped or "a client process died"
                pipes.remove(pipe)
                continue
            if isinstance(told, Lateness):
                lateness.append(told)
                pipes.remove(pipe)
            elif keeper.take(told):
                _halt(pipes)


def _halt(pipes: list[Connection]) -> None:
    for pipe in pipes:
        with suppress(OSError):
            pipe.send("stop")


def _work(pipe: Any, number: int, planned: list[Planned], endpoint: Endpoint, limits: Limits) -> None:
    """A client process: waits for the common start, sends its part, tells each answer, and its lateness at the end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it and says stop
    selector, answers = TimedSelector(), []

    def take(answer: Answer) -> bool:
        answers.append(answer)
        pipe.send(answer)
        return False

    async def drive(client: StreamClient) -> None:
        stop = asyncio.Event()
        asyncio.get_running_loop().add_reader(pipe.fileno(), stop.set)
        await _drive(planned, client, limits, start_s, take, stop)

    pipe.send("ready")
    start_s = pipe.recv()
    client = StreamClient(endpoint, limits, selector)
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
        runner.run(drive(client))
    pipe.send(_lateness(number, answers, client))
