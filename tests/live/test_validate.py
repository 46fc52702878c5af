"""`validate` against servers with known laws and known vices."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import kvplan
from kvplan.errors import InputError
from kvplan.live import sent
from kvplan.live.compare import checks, errors, impossible_cached, measured
from kvplan.live.course import run as course
from kvplan.live.records import Answer, Endpoint, Lateness, Limits, Replay
from kvplan.live.validate import Attempt, ValidateQuestion, judged, tried, validate
from kvplan.live.world import Given, over_http
from kvplan.request import Request
from kvplan.results.validate import ValidateResult
from kvplan.scenario import load
from kvplan.traces.write import convert
from tests.live.server import running

BLOCK, OUTPUT = 64, 4
MACHINE = "l40s"
"""Slow enough that some milliseconds of the operating system do not matter."""


def requests(count: int = 12, gap_s: float = 0.17) -> list[Request]:
    """Requests alone, one after another, which share two blocks."""
    blocks = [(0, 1, *range(100 * i + 10, 100 * i + 17 + i % 3)) for i in range(count)]
    lengths = [BLOCK * len(one) for one in blocks]
    return [Request(index=i, arrival_s=gap_s * i, prompt_tokens=lengths[i], output_tokens=OUTPUT, blocks=blocks[i]) for i in range(count)]


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("live") / "trace.jsonl"
    convert(requests(), path, block_tokens=BLOCK, name="trace")
    return path


@pytest.fixture(scope="module")
def honest(trace: Path) -> Iterator[str]:
    """A server that does what the simulator predicts for this trace, request by request."""
    scenario = load(str(trace), model="llama-3.1-8b", machine=MACHINE, tiers={"gpu_kv": "8GiB"}, sets=["engine.max_context_tokens=40000"])
    _, columns = sent.run(scenario, requests(), BLOCK)
    table = {
        f"{columns['prompt_tokens'][i]}/{columns['gpu_hit_tokens'][i]}": [float(columns["ttft_s"][i]), float(columns["itl_s"][i])]
        for i in range(len(requests()))
    }
    with running(table) as address:
        yield address


def question(url: str, trace: Path, **more: Any) -> ValidateQuestion:
    given = Given(machine=MACHINE)
    limits = Limits(silence_s=1.0, errors=3)
    return ValidateQuestion(
        **{"endpoint": Endpoint(url=url), "source": str(trace), "given": given, "limits": limits, "tolerance": 0.25, **more}
    )


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Verdicts on a machine whose other work makes the client late; no waiting for stores."""
    monkeypatch.setattr("kvplan.live.validate.SETTLE_S", 0.05)
    monkeypatch.setattr("kvplan.live.validate.late", lambda run: "")


def ask(url: str, trace: Path, **more: Any) -> ValidateResult:
    return validate(question(url, trace, **more), lambda text: None)


def test_a_server_that_does_as_predicted_agrees(honest: str, trace: Path, patient: None) -> None:
    said: list[str] = []
    result = validate(question(f"{honest}/table", trace), said.append)
    # 12 prompts of 9, 10 and 11 blocks of 64 tokens.
    assert "sends 12 requests with 7,680 prompt tokens and 48 to be generated within 2 s" in said[0]
    assert result.verdict == "agrees", result.reason
    assert result.requests.completed == 12 and not result.requests.failed
    assert result.error.cached_exact == 1.0
    assert result.measured.cached_tokens == result.predicted.cached_tokens == 11 * 2 * BLOCK
    assert result.measured.tiers["gpu"] == 11 * 2 * BLOCK
    assert abs(result.error.ttft_p50 or 9) < 0.2 and abs(result.error.itl_p50 or 9) < 0.1
    assert {one.what: one.source for one in result.known}["gpu_kv_bytes"] == "server"
    assert {one.what: one.source for one in result.known}["machine"] == "flag"
    assert any("max_batch 128" in text for text in result.warnings)


def test_another_law_is_off(server: str, trace: Path, patient: None) -> None:
    result = ask(f"{server}/law", trace)
    assert result.verdict == "off"
    assert "itl_p50" in result.reason


