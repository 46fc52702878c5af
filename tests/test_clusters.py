"""Real local Ray and Dask clusters give the bytes that this process gives."""

from __future__ import annotations

import importlib.util
import sys

import msgspec
import pytest

from kvplan.errors import InputError, MissingError
from kvplan.executor import Executor, run_all
from kvplan.results.sweep import SweepResult
from kvplan.sweep.question import Options, question_of
from kvplan.sweep.sweep import sweep
from tests.executor_tasks import square

PACKAGES = {"ray": "ray", "dask": "distributed"}


def ask(executor: Executor) -> SweepResult:
    question = question_of("chat", Options(vary=("cpu=0,4GiB,8GiB", "seed=1,2"), sets=("run.limit=30",)))
    return sweep(question, executor=executor, watch=lambda done, about, word: None)


@pytest.mark.cluster
@pytest.mark.parametrize("backend", PACKAGES)
def test_a_local_cluster_gives_the_same_bytes_as_a_loop(backend: str) -> None:
    if importlib.util.find_spec(PACKAGES[backend]) is None:
        pytest.skip(f"{PACKAGES[backend]} is not installed: pip install 'kvplan[{backend}]'")
    assert msgspec.json.encode(ask(Executor(backend=backend, workers=2))) == msgspec.json.encode(ask(Executor(workers=1)))


@pytest.mark.cluster
def test_a_dask_cluster_that_runs_already_is_used_by_its_address() -> None:
    if importlib.util.find_spec("distributed") is None:
        pytest.skip("distributed is not installed: pip install 'kvplan[dask]'")
    from distributed import LocalCluster

    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster:
        there = Executor(backend="dask", address=cluster.scheduler_address)
        assert dict(run_all(square, range(6), there)) == {at: at * at for at in range(6)}


def test_what_is_no_backend_is_said() -> None:
    with pytest.raises(InputError, match="no such backend"):
        list(run_all(square, range(2), Executor(backend="spark")))


@pytest.mark.parametrize("backend", PACKAGES)
def test_an_absent_package_is_said(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, PACKAGES[backend], None)
    with pytest.raises(MissingError, match=PACKAGES[backend]):
        list(run_all(square, range(2), Executor(backend=backend)))
