"""Every shipped scenario that says what its verdict should be gets it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from kvplan import catalog, scenario
from kvplan.planning.objective import parse_target
from kvplan.planning.plan import plan
from tests.public import needs, public

FILES = sorted(catalog.folder("scenarios").glob("*.toml"))


def written(path: Path) -> dict[str, Any]:
    return msgspec.toml.decode(path.read_bytes())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_scenario_has_a_reason_and_an_expected_verdict_in_less_than_forty_lines(path: Path) -> None:
    assert written(path)["why"]
    assert written(path)["expect"]["verdict"]
    assert len(path.read_text().splitlines()) < 40


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_verdict_is_the_expected_one(path: Path) -> None:
    expect = written(path)["expect"]
    loaded = scenario.load(str(path))
    result = plan(loaded, target=parse_target(loaded.run.target), allow_wear=expect.get("allow_wear", False))
    assert result.verdict.kind == expect["verdict"], result.verdict.sentence
    for tier in ("cpu", "disk"):
        if tier in expect:
            assert bool(getattr(result.placement, f"{tier}_bytes")) == expect[tier], result.verdict.sentence
    if "kv_dtype" in expect:
        assert result.placement.kv_dtype == expect["kv_dtype"]
    if result.verdict.kind == "offload":
        assert result.target_met
        assert result.gain is not None and (result.gain.lo or 0) > 0


AGENTS = public("traces/weka")


@needs("traces/weka")
def test_recorded_agent_sessions_win_on_a_gpu_that_holds_two_of_them() -> None:
    result = plan(scenario.load(str(AGENTS), model="llama-3.1-8b", machine="l40s"))
    assert result.verdict.kind == "offload", result.verdict.sentence
    assert result.traffic.ideal_hit > 0.9
    assert result.chosen is not None and result.without is not None
    assert result.chosen.computed < 0.5 * result.without.computed
