"""Many tasks on all cores or on a cluster, through joblib: the only place that uses it."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import joblib
import msgspec
from joblib.externals.loky.process_executor import BrokenProcessPool

from kvplan.errors import KvplanError

Task = Callable[[Any], Any]

SMALL_REQUESTS = 3000
"""So few requests in all are replayed sooner than processes start."""


class Executor(msgspec.Struct, frozen=True, kw_only=True):
    """Where tasks run: `loky` is processes of this machine; 0 workers are one for each core, 1 is this process itself."""

    backend: str = "loky"
    workers: int = 0

    @property
    def processes(self) -> int:
        """Workers on this machine."""
        return self.workers or os.cpu_count() or 1


def fitting(executor: Executor, requests: int) -> Executor:
    """The same, or this process alone where so few requests in all are to be replayed."""
    small = executor.backend == "loky" and not executor.workers and requests < SMALL_REQUESTS
    return Executor(workers=1) if small else executor


def run_all(function: Task, tasks: Sequence[Any], executor: Executor = Executor()) -> Iterator[tuple[int, Any]]:
    """Pairs of a task's place and what `function` returned for it, as they finish.

    `function` is importable by workers and returns its failures; an exception stops everything. A task whose worker dies is run again
    alone; when that worker dies too, what comes is the KvplanError that says so. Whoever stops asking ends the workers.
    """
    if executor.backend == "loky" and (executor.processes == 1 or len(tasks) < 2):
        yield from ((at, function(task)) for at, task in enumerate(tasks))
        return
    left = dict(enumerate(tasks))
    under_way: list[int] = []
    try:
        for at, outcome in _side_by_side(function, left, under_way, executor):
            under_way.remove(at)
            del left[at]
            yield at, outcome
        return
    except BrokenProcessPool:
        pass
    for at in under_way:
        yield at, _alone(function, left.pop(at), executor)
    places = list(left)
    for at, outcome in run_all(function, list(left.values()), executor):
        yield places[at], outcome


def _side_by_side(function: Task, tasks: dict[int, Any], under_way: list[int], executor: Executor) -> Iterator[tuple[int, Any]]:
    """`under_way` tells which tasks have been handed out and have not come back."""

    def handed_out() -> Iterator[Any]:
        for at, task in list(tasks.items()):
            under_way.append(at)
            yield joblib.delayed(_placed)(function, at, task)

    with joblib.parallel_config(backend=executor.backend, n_jobs=executor.processes, initializer=_deaf), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*tasks which were still being processed", category=UserWarning)
        yield from joblib.Parallel(return_as="generator_unordered", batch_size=1)(handed_out())


def _alone(function: Task, task: Any, executor: Executor) -> Any:
    """What comes of a task in a worker that has no other."""
    try:
        with joblib.parallel_config(backend=executor.backend, n_jobs=2, initializer=_deaf):
            return joblib.Parallel(batch_size=1)([joblib.delayed(function)(task)])[0]
    except BrokenProcessPool:
        return KvplanError("the process that ran it was killed, twice", hint="too little memory? --workers 1 runs one at a time")


def _placed(function: Task, at: int, task: Any) -> tuple[int, Any]:
    return at, function(task)


def _deaf() -> None:
    """A worker leaves interrupts to its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
