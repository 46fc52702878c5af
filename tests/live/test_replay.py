"""The client against a server with a known law."""

from __future__ import annotations

import json
import re
import statistics
import urllib.request
from pathlib import Path

import pytest

from kvplan.errors import InputError
from kvplan.live import sse
from kvplan.live.client import tls
from kvplan.live.content import Content, planned
from kvplan.live.records import Answer, Endpoint, Lateness, Limits, Replay
from kvplan.live.replay import late, replay
from kvplan.request import Request
from tests.live.server import STEP_S, law_s

SCHEDULER_S = 15e-3
"""What the operating system may add to the median of some requests on a busy machine of two cores."""
FAST = Limits(silence_s=1.0, seconds=20)


def endpoint(server: str, habit: str, **more: object) -> Endpoint:
    return Endpoint(url=f"{server}/{habit}", model="toy", extras={"ignore_eos": True}, usage_in_chunks=True, **more)  # type: ignore[arg-type]


def send(where: Endpoint, requests: list[Request], *, limits: Limits = FAST, processes: int = 1) -> Replay:
    content = Content("t", 64, b"salt of this run" + where.url.encode(), text=where.shape != "ids")
    return replay(list(planned(requests, content, where)), where, limits, processes=processes)


def beside_law_s(run: Replay) -> float:
    """Median of what the client measured less the server's law."""
    return statistics.median(answer.ttft_s - law_s(answer.prompt_tokens, answer.cached_tokens) for answer in run.answers)


def between_s(run: Replay) -> float:
    """Median over the requests of the mean time between tokens."""
    return statistics.median(answer.itl_s or 0.0 for answer in run.answers)


