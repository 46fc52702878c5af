"""Tasks on processes of this machine: results by place, a worker that dies, an exception, a stop; started anew, or copies of this one."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path

import pytest

from kvplan.copies import possible
from kvplan.errors import KvplanError
from kvplan.executor import Executor, run_all
from tests.executor_tasks import dies_on_three, dies_once, fails_on_three, square

TWO = Executor(workers=2)
SHORT = Executor(short=True)


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


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three cores that nothing else uses."""
    monkeypatch.delenv("LOKY_MAX_CPU_COUNT", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})


def test_short_tasks_are_shared_out_among_copies(cores: None) -> None:
    found = dict(run_all(_where, range(7), SHORT))
    assert sorted(found) == list(range(7))
    assert [found[at] == os.getpid() for at in range(7)] == [at % 3 == 0 for at in range(7)]
    assert len(set(found.values())) == 3
    assert possible(2) == 2 and possible(100) == 3


def test_one_core_or_one_task_makes_no_copies(cores: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert dict(run_all(_where, [0], SHORT)) == {0: os.getpid()}
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")
    assert set(dict(run_all(_where, range(3), SHORT)).values()) == {os.getpid()}


def test_what_a_killed_copy_leaves_undone_is_done_here(cores: None) -> None:
    here = os.getpid()
    assert dict(run_all(partial(_dies_elsewhere, here), range(5), SHORT)) == {at: at * at for at in range(5)}


def test_an_exception_of_a_copy_is_raised_here(cores: None) -> None:
    with pytest.raises(ZeroDivisionError):
        list(run_all(fails_on_three, range(2, 8), SHORT))


def test_who_stops_asking_ends_the_copies(cores: None, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    fork = os.fork
    monkeypatch.setattr(os, "fork", lambda: made.append(fork()) or made[-1])
    running = run_all(partial(_sleeps_elsewhere, os.getpid()), range(6), SHORT)
    next(running)
    running.close()
    assert len(made) == 2
    for process in made:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


def _where(_: int) -> int:
    return os.getpid()


def _dies_elsewhere(here: int, value: int) -> int:
    if os.getpid() != here:
        os.kill(os.getpid(), signal.SIGKILL)
    return value * value


def _sleeps_elsewhere(here: int, _: int) -> None:
    if os.getpid() != here:
        signal.pause()


def _hears(_: int) -> object:
    return signal.getsignal(signal.SIGINT) if os.getpid() else None
