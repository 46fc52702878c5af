"""The timeline for Perfetto against the rules of Chrome's trace format, and against what the run recorded."""

from __future__ import annotations

import gzip
import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

from kvplan import scenario_of
from kvplan.cli.main import guarded, main
from kvplan.report import perfetto
from kvplan.sim.outcome.record import RunRecord
from kvplan.sim.simulate import simulate


@pytest.fixture(scope="module")
def record() -> RunRecord:
    return simulate(scenario_of("chat"), history=True)[1]


@pytest.fixture(scope="module")
def events(record: RunRecord) -> list[dict[str, Any]]:
    return [json.loads(line) for line in perfetto.events(record)]


def test_every_event_has_what_its_phase_needs(events: list[dict[str, Any]]) -> None:
    needs = {
        "M": {"name", "pid", "args"}, "X": {"name", "pid", "tid", "ts", "dur"}, "C": {"name", "pid", "ts", "args"},
        "b": {"name", "cat", "id", "pid", "ts"}, "e": {"name", "cat", "id", "pid", "ts"}, "n": {"name", "cat", "id", "pid", "ts"},
    }  # fmt: skip
    assert {event["ph"] for event in events} == set(needs)
    for event in events:
        assert needs[event["ph"]] <= event.keys()
        assert event.get("ts", 0) >= 0 and event.get("dur", 0) >= 0
        assert event["ph"] != "C" or all(isinstance(value, int | float) for value in event["args"].values())


def test_slices_of_a_thread_do_not_overlap(events: list[dict[str, Any]]) -> None:
    threads = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            threads[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
    assert len(threads) >= 3
    for spans in threads.values():
        spans.sort()
        assert all(end <= start + 1e-3 for (_, end), (start, _) in zip(spans, spans[1:], strict=False))


def test_a_request_nests_its_phases_and_takes_as_long_as_it_was_recorded(events: list[dict[str, Any]], record: RunRecord) -> None:
    columns, seen = record.columns, {}
    by_id = defaultdict(list)
    for event in events:
        if event["ph"] in "ben":
            by_id[event["id"]].append(event)
    for found in by_id.values():
        stack: list[dict[str, Any]] = []
        before = 0.0
        for event in found:
            assert event["ts"] >= before
            before = event["ts"]
            if event["ph"] == "b":
                stack.append(event)
            elif event["ph"] == "e":
                opened = stack.pop()
                assert opened["name"] == event["name"]
                if event["name"] == "request":
                    seen[opened["args"]["index"]] = (event["ts"] - opened["ts"]) / 1e6
            else:
                assert stack
        assert not stack
    assert len(seen) == len(columns["index"])
    lag_s = record.cost.overhead.first_token_s
    for index, e2e_s in zip(columns["index"].tolist(), columns["e2e_s"].tolist(), strict=True):
        assert seen[index] == pytest.approx(e2e_s - lag_s, abs=1e-6)


def test_steps_add_up_to_the_tokens_of_the_run(events: list[dict[str, Any]], record: RunRecord) -> None:
    steps = [event["args"] for event in events if event.get("cat") == "step"]
    columns = record.columns
    assert sum(step["prefill_tokens"] for step in steps) == columns["computed_tokens"].sum()
    assert sum(step["decode_tokens"] for step in steps) == columns["output_tokens"].sum() - len(columns["index"])


def test_an_arrow_leads_from_each_load_to_its_request(events: list[dict[str, Any]], record: RunRecord) -> None:
    out = {event["bind_id"]: event for event in events if event.get("flow_out")}
    into = {event["bind_id"]: event for event in events if event.get("flow_in")}
    assert out.keys() == into.keys() and len(out) == record.tally.count
    for bind, event in into.items():
        assert out[bind]["ts"] + out[bind]["dur"] <= event["ts"] + 1e-3
        assert out[bind]["name"] == f"{event['args']['tokens']} tokens"


def test_counters_show_every_tier_and_link(events: list[dict[str, Any]], record: RunRecord) -> None:
    names = Counter(event["name"] for event in events if event["ph"] == "C")
    assert {
        "gpu tier",
        "cpu tier",
        "requests running",
        "requests waiting",
        "loads from host memory",
        "stores to host memory",
    } <= names.keys()
    peak = max(event["args"]["GiB"] for event in events if event["name"] == "cpu tier")
    cpu = next(tier for tier in record.tiers if tier.name == "cpu")
    assert peak == pytest.approx(cpu.peak_bytes / 2**30, rel=2e-3)


def test_a_window_keeps_what_touches_it(record: RunRecord, events: list[dict[str, Any]]) -> None:
    few = [json.loads(line) for line in perfetto.events(record, 100.0, 130.0)]
    spans = [(event["ts"], event["ts"] + event["dur"]) for event in few if event["ph"] == "X"]
    assert 0 < len(few) < len(events) / 4
    assert all(end >= 100e6 and start <= 130e6 for start, end in spans)


def test_the_command_writes_plain_and_packed_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain, packed = tmp_path / "run.json", tmp_path / "run.json.gz"
    for path in (plain, packed):
        assert main(["simulate", "chat", "--limit", "20", "--perfetto", str(path), "-q"]) == 0
    assert json.loads(plain.read_bytes())["traceEvents"] == json.loads(gzip.decompress(packed.read_bytes()))["traceEvents"]
    assert packed.stat().st_size < plain.stat().st_size / 4
    assert guarded(main, ["simulate", "chat", "--from", "3s"]) == 2
    assert guarded(main, ["simulate", "chat", "--perfetto", str(plain), "--from", "3s", "--to", "2s"]) == 2
    assert guarded(main, ["simulate", "chat", "slow-disk", "--perfetto", str(plain)]) == 2
    assert "the window is empty" in capsys.readouterr().err


@pytest.mark.parametrize("changes", [{"engine": "sglang"}, {"engine": "lmcache"}, {"replicas": 2}, {"disk": "20GiB"}])
def test_other_engines_and_clusters_keep_the_rules(changes: dict[str, Any]) -> None:
    one = simulate(scenario_of("chat", limit=60, **changes), history=True)[1]
    found = [json.loads(line) for line in perfetto.events(one)]
    test_slices_of_a_thread_do_not_overlap(found)
    test_a_request_nests_its_phases_and_takes_as_long_as_it_was_recorded(found, one)
