"""Kinds of parallelism on the planned GPUs: what each holds, which does best, and where two cross."""

from __future__ import annotations

import json
import random
from pathlib import Path

import msgspec
import pytest

from kvplan import scenario
from kvplan.executor import Executor
from kvplan.planning.kinds import better, kinds, share_at_crossing
from kvplan.planning.objective import Objective
from kvplan.planning.prepare import space_of
from kvplan.planning.runs import Runner, Simulation, realise, run_one, unwatched
from kvplan.planning.search import option
from kvplan.planning.space import Space, nothing
from kvplan.planning.verdict import WORTH, refused, spread
from kvplan.results.kinds import KindChoice
from kvplan.results.simulate import SimResult
from kvplan.units import GiB

TENSOR, DATA, BOTH = "TP 8", "TP 1 x DP 8, EP 8", "TP 4 x DP 2, EP 8"


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Space:
    """DeepSeek-V3 on 8 H200, with a pool of 100 GiB: 120 prompts of 2,000 to 6,000 tokens at 3 a second; most repeat a part of an earlier
    one."""
    rng, rows, earlier, fresh, at_s = random.Random(5), list[dict[str, object]](), list[list[int]](), iter(range(10**6)), 0.0
    for _ in range(120):
        at_s += rng.expovariate(3.0)
        keep = rng.choice(earlier)[: rng.randint(4, 8)] if earlier and rng.random() < 0.8 else []
        keys = [*keep, *(next(fresh) for _ in range(max(1, rng.randint(4, 12) - len(keep))))]
        earlier.append(keys)
        rows.append(
            {"timestamp": round(at_s * 1e3), "input_length": 512 * len(keys), "output_length": rng.randint(300, 900), "hash_ids": keys}
        )
    path: Path = tmp_path_factory.mktemp("kinds") / "trace.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    base = scenario.load(str(path), model="deepseek-v3", machine="h200-sxm", run={"tp": 8}, sets=("tiers.gpu_kv_bytes=100GiB",))
    return space_of(base, Objective(), None, None, None)[0]


@pytest.fixture(scope="module")
def choice(space: Space) -> KindChoice:
    run = Runner(Executor(workers=1), unwatched, 1)
    tier = msgspec.structs.replace(nothing(space), cpu_bytes=800 * GiB)
    sides = []
    for one in (nothing(space), tier):
        result = run_one(Simulation(realise(space.base, one)))
        assert isinstance(result, SimResult)
        sides.append(option(space, one, result, "ttft"))
    found, pruned = kinds(space, run, "ttft", sides[1], sides[0])
    assert found is not None and not pruned
    return found


def test_what_each_kind_holds(space: Space, choice: KindChoice) -> None:
    """A latent lies on each of 8 tensor-parallel ranks and once on one of 8 data-parallel ones; host memory is the same in all."""
    held = {one.spread: one for one in choice.kinds}
    assert set(held) == {TENSOR, DATA, BOTH, "TP 2 x DP 4, EP 8"}
    assert held[TENSOR].host_bytes == held[DATA].host_bytes == 800 * GiB
    assert held[DATA].host_tokens == pytest.approx(8 * held[TENSOR].host_tokens, rel=1e-5)
    assert 4 * held[TENSOR].pool_tokens < held[DATA].pool_tokens < 8 * held[TENSOR].pool_tokens  # attention is repeated on each


def test_tensor_parallel_ranks_and_data_parallel_ones_cross(choice: KindChoice) -> None:
    """Few requests are quicker on all GPUs together; many fill the one pool of eight copies."""
    for one in choice.crossings:
        assert (one.below, one.above) == (TENSOR, BOTH)
        assert one.requests_per_s is not None and 1 < one.requests_per_s < 3


def test_the_better_kind_is_named_and_planned_where_nobody_named_one(space: Space, choice: KindChoice) -> None:
    assert choice.best == min(choice.kinds, key=lambda one: one.offload.score).spread == BOTH
    kind = better(choice, space, WORTH)
    assert kind is not None and kind.words == BOTH
    said = spread(refused("so"), choice, TENSOR, "ttft")
    assert choice.words in said.sentence
    assert [BOTH in one for one in said.reservations] == [True]
    assert not spread(refused("so"), choice, BOTH, "ttft").reservations


def test_from_which_host_memory_on_offloading_changes_the_kind(choice: KindChoice) -> None:
    """Bisection to an eighth; here the same kind does best with the tier and without."""
    assert share_at_crossing(lambda share: share - 0.3) == pytest.approx(0.3, abs=1 / 16)
    assert share_at_crossing(lambda share: share - 0.9) == pytest.approx(0.9, abs=1 / 16)
    assert choice.best == choice.best_without and choice.host_bytes is None
    other = msgspec.structs.replace(choice, best_without=TENSOR, host_bytes=300 * GiB)
    assert other.words.endswith("from about 300.0 GiB of host memory on")


def test_a_dense_model_has_no_other_kind() -> None:
    base = scenario.load("chat", machine="h100-sxm", run={"tp": 4})
    space = space_of(base, Objective(), None, None, None)[0]
    assert kinds(space, Runner(Executor(workers=1), unwatched, 1), "ttft", None, None) == (None, [])  # type: ignore[arg-type]
    assert better(None, space, WORTH) is None
