"""Tasks on processes of this machine: results by place, a worker that dies, an exception, a stop."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path

import pytest

from kvplan.errors import KvplanError
from kvplan.executor import Executor, run_all
from tests.executor_tasks import dies_on_three, dies_once, fails_on_three, square

TWO = Executor(workers=2)


def test_each_task_comes_back_with_its_place() -> None:
    assert dict(run_all(square, range(20), TWO)) == dict(run_all(square, range(20), Executor(workers=1)))


def test_a_killed_worker_costs_its_task_a_second_run_only(tmp_path: Path) -> None:
    assert dict(run_all(partial(dies_once, tmp_path / "died"), range(12), TWO)) == {at: at * at for at in range(12)}


def test_a_task_that_kills_its_worker_twice_says_so_and_the_others_end() -> None:
    found = dict(run_all(dies_on_three, range(8), TWO))
    lost = found.pop(3)
    assert isinstance(lost, KvplanError) and "killed" in lost.message
    assert found == {at: at * at for at in range(8) if at != 3}


def test_an_exception_stops_everything() -> None:
    with pytest.raises(ZeroDivisionError):
        list(run_all(fails_on_three, range(8), TWO))


def test_who_stops_asking_gets_no_more() -> None:
    running = run_all(square, range(100_000), TWO)
    next(running)
    running.close()


def test_workers_leave_interrupts_to_their_parent() -> None:
    for _, heard in run_all(_hears, range(2), TWO):
        assert heard == signal.SIG_IGN


def _hears(_: int) -> object:
    return signal.getsignal(signal.SIGINT) if os.getpid() else None
