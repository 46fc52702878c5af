"""Many tasks on all cores or on a cluster, through joblib: the only place that uses it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import msgspec

from kvplan import copies
from kvplan.errors import InputError, KvplanError, MissingError

Task = Callable[[Any], Any]

Watch = Callable[[int, int, str], None]
"""Told after each run: runs done, about how many there will be, and a word on what was seen."""

SMALL_REQUESTS = 3000
"""So few requests in all are replayed sooner than processes start."""

BROKEN = {"BrokenProcessPool", "TerminatedWorkerError", "KilledWorker", "RayActorError", "ActorDiedError", "WorkerCrashedError"}
"""Exceptions by which the backends say that a worker died."""

IN_FLIGHT = 4
"""Tasks for each worker that are handed out together where a backend gives results only in batches."""


class Executor(msgspec.Struct, frozen=True, kw_only=True):
    """Where tasks run: `loky` is processes of this machine, `ray` and `dask` a cluster by its address or one that is started here.

    0 workers are one for each core, or all of a cluster; 1 is this process itself under loky. Where all tasks together take a second or
    two, `short`, copies of this process take their part.
    """

    backend: str = "loky"
    workers: int = 0
    address: str = ""
    short: bool = False

    @property
    def processes(self) -> int:
        """Workers on this machine: as asked, or one for each core that may be used (affinity, container, LOKY_MAX_CPU_COUNT)."""
        import joblib

        return self.workers or joblib.cpu_count()


def fitting(executor: Executor, requests: int) -> Executor:
    """The same, or this process and its copies where so few requests in all are to be replayed."""
    small = executor.backend == "loky" and not executor.workers and requests < SMALL_REQUESTS
    return Executor(short=True) if small else executor


def run_all(function: Task, tasks: Sequence[Any], executor: Executor = Executor()) -> Iterator[tuple[int, Any]]:
    """Pairs of a task's place and what `function` returned for it, as they finish.

    `function` is importable by workers and returns its failures; an exception stops everything. A task whose worker dies is run again
    alone, on this machine; when that worker dies too, what comes is the KvplanError that says so. Whoever stops asking ends the workers.
    Raises MissingError where the backend's package is absent.
    """
    if executor.backend not in BACKENDS:
        raise InputError(f"--backend {executor.backend}: no such backend", hint=f"known: {', '.join(BACKENDS)}")
    if executor.short and (processes := copies.possible(len(tasks))) > 1:
        yield from copies.shared_out(function, tasks, processes)
        return
    if executor.backend == "loky" and (executor.short or len(tasks) < 2 or executor.workers == 1 or executor.processes == 1):
        yield from ((at, function(task)) for at, task in enumerate(tasks))
        return
    left = dict(enumerate(tasks))
    under_way: list[int] = []
    try:
        with BACKENDS[executor.backend](executor):
            for at, outcome in _side_by_side(function, left, under_way, executor):
                under_way.remove(at)
                del left[at]
                yield at, outcome
        return
    except Exception as error:
        if type(error).__name__ not in BROKEN:
            raise
    for at in under_way:
        yield at, _alone(function, left.pop(at))
    places = list(left)
    for at, outcome in run_all(function, list(left.values()), executor):
        yield places[at], outcome


def _side_by_side(function: Task, tasks: dict[int, Any], under_way: list[int], executor: Executor) -> Iterator[tuple[int, Any]]:
    """`under_way` tells which tasks have been handed out and have not come back."""
    import joblib  # slow to load, and short work does without

    def handed_out(places: Sequence[int]) -> Iterator[Any]:
        for at in places:
            under_way.append(at)
            yield joblib.delayed(_placed)(function, at, tasks[at])

    places, jobs = list(tasks), -1 if executor.address else executor.processes
    settings: dict[str, Any] = {"initializer": copies.deaf} if executor.backend == "loky" else {}
    with joblib.parallel_config(backend=executor.backend, n_jobs=jobs, **settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*tasks which were still being processed", category=UserWarning)
        if executor.backend == "ray":  # it has no results one by one
            size = IN_FLIGHT * executor.processes
            for first in range(0, len(places), size):
                yield from joblib.Parallel()(handed_out(places[first : first + size]))
            return
        yield from joblib.Parallel(return_as="generator_unordered", batch_size=1)(handed_out(places))


def _alone(function: Task, task: Any) -> Any:
    """What comes of a task in a worker that has no other."""
    import joblib

    try:
        with joblib.parallel_config(backend="loky", n_jobs=2, initializer=copies.deaf):
            return joblib.Parallel(batch_size=1)([joblib.delayed(function)(task)])[0]
    except Exception as error:
        if type(error).__name__ not in BROKEN:
            raise
        return KvplanError("the process that ran it was killed, twice", hint="too little memory? --workers 1 runs one at a time")


def _placed(function: Task, at: int, task: Any) -> tuple[int, Any]:
    return at, function(task)


def _loky(_: Executor) -> AbstractContextManager[None]:
    return nullcontext()


@contextmanager
def _ray(executor: Executor) -> Iterator[None]:
    """A Ray cluster by its address, or one on this machine for as long as it takes."""
    try:
        import ray
        from ray.util.joblib import register_ray
    except ImportError:
        raise MissingError("--backend ray needs the package ray, which is not installed", hint="pip install 'kvplan[ray]'") from None
    ours = not ray.is_initialized()
    if ours:
        here = {} if executor.address else {"num_cpus": executor.processes, "include_dashboard": False}
        try:
            ray.init(address=executor.address or None, log_to_driver=False, logging_level=logging.ERROR, **here)
        except ConnectionError as error:
            raise InputError(f"--address {executor.address}: no Ray cluster answers there ({error})") from None
    logging.getLogger("ray").setLevel(logging.ERROR)
    register_ray()
    try:
        yield
    finally:
        if ours:
            ray.shutdown()


@contextmanager
def _dask(executor: Executor) -> Iterator[None]:
    """A Dask cluster by its address, or one on this machine for as long as it takes."""
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        raise MissingError(
            "--backend dask needs the package distributed, which is not installed", hint="pip install 'kvplan[dask]'"
        ) from None
    if executor.address:
        try:
            client = Client(executor.address, timeout="10s")
        except (OSError, ValueError) as error:
            raise InputError(f"--address {executor.address}: no Dask scheduler answers there ({error})") from None
        with client:
            yield
        return
    local = LocalCluster(n_workers=executor.processes, threads_per_worker=1, dashboard_address=None, silence_logs=logging.ERROR)
    with local, Client(local):
        yield


BACKENDS: dict[str, Callable[[Executor], AbstractContextManager[None]]] = {"loky": _loky, "ray": _ray, "dask": _dask}
"""Name -> what it needs around the tasks."""