def test_a_server_that_lies_about_cached_tokens_is_caught(honest: str, server: str, trace: Path, patient: None) -> None:
    result = ask(f"{server}/liar", trace)
    assert result.verdict == "off"
    assert "claim more cached tokens than any cache could hold" in result.reason
    assert any("the server's own counters" in text for text in result.warnings)


@pytest.mark.parametrize(("habit", "said"), [("drops", "broke"), ("stalls", "stalled"), ("http429", "HTTP 429"), ("http500", "HTTP 500")])
def test_a_server_that_fails_gets_no_agreement(server: str, trace: Path, habit: str, said: str, patient: None) -> None:
    """Prompts of more than 600 tokens fail; what came before the third failure is compared."""
    result = ask(f"{server}/{habit}-later", trace, limits=Limits(silence_s=0.3, errors=3))
    assert result.verdict == "incomplete" and said in result.reason
    assert result.requests.failed == 3
    assert 1 <= result.requests.completed == len(result.rows) < 12
    assert sum(result.requests.errors.values()) == 3


@pytest.mark.parametrize(("habit", "said"), [("drops", "broke"), ("stalls", "stalled"), ("http429", "HTTP 429"), ("http500", "HTTP 500")])
def test_a_server_that_fails_from_the_start_gets_an_answer_too(server: str, trace: Path, habit: str, said: str, patient: None) -> None:
    result = ask(f"{server}/{habit}", trace, limits=Limits(silence_s=0.2, errors=3))
    assert result.verdict == "incomplete" and said in result.reason
    assert (result.requests.completed, result.requests.failed) == (0, 3)
    assert result.measured.ttft_s.mean is None and result.error.ttft_mean is None and result.checks == []
    assert result.predicted.ttft_s.mean is not None
    assert any("a first short request failed" in text for text in result.warnings)


@pytest.mark.parametrize(
    ("habit", "shape", "remark"),
    [("textonly", "text", "takes no token ids"), ("chatonly", "chat", "takes no token ids"), ("plain", "ids", "takes no ignore_eos")],
)
def test_servers_that_want_to_be_asked_otherwise(server: str, trace: Path, habit: str, shape: str, remark: str) -> None:
    trial = tried(question(f"{server}/{habit}", trace, limits=Limits(requests=2)), lambda text: None)
    assert all(answer.ok for answer in trial.run.answers)
    assert any(remark in text for text in trial.remarks)
    assert any("stops at 2 requests: 2 of 12" in text for text in trial.remarks)
    if shape != "ids":  # words are counted by the server
        assert trial.run.answers[0].prompt_tokens == trial.requests[0].prompt_tokens


def test_a_server_that_counts_nothing(server: str, trace: Path, patient: None) -> None:
    result = ask(f"{server}/uncounted", trace, limits=Limits(requests=3))
    assert result.requests.completed == 3
    assert [(row.prompt_tokens, row.output_tokens) for row in result.rows] == [(r.prompt_tokens, OUTPUT) for r in requests(3)]
    assert result.measured.cached_tokens is None and result.error.cached_exact is None
    assert any("every chunk is taken for one token" in text for text in result.warnings)
    assert any("--enable-prompt-tokens-details" in text for text in result.warnings)


def test_one_dropped_stream_is_no_agreement(server: str, trace: Path, patient: None) -> None:
    """Of twelve requests the four longest lose their stream, fewer than end the run."""
    result = ask(f"{server}/drops-longest", trace, limits=Limits(errors=10))
    assert result.verdict == "incomplete" and "4 of 12 requests failed: the stream broke" in result.reason
    assert (result.requests.completed, result.requests.failed) == (8, 4)


def test_more_than_any_cache_could_hold_is_seen() -> None:
    asked = [
        Request(index=0, arrival_s=0, prompt_tokens=128, output_tokens=1, blocks=(1, 2)),
        Request(index=1, arrival_s=1, prompt_tokens=128, output_tokens=1, blocks=(1, 3)),
    ]
    told = [Answer(index=0, due_s=0, cached_tokens=0), Answer(index=1, due_s=0, cached_tokens=64)]
    assert impossible_cached(asked, told, 64) == 0
    told[1].cached_tokens = 80
    assert impossible_cached(asked, told, 64) == 1
    told[0].cached_tokens = 16
    assert impossible_cached(asked, told, 64) == 2


