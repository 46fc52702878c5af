"""Generated traces: seeded, with the rates, lengths and sharing that were asked for."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from kvplan.errors import InputError
from kvplan.request import Request
from kvplan.traces import open_trace
from kvplan.traces.generate.arrivals import ARRIVALS, starts
from kvplan.traces.generate.generate import generate
from kvplan.traces.generate.spec import KINDS, Client, load_spec
from kvplan.traces.reuse.inspect import inspect
from kvplan.traces.write import convert


def made(text: str, folder: Path, seed: int | None = None) -> tuple[int, list[Request]]:
    (folder / "spec.toml").write_text(text)
    size, requests = generate(load_spec(folder / "spec.toml", seed=seed), folder=folder)
    return size, list(requests)


CHAT = """
duration_s = 300
[[clients]]
kind = "chat"
sessions_per_s = 1.0
system_tokens = 40
user_tokens = 100
output_tokens = 50
think_s = 10
"""


def test_a_chat_by_hand(tmp_path: Path) -> None:
    # Turn k of a session: 40 system + k x 100 said + (k - 1) x 50 answered; the next turn comes 10 s and 50 x 0.02 s
    # later.
    size, requests = made(CHAT, tmp_path)
    assert size == 16
    turns: dict[str, list[Request]] = {}
    for request in requests:
        turns.setdefault(request.session, []).append(request)
    shared = requests[0].blocks[:2]  # 40 tokens hold two full blocks
    for session in turns.values():
        for k, request in enumerate(session):
            assert request.prompt_tokens == 140 + 150 * k
            assert len(request.blocks) == request.prompt_tokens // 16
            assert request.blocks[:2] == shared
            assert request.think_s == (10 if k else -1)
            if k:
                assert request.arrival_s == pytest.approx(session[k - 1].arrival_s + 11)
                assert request.blocks[: len(session[k - 1].blocks)] == session[k - 1].blocks
    private = [{block for request in session for block in request.blocks[2:]} for session in turns.values()]
    assert sum(map(len, private)) == len(set().union(*private))
    assert np.mean([len(session) for session in turns.values()]) == pytest.approx(4, rel=0.2)
    assert [request.index for request in requests] == list(range(len(requests)))
    assert all(a.arrival_s <= b.arrival_s for a, b in itertools.pairwise(requests))


def test_the_seed_decides(tmp_path: Path) -> None:
    assert made(CHAT, tmp_path) == made(CHAT, tmp_path)
    assert made(CHAT, tmp_path, seed=1) != made(CHAT, tmp_path, seed=2)


def test_documents_are_shared_by_popularity(tmp_path: Path) -> None:
    text = """
duration_s = 2000
[[clients]]
kind = "rag"
sessions_per_s = 1.0
system_tokens = 0
documents = 3
document_tokens = 160
zipf = 1.0
"""
    _, requests = made(text, tmp_path)
    first = [request.blocks[0] for request in requests]
    counts = sorted((first.count(block) for block in set(first)), reverse=True)
    # Zipf over three documents: 6/11, 3/11, 2/11.
    assert np.array(counts) / len(first) == pytest.approx(np.array([6, 3, 2]) / 11, abs=0.04)
    assert all(request.session == "" for request in requests)


@pytest.mark.parametrize("name", [name for name in ARRIVALS if name != "at_once"])
def test_arrivals_keep_their_rate(name: str) -> None:
    client = Client(kind="chat", sessions_per_s=2.0, arrivals=name, cv=2.0, period_s=1000.0, burst_s=5.0)
    times = list(starts(client, np.random.default_rng(3), 20_000.0))
    assert len(times) / 20_000 == pytest.approx(2.0, rel=0.06)
    assert times == sorted(times)
    gaps = np.diff(times)
    cv = gaps.std() / gaps.mean()
    assert {"poisson": cv == pytest.approx(1, abs=0.05), "gamma": cv == pytest.approx(2, rel=0.05),
            "diurnal": 1.0 < cv < 1.3, "burst": cv > 2}[name]  # fmt: skip


def test_a_diurnal_rate_peaks_a_quarter_into_its_period() -> None:
    client = Client(kind="chat", sessions_per_s=5.0, arrivals="diurnal", period_s=1000.0, swing=0.8)
    times = np.array(list(starts(client, np.random.default_rng(1), 20_000.0))) % 1000
    counts = np.histogram(times, 4, (0, 1000))[0] / 5000 / 5
    # Mean of 1 + 0.8 sin over a quarter: 1 + 0.8 x 2 / pi = 1.51, then 1.51, 0.49, 0.49.
    assert counts == pytest.approx(np.array([1.51, 1.51, 0.49, 0.49]), abs=0.05)


def test_lengths_are_taken_from_a_trace(tmp_path: Path) -> None:
    rows = "".join(f"{i},{n},{n // 10}\n" for i, n in enumerate([100, 200, 300] * 20))
    (tmp_path / "lengths.csv").write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n" + rows)
    text = """
