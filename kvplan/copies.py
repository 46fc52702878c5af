"""Short tasks shared out among copies of this process: they start in milliseconds, know all that it knows, and end with their part."""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from itertools import cycle
from typing import Any, BinaryIO

Task = Callable[[Any], Any]

MOST = 8
"""Processes that are worth it for tasks of a tenth of a second."""


def possible(tasks: int) -> int:
    """Processes for so many tasks: one for each core that may be used (LOKY_MAX_CPU_COUNT says less); 1 where a system cannot copy one."""
    if not hasattr(os, "fork") or not hasattr(os, "sched_getaffinity"):
        return 1
    asked = os.environ.get("LOKY_MAX_CPU_COUNT", "")
    return max(1, min(tasks, MOST, len(os.sched_getaffinity(0)), int(asked) if asked.isdecimal() else MOST))


def shared_out(function: Task, tasks: Sequence[Any], processes: int) -> Iterator[tuple[int, Any]]:
    """Pairs of a task's place and what `function` returned for it. Whoever stops asking ends the copies.

    What a copy does not bring back is done here: when it was killed, or when `function` raised, which it then does here.
    """
    with ExitStack() as running:
        parts = [range(at, len(tasks), processes) for at in range(1, processes)]
        others = [running.enter_context(beside(partial(_together, function, tasks, part))) for part in parts]
        for at in range(0, len(tasks), processes):
            yield at, function(tasks[at])
        for first, answers in enumerate(others, 1):
            try:
                yield from pickle.load(answers)
            except (EOFError, pickle.UnpicklingError):
                yield from ((at, function(tasks[at])) for at in range(first, len(tasks), processes))


def _together(function: Task, tasks: Sequence[Any], places: Sequence[int]) -> Iterator[list[tuple[int, Any]]]:
    yield [(at, function(tasks[at])) for at in places]


def in_turn(series: Callable[[int, int], Iterator[Any]], processes: int) -> Iterator[Any]:
    """What `series(place, processes)` gives in copies, one thing of each in turn, up to where the copy whose turn it is ends or fails."""
    with ExitStack() as running:
        streams = [running.enter_context(beside(partial(series, place, processes))) for place in range(processes)]
        with suppress(EOFError, pickle.UnpicklingError):
            for stream in cycle(streams):
                yield pickle.load(stream)


@contextmanager
def beside(answers_of: Callable[[], Iterable[Any]]) -> Iterator[BinaryIO]:
    """A copy of this process at work, as the stream that it will write its answers to."""
    answers, answering = os.pipe()
    process = os.fork()
    if not process:
        try:
            deaf()
            with open(answering, "wb") as out:
                for answer in answers_of():
                    pickle.dump(answer, out, pickle.HIGHEST_PROTOCOL)
        finally:
            os._exit(0)
    os.close(answering)
    try:
        with open(answers, "rb") as stream:
            yield stream
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)


def deaf() -> None:
    """A worker leaves interrupts to its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