def test_times_between_tokens_weigh_every_token() -> None:
    # Gaps of 10 ms, then 3 tokens after 60 ms: 20 ms each, three times. Mean (10 + 3 x 20) / 4 = 17.5 ms, median 20.
    answer = Answer(index=0, due_s=0, sent_s=0.0, reads=[(0.1, 1), (0.11, 2), (0.17, 5)], output_tokens=5)
    side = measured([answer], {})
    assert side.itl_s.mean == pytest.approx(0.0175)
    assert side.itl_s.p50 == pytest.approx(0.02)
    assert side.ttft_s.mean == pytest.approx(0.1) and side.e2e_s.mean == pytest.approx(0.17)
    found = errors(side, side, [], 16)
    assert [check.met for check in checks(found, 0.1)] == [True, True, True]


# -- results of other tools ------------------------------------------------------------------------------------------------


def as_vllm(rows: list[dict[str, float]]) -> str:
    return json.dumps(
        {
            "start_times": [1000.0 + row["sent"] for row in rows],
            "ttfts": [row["ttft"] for row in rows],
            "itls": [[row["itl"]] * (OUTPUT - 1) for row in rows],
            "input_lens": [row["prompt"] for row in rows],
            "output_lens": [OUTPUT for _ in rows],
            "errors": ["" for _ in rows],
        }
    )


def as_aiperf(rows: list[dict[str, float]]) -> str:
    return "\n".join(
        json.dumps(
            {
                "metadata": {"request_start_ns": int((1000 + row["sent"]) * 1e9), "benchmark_phase": "profiling"},
                "metrics": {
                    "time_to_first_token": {"value": row["ttft"] * 1e3, "unit": "ms"},
                    "request_latency": {"value": (row["ttft"] + (OUTPUT - 1) * row["itl"]) * 1e3, "unit": "ms"},
                    "input_sequence_length": {"value": row["prompt"], "unit": "tokens"},
                    "output_sequence_length": {"value": OUTPUT, "unit": "tokens"},
                },
                "error": None,
            }
        )
        for row in rows
    )


def as_guidellm(rows: list[dict[str, float]]) -> str:
    def one(row: dict[str, float]) -> dict[str, Any]:
        sent_s, last_s = 1000 + row["sent"], 1000 + row["sent"] + row["ttft"] + (OUTPUT - 1) * row["itl"]
        return {
            "request_start_time": sent_s,
            "request_end_time": last_s + 0.001,
            "info": {"timings": {"request_start": sent_s, "last_token_iteration": last_s}},
            "time_to_first_token_ms": row["ttft"] * 1e3,
            "prompt_tokens": row["prompt"],
            "output_tokens": OUTPUT,
            "input_metrics": {"cached_tokens": row["cached"]},
        }

    return json.dumps({"benchmarks": [{"requests": {"successful": [one(row) for row in rows], "errored": [], "incomplete": []}}]})


@pytest.mark.parametrize("write", [as_vllm, as_aiperf, as_guidellm])
def test_results_of_other_tools_are_the_measured_side(write: Callable[[list[dict[str, float]]], str], trace: Path, tmp_path: Path) -> None:
    scenario = over_http(load(str(trace), model="llama-3.1-8b", machine=MACHINE, tiers={"gpu_kv": "8GiB"}))
    _, columns = sent.run(scenario, requests(), BLOCK)
    rows = [
        {
            "sent": one.arrival_s,
            "ttft": float(columns["ttft_s"][i]),
            "itl": float(columns["itl_s"][i]),
            "prompt": one.prompt_tokens,
            "cached": int(columns["gpu_hit_tokens"][i]),
        }
        for i, one in enumerate(requests())
    ]
    path = tmp_path / "results"
    path.write_text(write(rows))
    given = Given(machine=MACHINE, model="llama-3.1-8b", gpu_kv="8GiB")
    result = course(question("http://127.0.0.1:9", trace, given=given), lambda text: None, results=str(path))
    assert result.verdict == "agrees"
    assert result.requests.completed == 12
    assert abs(result.error.ttft_mean or 0.0) < 1e-3 and abs(result.error.itl_p50 or 0.0) < 5e-3
    assert result.error.cached_exact == (1.0 if write is as_guidellm else None)
    assert any("its own lateness is not known" in text for text in result.warnings)