[[clients]]
kind = "batch"
sessions = 3000
system_tokens = 0
user_tokens = { trace = "lengths.csv" }
output_tokens = { trace = "lengths.csv" }
"""
    _, requests = made(text, tmp_path)
    assert {request.arrival_s for request in requests} == {0.0}
    prompts = [request.prompt_tokens for request in requests]
    assert (min(prompts), max(prompts)) == (100, 300)
    assert np.mean(prompts) == pytest.approx(200, rel=0.03)
    assert max(request.output_tokens for request in requests) <= 30


def test_a_log_normal_spread_has_its_mean_and_deviation(tmp_path: Path) -> None:
    text = '[[clients]]\nkind = "batch"\nsessions = 20000\nsystem_tokens = 0\nuser_tokens = { mean = 1000, cv = 0.5 }'
    _, requests = made(text, tmp_path)
    prompts = np.array([request.prompt_tokens for request in requests])
    assert (prompts.mean(), prompts.std()) == (pytest.approx(1000, rel=0.02), pytest.approx(500, rel=0.05))


def test_every_kind_runs_from_three_lines(tmp_path: Path) -> None:
    for kind in KINDS:
        size, requests = made(f'[[clients]]\nkind = "{kind}"\nsessions = 20\nsessions_per_s = 1', tmp_path)
        convert(requests, tmp_path / "t", block_tokens=size)
        assert [r.blocks for r in open_trace(tmp_path / "t")] == [r.blocks for r in requests]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "give either"),
        ('[[clients]]\nkind = "chad"\nsessions_per_s = 1', "no kind of client named 'chad'"),
        ('[[clients]]\nkind = "chat"', "needs sessions_per_s or sessions"),
        ('[[clients]]\nkind = "chat"\nsessions_per_s = -1', "a number >= 0 is expected"),
        ('[[clients]]\nkind = "chat"\nsesions = 1', "sesions is not a setting"),
        ('[[clients]]\nkind = "chat"\nsessions_per_s = 1\narrivals = "poison"', "no arrival process named 'poison'"),
        ('[[clients]]\nkind = "chat"\nsessions_per_s = 1\nuser_tokens = { cv = 1 }', "a spread needs a mean"),
        ("[scale", "not valid TOML"),
        ('[scale]\ntrace = "none.jsonl"', "No such file"),
    ],
)
def test_bad_specifications(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        made(text, tmp_path)


def test_scaling_keeps_what_users_share(real, tmp_path: Path) -> None:
    source = real("mooncake_synthetic.jsonl")
    size, requests = made(f'[scale]\ntrace = "{source}"\nusers = 2', tmp_path)
    convert(requests, tmp_path / "t", block_tokens=size)
    before, after = inspect(open_trace(source)), inspect(open_trace(tmp_path / "t"))
    assert after.requests == 2 * before.requests
    assert before.sharing
    assert after.sharing
    assert after.sessions
    assert before.sessions
    # Twice the sessions share the documents and system prompts of one, so that a little more is hit, never less.
    assert before.sharing.ideal.block_hit <= after.sharing.ideal.block_hit < before.sharing.ideal.block_hit + 0.1
    assert after.arrivals.mean_per_s == pytest.approx(2 * before.arrivals.mean_per_s, rel=0.1)
    assert after.prompt_tokens.p50 == before.prompt_tokens.p50


def test_scaling_by_one_is_the_trace_itself(real, tmp_path: Path) -> None:
    source = real("mooncake_trace_slice_93rows.jsonl")
    _, requests = made(f'[scale]\ntrace = "{source}"', tmp_path)
    plain = list(open_trace(source))
    assert [(r.arrival_s, r.prompt_tokens, len(r.blocks)) for r in requests] == [
        (r.arrival_s, r.prompt_tokens, len(r.blocks)) for r in plain
    ]
    pairs = {pair for r, q in zip(requests, plain, strict=True) for pair in zip(r.blocks, q.blocks, strict=True)}
    assert len(pairs) == len({new for new, _ in pairs}) == len({old for _, old in pairs})


def test_sessions_that_all_start_at_once_are_spread(real, tmp_path: Path) -> None:
    source = real("weka")
    _, requests = made(f'[scale]\ntrace = "{source}"\nstart_every_s = 30\nmax_gap_s = 300', tmp_path)
    last: dict[str, float] = {}
    for request in requests:
        gap = request.arrival_s - last.get(request.session, request.arrival_s)
        assert gap <= 300.0 + 1e-6
        last[request.session] = request.arrival_s
    begins = sorted({r.session: r.arrival_s for r in reversed(requests)}.values())
    assert len(set(begins)) == len(begins) == 10


def test_a_client_gives_its_requests_a_priority(tmp_path: Path) -> None:
    _, requests = made(CHAT + "priority = 2\n" + CHAT.split("\n", 2)[2] + "turns = 1\n", tmp_path)
    assert {(request.priority, bool(request.session)) for request in requests} == {(2, True), (0, False)}
