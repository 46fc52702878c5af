"""Fits of an engine's overheads on the designed probe."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from kvplan import catalog
from kvplan.deployment import Tiers
from kvplan.fit.joint import fit_jointly, spread
from kvplan.fit.least_squares import Parameter
from kvplan.live import fitting, probe, sent
from kvplan.live.records import Answer, Replay
from kvplan.live.validate import Attempt
from kvplan.live.world import blank_trace
from kvplan.request import Request
from kvplan.scenario import Scenario, load, with_setting

TRUE = {
    "engine.overhead.transit_s": 4e-3,
    "engine.overhead.prepare_s": 4e-3,
    "engine.overhead.collect_s": 4.5e-3,
    "engine.overhead.launch_layer_s": 0.7e-3,
    "engine.overhead.launch_layer_eager_s": 1.5e-3,
    "engine.kernel_share": 0.85,
}
"""A server that is slower than the shipped file: a slower host, and kernels that reach less."""


def scenario(folder: Path, sets: dict[str, float]) -> Scenario:
    found = load(str(blank_trace(folder)), model="llama-3.2-1b", machine="l4", tiers={"gpu_kv": "4GiB"})
    for path, value in sets.items():
        found = with_setting(found, path, value)
    return found


def small(folder: Path) -> probe.Design:
    def seconds_of(requests: Sequence[Request]) -> float:
        timed = [
            Request(index=i, arrival_s=0.0, prompt_tokens=r.prompt_tokens, output_tokens=r.output_tokens) for i, r in enumerate(requests)
        ]
        return float(max(sent.run(scenario(folder, TRUE), timed, 0)[1]["e2e_s"]))

    return probe.design(5000, 60_000, 8, seconds_of, 60.0)


def measured(world: Scenario, plan: probe.Design, noise: float) -> Attempt:
    """What a server that follows a scenario would have answered to the probe."""
    _, columns = sent.run(world, plan.requests, probe.BLOCK)
    draw = random.Random(3)
    answers = []
    for i, request in enumerate(plan.requests):
        factor = 1 + noise * draw.gauss(0, 1)
        at, first, each = request.arrival_s, float(columns["ttft_s"][i]) * factor, float(columns["itl_s"][i]) * factor
        reads = [(at + first + each * n, n + 1) for n in range(request.output_tokens)]
        answers.append(
            Answer(
                index=i, due_s=at, sent_s=at, reads=reads, prompt_tokens=request.prompt_tokens, output_tokens=request.output_tokens,
                cached_tokens=sum(int(columns[f"{tier}_hit_tokens"][i]) for tier in ("gpu", "cpu")), status=200,
            )
        )  # fmt: skip
    run = Replay(answers=answers, lateness=[])
    return Attempt(scenario=world, requests=plan.requests, block_tokens=probe.BLOCK, run=run, known=[], counted={}, seconds=1.0, remarks=[])


def test_a_slower_server_is_learned_and_predicted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = ("transit_s", "launch_layer_s", "launch_layer_eager_s", "step_sequence_s")  # fewer numbers, for a short test
    monkeypatch.setattr(fitting, "OVERHEADS", {path: usual for path, usual in fitting.OVERHEADS.items() if path.endswith(told)})
    monkeypatch.setattr(fitting, "EFFICIENCIES", ("engine.kernel_share", "machine.gpu.weight_read_efficiency"))
    plan = small(tmp_path)
    attempt = measured(scenario(tmp_path, TRUE), plan, noise=0.01)
    shipped = scenario(tmp_path, {})
    attempt = Attempt(**{name: getattr(attempt, name) for name in attempt.__struct_fields__} | {"scenario": shipped})
    found, fitted = fitting.fit(attempt, plan, 0, lambda text: None)
    assert found.accepted, found.reason
    assert found.error_shipped is not None and found.error_fitted is not None
    assert found.error_fitted < 0.02 < found.error_shipped
    assert found.coverage is not None and found.coverage >= 0.85
    share = next(one for one in found.numbers if one.path == "engine.kernel_share")
    assert share.lo < TRUE["engine.kernel_share"] < share.hi
    host = next(one for one in found.numbers if one.path == "machine.host.launch_s")
    assert 1.2 < host.value / host.shipped < 1.9  # all that was changed on the host side was multiplied by about 1.5
    # What it learned holds where it was not asked: twelve prompts of 3,000 tokens at once.
    asked = [Request(index=i, arrival_s=0.01 * i, prompt_tokens=3000, output_tokens=20) for i in range(12)]
    truth, guess, before = (float(sent.run(world, asked, 0)[1]["ttft_s"].mean()) for world in (scenario(tmp_path, TRUE), fitted, shipped))
    assert guess == pytest.approx(truth, rel=0.03)
    assert before != pytest.approx(truth, rel=0.06)
    # And it is written as files that the other commands take.
    written = fitting.written(found, fitted, str(tmp_path / "mine.toml"))
    engine, machine = catalog.engine(written.engine), catalog.machine(written.machine)
    assert engine.overhead.transit_s == pytest.approx(fitted.engine.overhead.transit_s, rel=1e-5)
    assert engine.kernel_share == pytest.approx(fitted.engine.kernel_share, rel=1e-5)
    assert machine.gpu.weight_read_efficiency == pytest.approx(fitted.machine.gpu.weight_read_efficiency, rel=1e-5)
    assert engine.provenance["kernel_share"].source.startswith("measured on this server")
    assert machine.host.launch_s == pytest.approx(host.value, rel=1e-4)
    assert machine.provenance["host.launch_s"].kind == "measured"
    assert engine.provenance["kernel_share"].lo == pytest.approx(share.lo)


def test_a_number_at_its_bound_still_has_a_spread() -> None:
    """An efficiency fitted close to 1 must not be tried above it."""
    tried: list[float] = []

    def predict(values: dict[str, float]) -> list[float]:
        tried.append(values["share"])
        return [1 / values["share"], 2 / values["share"]]

    found = fit_jointly(predict, [Parameter(name="share", typical=0.9, width=0.15, at_most=1.0)], [1.0, 2.0], [0.01, 0.01])
    assert found.values["share"] == pytest.approx(1.0, abs=0.01)
    tried.clear()
    assert all(half > 0.019 for half in spread(found, predict, [0.01, 0.01]))
    assert max(tried) <= 1.0


def test_a_burst_counts_once(tmp_path: Path) -> None:
    plan = small(tmp_path)
    attempt = measured(scenario(tmp_path, {}), plan, noise=0.0)
    columns = sent.run(attempt.scenario, plan.requests, probe.BLOCK)[1]
    points = fitting._points(attempt.run.answers, plan, columns, 16)
    assert len({(point.probe, point.column) for point in points}) == len(points)
    assert max(len(point.rows) for point in points) == 8
    assert all(point.of(columns) == pytest.approx(point.seconds) for point in points)


def test_a_fit_that_does_not_beat_the_shipped_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvplan.fit.joint.MOST_STEPS", 3)
    plan = small(tmp_path)
    shipped = scenario(tmp_path, {})
    found, same = fitting.fit(measured(shipped, plan, noise=0.0), plan, 0, lambda text: None)
    assert not found.accepted and same is shipped
    assert "held out" in found.reason


def test_a_third_of_each_kind_is_held_out_by_seed(tmp_path: Path) -> None:
    plan = small(tmp_path)
    first = probe.held_out(plan.probes, 0)
    assert first == probe.held_out(plan.probes, 0) != probe.held_out(plan.probes, 1)
    assert len(plan.probes) / 5 < len(first) < len(plan.probes) / 2.5
    assert [request.index for request in plan.requests] == list(range(len(plan.requests)))
    assert all(a.arrival_s <= b.arrival_s for a, b in zip(plan.requests, plan.requests[1:], strict=False))
    for number, group in enumerate(plan.probes):  # a hit comes right after the request whose prefix it shares
        if group.kind == "hit":
            assert plan.probes[number - 1].requests[0].blocks == group.requests[0].blocks


def test_with_a_tier_prefixes_are_asked_for_again_after_the_pool_was_filled(tmp_path: Path) -> None:
    plan = probe.design(14_000, 40_000, 2, lambda requests: 0.5, 1000.0, tier=True)
    kinds = [group.kind for group in plan.probes]
    assert kinds[-6:] == ["tier"] * 6 and kinds.count("fill") == 6  # 44,000 tokens in pieces of 8,192
    world = load(str(blank_trace(tmp_path)), model="llama-3.2-1b", machine="l4", sets=["engine.max_batch=2"])
    token_bytes = 32_768  # 16 layers x 2 x 8 heads x 64 x 2 bytes
    tiers = Tiers(gpu_kv_bytes=40_000 * token_bytes, cpu_bytes=400_000 * token_bytes)
    _, columns = sent.run(world.changed(tiers=tiers), plan.requests, probe.BLOCK)
    again = [i for i, number in enumerate(plan.probe_of) if plan.probes[number].kind == "tier"]
    assert [int(columns["cpu_hit_tokens"][i]) for i in again] == [1024, 1024, 4096, 4096, 12288, 12288]
    assert not {i for i in probe.held_out(plan.probes, 0) if plan.probes[i].kind == "fill"}
    short = probe.design(14_000, 40_000, 2, lambda requests: 0.5, 10.0, tier=True)  # no time to fill the pool
    assert "tier" not in {group.kind for group in short.probes}


def test_a_probe_asks_no_more_than_fits(tmp_path: Path) -> None:
    tight = probe.design(1200, 4000, 4, lambda requests: 1.0, 1e9)
    assert max(r.prompt_tokens + r.output_tokens for r in tight.requests) <= 1200
    assert max(len(group.requests) for group in tight.probes) <= 5
    short = probe.design(10**6, 10**6, 64, lambda requests: 1.0, 20.0)
    assert len(short.probes) < len(tight.probes)