def test_requests_over_http_are_parsed_first(trace: Path) -> None:
    # vLLM takes 2 ms a request and 1.3 us a prompt token on the host of the constants.
    direct = load(str(trace), model="llama-3.1-8b", machine=MACHINE, tiers={"gpu_kv": "8GiB"})
    behind = over_http(direct)
    before, after = direct.engine.overhead, behind.engine.overhead
    assert after.entry_s(7000) - before.entry_s(7000) == pytest.approx(2e-3 + 7000 * 1.3e-6)
    assert over_http(behind) == behind  # counted once
    fitted = sent.run(behind, requests(), BLOCK)[1]["ttft_s"] - sent.run(direct, requests(), BLOCK)[1]["ttft_s"]
    assert all(fitted > 0)


def test_an_earlier_run_can_be_predicted_anew(honest: str, trace: Path, tmp_path: Path, patient: None) -> None:
    first = kvplan.validate(f"{honest}/table/v1/", trace, machine=MACHINE, tolerance=0.25)
    assert first.verdict == "agrees" and len(first.rows) == 12
    path = tmp_path / "first.json"
    path.write_bytes(msgspec.json.encode(first))
    again = kvplan.validate(f"{honest}/table", trace, machine=MACHINE, results=str(path), tolerance=0.25)
    assert again.measured.ttft_s == first.measured.ttft_s
    assert again.client == first.client
    assert again.predicted.ttft_s.mean == pytest.approx(first.predicted.ttft_s.mean, rel=1e-3)
    slower = kvplan.validate(f"{honest}/table", trace, machine="l4", results=str(path))
    assert slower.verdict == "off" and (slower.error.ttft_mean or 0) > 1


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"start_times": 3}', '{"benchmarks": []}', '{"request_start_ns": 1}', '"start_times"'])
def test_bad_results_are_refused_in_a_sentence(text: str, trace: Path, tmp_path: Path) -> None:
    path = tmp_path / "results"
    path.write_text(text)
    with pytest.raises(InputError, match=str(path)):
        course(question("http://127.0.0.1:9", trace), lambda text: None, results=str(path))


def test_results_of_another_trace_are_refused(trace: Path, tmp_path: Path) -> None:
    path = tmp_path / "results"
    path.write_text(as_vllm([{"sent": i, "ttft": 0.1, "itl": 0.01, "prompt": 10, "cached": 0} for i in range(12)]))
    given = Given(machine=MACHINE, model="llama-3.1-8b", gpu_kv="8GiB")
    with pytest.raises(InputError, match="not as long as in the trace"):
        course(question("http://127.0.0.1:9", trace, given=given), lambda text: None, results=str(path))


def test_the_verdict_is_refused_where_the_client_was_late(trace: Path) -> None:
    answers = [
        Answer(
            index=i,
            due_s=i,
            sent_s=float(i),
            reads=[(i + 0.03, 1), (i + 0.05, OUTPUT)],
            prompt_tokens=2048,
            output_tokens=OUTPUT,
            status=200,
        )
        for i in range(12)
    ]
    late_run = Replay(answers=answers, lateness=[Lateness(process=0, send_s=[0.0], read_s=[0.004] * 50, streams=1)])
    scenario = load(str(trace), model="llama-3.1-8b", machine=MACHINE, tiers={"gpu_kv": "8GiB"})
    trial = Attempt(scenario=scenario, requests=requests(), block_tokens=BLOCK, run=late_run, known=[], counted={}, seconds=1.0, remarks=[])
    result = judged(question("http://x", trace), trial)
    assert result.verdict == "refused"
    assert "read 4.0 ms late" in result.reason