def own_between_s(where: Endpoint, tokens: int) -> float:
    """The same by the stamps of the server, which a busy machine stretches or squeezes as well."""
    with urllib.request.urlopen(f"{where.url}/seen") as page:
        sent = json.load(page)["sent"].values()
    return statistics.median((moments[-1] - moments[0]) / (tokens - tokens // len(moments)) for moments in sent)


def alone(count: int = 6, gap_s: float = 0.15, output: int = 8) -> list[Request]:
    """Requests of different lengths one after another, each sharing half of its blocks with the next but one."""
    blocks = [(*range(5), *range(100 * i, 100 * i + 5 + i % 3)) for i in range(count)]
    return [
        Request(index=i, arrival_s=gap_s * i, prompt_tokens=64 * len(blocks[i]), output_tokens=output, blocks=blocks[i])
        for i in range(count)
    ]


def test_the_law_of_the_server_is_what_is_measured(server: str) -> None:
    where = endpoint(server, "lawful")
    run = send(where, alone())
    assert [answer.error for answer in run.answers] == [""] * 6
    # The first finds cold caches; the others share five blocks of 64 tokens with it.
    assert [answer.cached_tokens for answer in run.answers] == [0] + [320] * 5
    for answer in run.answers:
        assert answer.output_tokens == 8 == answer.reads[-1][1]
        assert 0 <= answer.first_byte_s - answer.sent_s <= answer.ttft_s
        assert answer.ttft_s + 7 * (answer.itl_s or 0) == pytest.approx(answer.e2e_s)
    assert -1e-3 < beside_law_s(run) < SCHEDULER_S
    assert between_s(run) == pytest.approx(own_between_s(where, 8), rel=0.05)
    assert between_s(run) == pytest.approx(STEP_S, rel=0.5)


@pytest.mark.parametrize("processes", [1, 2])
def test_many_streams(server: str, processes: int) -> None:
    requests = [Request(index=i, arrival_s=0.005 * i, prompt_tokens=200, output_tokens=20) for i in range(40)]
    where = endpoint(server, f"many{processes}")
    run = send(where, requests, processes=processes)
    assert len(run.answers) == 40
    assert not any(answer.error for answer in run.answers)
    assert sorted(part.process for part in run.lateness) == list(range(processes))
    assert sum(part.streams for part in run.lateness) >= 15
    assert between_s(run) == pytest.approx(own_between_s(where, 20), rel=0.1)


def test_runs_find_cold_caches_and_share_as_the_trace_does() -> None:
    one = Request(index=0, arrival_s=0, prompt_tokens=100, output_tokens=1, blocks=(7, 8))
    first, second = Content("t", 64, b"a"), Content("t", 64, b"b")
    assert first.prompt(one) == Content("t", 64, b"a").prompt(one)
    assert first.prompt(one) != second.prompt(one)
    longer = Request(index=1, arrival_s=0, prompt_tokens=128, output_tokens=1, blocks=(7, 8))
    assert first.prompt(longer).startswith(first.prompt(one))
    other = Request(index=2, arrival_s=0, prompt_tokens=100, output_tokens=1, blocks=(7, 9))
    a, b = first.prompt(one).split(","), first.prompt(other).split(",")
    assert a[:64] == b[:64] and a[64:] != b[64:]
    assert len(first.prompt(Request(index=3, arrival_s=0, prompt_tokens=150, output_tokens=1, blocks=(7,))).split(",")) == 150


@pytest.mark.parametrize(
    ("habit", "what"),
    [
        ("stalls", "the stream stalled"),
        ("drops", "the stream broke"),
        ("http500", "HTTP 500: .*out of luck"),
    ],
)
def test_failures_are_named_and_end_the_run(server: str, habit: str, what: str) -> None:
    run = send(endpoint(server, habit), alone(8, gap_s=0.3), limits=Limits(silence_s=0.4, errors=2))
    assert "2 requests failed" in run.stopped
    assert len(run.answers) < 8
    assert all(re.match(what, answer.error) for answer in run.answers)


def test_a_refusal_in_the_middle_keeps_what_was_measured(server: str) -> None:
    run = send(endpoint(server, "quota"), alone(8))
    assert [answer.status for answer in run.answers][:4] == [200, 200, 200, 429]
    assert sum(answer.ok for answer in run.answers) == 3
    assert "HTTP 429" in run.stopped


def test_a_wrong_key_ends_the_run_at_once_and_is_not_shown(server: str) -> None:
    run = send(endpoint(server, "locked", key="wr0ng-key"), alone(4))
    assert len(run.answers) == 1
    assert "HTTP 401" in run.stopped
    assert "wr0ng-key" not in repr(run) + run.stopped
    assert "s3cret" not in repr(endpoint(server, "locked", key="s3cret"))
    assert not send(endpoint(server, "locked", key="s3cret"), alone(1)).stopped


@pytest.mark.parametrize("habit", ["pairs", "countedpairs"])
def test_two_tokens_in_a_chunk_halve_the_time_between_tokens(server: str, habit: str) -> None:
    where = endpoint(server, habit)
    run = send(where, alone(3))
    assert all([tokens for _, tokens in answer.reads] == [2, 4, 6, 8] for answer in run.answers)
    assert between_s(run) == pytest.approx(own_between_s(where, 8), rel=0.05)
    assert between_s(run) == pytest.approx(STEP_S, rel=0.5)


@pytest.mark.parametrize("habit", ["head", "silent-first"])
@pytest.mark.parametrize("counted", [True, False])
def test_an_empty_first_chunk(server: str, habit: str, counted: bool) -> None:
    """An empty chunk before the first token is no token; a first token without text is one."""
    where = Endpoint(url=f"{server}/{habit}", model="toy", usage_in_chunks=counted)
    run = send(where, alone(5))
    assert all([tokens for _, tokens in answer.reads] == list(range(1, 9)) for answer in run.answers)
    assert -1e-3 < beside_law_s(run) < SCHEDULER_S


@pytest.mark.parametrize(
    ("habit", "said"),
    [
        ("nojson", "not what OpenAI's API streams"),
        ("noobject", "not what OpenAI's API streams"),
        ("notokens", "not what OpenAI's API streams"),
        ("deep", "not what OpenAI's API streams"),
        ("noutf8", "not what OpenAI's API streams"),
        ("told", "the server reports an error: .*no memory for \\*\\*\\*"),
        ("comment", ""),
    ],
)
def test_garbage_in_a_stream_is_a_sentence(server: str, habit: str, said: str) -> None:
    (answer,) = send(endpoint(server, habit, key="s3cret"), alone(1)).answers
    assert re.search(said, answer.error) if said else answer.ok, answer.error


def test_an_event_without_an_end_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 100)
    cutter = sse.EventCutter()
    assert cutter.feed(b"data: 1\n\nda") == [b"1"]
    assert cutter.feed(b"ta: 2\r\n") == [b"2"]
    with pytest.raises(ValueError, match="more than 100 bytes"):
        cutter.feed(b"x" * 101)


def test_sglang_tells_where_cached_tokens_lay(server: str) -> None:
    where = Endpoint(url=f"{server}/sglang", model="toy", extras={"ignore_eos": True, "return_cached_tokens_details": True})
    first, second = send(where, alone(2)).answers
    assert (first.cached_tokens, second.cached_tokens) == (0, 320)
    assert second.cached_by == {"device": 304, "host": 16}


def test_certificates_are_checked_unless_the_user_says_otherwise(tmp_path: Path) -> None:
    assert tls(Endpoint(url="https://x")) is True
    assert tls(Endpoint(url="https://x", verify=False)) is False
    (tmp_path / "ca.pem").write_text("not a certificate")
    with pytest.raises(InputError, match="not a file of certificates"):
        tls(Endpoint(url="https://x", ca_file=str(tmp_path / "ca.pem")))


def test_a_session_waits_for_its_last_answer(server: str) -> None:
    requests = [
        Request(index=i, arrival_s=0.0, prompt_tokens=100, output_tokens=4, session="a", think_s=0.05 if i else -1.0) for i in range(3)
    ]
    answers = send(endpoint(server, "law"), requests).answers
    waits_s = [after.sent_s - before.end_s for before, after in zip(answers, answers[1:], strict=False)]
    assert 0.049 <= min(waits_s) < 0.05 + SCHEDULER_S


def test_a_late_client_gives_no_verdict() -> None:
    answer = Answer(index=0, due_s=0.0, sent_s=0.0, reads=[(0.1, 1), (0.2, 2)])
    on_time = Lateness(process=0, send_s=[0.0005, 0.001, 0.0019], read_s=[1e-4], streams=1)
    assert late(Replay(answers=[answer], lateness=[on_time])) == ""  # a median of 1 ms, and 2 % of 100 ms are 2 ms
    slow = Lateness(process=0, send_s=[1e-4], read_s=[1e-4, 3e-3, 3e-3], streams=1)
    assert "read 3.0 ms late" in late(Replay(answers=[answer], lateness=[slow]))
