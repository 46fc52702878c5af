"""The scorecard: what a tier gains or costs, measured and predicted, and measured means against the printed intervals."""

from __future__ import annotations

import functools

import pytest

from tests.fidelity.scorecard import Effect, Mean, lines, measured_singles, replayed, share_inside, verdict, width
from tests.fidelity.test_measured import CASES, REPLAYS
from tests.plan.effects import Row
from tests.plan.published import CANNOT_SAY, EXPLAINED, INFERRED, misses, table
from tests.plan.published import CASES as PUBLISHED
from tests.public import needs, public


@functools.cache
def published() -> list[Row]:
    """All published effects but those that need a trace which is not there."""
    cases = PUBLISHED | INFERRED
    if not public("traces/mooncake_synthetic.jsonl").exists():
        del cases["sglang-pr29049"]
    return table(cases)


def test_the_scorecard(record_property: pytest.RecordProperty) -> None:
    effects, means = list[Effect](), list[Mean]()
    for name, case in CASES.items():
        found = measured_singles(name, case)
        effects += found[0]
        means += found[1]
    times = {}
    for name, (case, trace, tiers, _) in REPLAYS.items():
        ttft, itl, result = replayed(name, case, trace, tiers)
        times[name] = (ttft, result.ttft_s.mean)
        means += [
            Mean(f"{name}, mean TTFT", ttft, result.interval.ttft_mean_s),
            Mean(f"{name}, mean ITL", itl, result.interval.itl_mean_s),
        ]
    without, with_tier = times["chat, GPU only"], times["chat, CPU tier"]
    assert without[1] and with_tier[1]
    effects.append(Effect("chat, 32 GiB of host memory", without[0] / with_tier[0], without[1] / with_tier[1]))
    effects += [Effect(*row, CANNOT_SAY.get(row[0], "")) for row in published()]
    record_property("scorecard", lines(effects, means))
    verdicts = [verdict(effect) for effect in effects]
    judged = len(verdicts) - verdicts.count("cannot say")
    assert verdicts.count("wrong") <= 0.03 * judged
    assert verdicts.count("right") >= 0.9 * judged
    assert share_inside(means) >= 0.94
    assert width(means) < 1.6


@needs("traces/mooncake_synthetic.jsonl")
def test_a_published_effect_whose_sign_is_missed_is_explained_and_one_that_cannot_be_said_has_a_reason() -> None:
    assert set(misses(published())) == set(EXPLAINED)
    assert {name for name, _, predicted in published() if predicted is None} == set(CANNOT_SAY)
