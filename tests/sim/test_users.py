"""How many users a server holds within a target."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from kvplan import scenario
from kvplan.errors import InputError
from kvplan.request import Request
from kvplan.sim.cluster.users import most_users
from kvplan.sim.simulate import simulate
from kvplan.traces.write import convert
from tests.sim.test_sessions import turns


def written(requests: list[Request], folder: Path) -> str:
    convert(requests, folder / "t.jsonl", block_tokens=16)
    return str(folder / "t.jsonl")


def users_of(path: str, target: str | None, **run: int) -> scenario.Scenario:
    return scenario.load(path, model="llama-3.1-8b", machine="h100-sxm", tiers={"gpu_kv": "2GiB"}, run={"target": target, **run})


def crowd(count: int) -> list[Request]:
    return [one for user in range(count) for one in turns(f"u{user}", 1 + 1000 * user, 2, at=2 * user, think_s=0.5)]


def test_the_bisection_finds_what_trying_every_number_finds(tmp_path: Path) -> None:
    path = written(crowd(14), tmp_path)
    times = []
    for users in range(1, 15):
        result, _ = simulate(users_of(path, None, max_sessions=users))
        times.append(result.itl_s.p95)
    assert times == sorted(times) and times[4] < times[8]  # type: ignore[type-var, operator]
    limit_s = (times[5] + times[6]) / 2  # type: ignore[operator]
    answer = most_users(users_of(path, f"itl_p95<{limit_s * 1e3:.6f}ms"))
    assert answer.users == sum(time <= limit_s for time in times)  # type: ignore[operator]
    assert [trial.met for trial in answer.trials] == sorted((trial.met for trial in answer.trials), reverse=True)
    assert len(answer.trials) <= 5  # all, and 14 halved


def test_a_target_that_all_meet_or_none(tmp_path: Path) -> None:
    path = written(crowd(5), tmp_path)
    easy, hard = most_users(users_of(path, "ttft_max<1h")), most_users(users_of(path, "ttft_max<1us"))
    assert (easy.users, easy.trace_users, easy.limited_by_trace, len(easy.trials)) == (5, 5, True, 1)
    assert (hard.users, hard.limited_by_trace, hard.trials[0].users) == (0, False, 1)


def test_without_target_sessions_or_closed_loop_it_refuses(tmp_path: Path) -> None:
    path = written(crowd(2), tmp_path)
    with pytest.raises(InputError, match="within which target"):
        most_users(users_of(path, None))
    bare = written([msgspec.structs.replace(one, session="", think_s=-1.0) for one in crowd(2)], tmp_path)
    with pytest.raises(InputError, match="names no sessions"):
        most_users(users_of(bare, "ttft_p95<1s"))
    recorded = written([msgspec.structs.replace(one, think_s=-1.0) for one in crowd(2)], tmp_path)
    with pytest.raises(InputError, match="recorded times"):
        most_users(users_of(recorded, "ttft_p95<1s"))
