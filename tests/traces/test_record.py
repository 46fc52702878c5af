"""Recorded traces: hashes and lengths of logs, never what they say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kvplan.errors import InputError
from kvplan.traces import open_trace
from kvplan.traces.record.record import record
from tests.traces.test_readers import SAMPLES, TOKENS, lines

RECORDED = ("lmcache-hashes", "dynamo", "sglang-log", "vllm-log", "openai")


def recorded(text: str, folder: Path, **options: object) -> Path:
    (folder / "log").write_text(text)
    record(str(folder / "log"), str(folder / "trace.jsonl"), **options)  # type: ignore[arg-type]
    return folder / "trace.jsonl"


@pytest.mark.parametrize("name", RECORDED)
def test_times_lengths_and_sharing_stay_and_names_do_not(name: str, tmp_path: Path) -> None:
    options = {"output_tokens": 30} if name == "lmcache-hashes" else {}
    path = recorded(SAMPLES[name], tmp_path, format=name, **options)
    before, after = list(open_trace(tmp_path / "log")), list(open_trace(path))
    assert [(r.arrival_s, r.prompt_tokens, len(r.blocks)) for r in after] == [(r.arrival_s, r.prompt_tokens, len(r.blocks)) for r in before]
    assert [r.output_tokens for r in after] == [30 if options else r.output_tokens for r in before]
    ids = [[key for r in requests for key in r.blocks] for requests in (before, after)]
    same = [[a == b for a in one for b in one] for one in ids]
    assert same[0] == same[1]
    assert not set(ids[0]) & set(ids[1])
    text = path.read_text()
    for secret in ("secret", "hello", "see ", "cmpl-", "0xab", '"s"'):
        assert secret not in text


def test_every_recording_has_a_salt_of_its_own(tmp_path: Path) -> None:
    first = recorded(SAMPLES["dynamo"], tmp_path).read_text()
    assert recorded(SAMPLES["dynamo"], tmp_path).read_text() != first
    known = recorded(SAMPLES["dynamo"], tmp_path, salt=b"k").read_text()
    assert recorded(SAMPLES["dynamo"], tmp_path, salt=b"k").read_text() == known


def test_what_cannot_be_recorded_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="hits are silent"):
        recorded("x", tmp_path, format="kv-events")
    with pytest.raises(InputError, match="hold no answers") as caught:
        recorded(SAMPLES["lmcache-hashes"], tmp_path)
    assert "--output-tokens" in caught.value.hint


def test_damaged_lines_of_a_log_are_counted_and_left_out(tmp_path: Path) -> None:
    cut = SAMPLES["vllm-log"].splitlines()[1][:150]  # a log that was rotated in the middle of a line
    log = tmp_path / "vllm.log"
    log.write_text(cut + "\n" + SAMPLES["vllm-log"] + "DEBUG 13-41 00:00:00 Request x details: prompt_token_ids: [1]\n")
    trace = open_trace(log)
    assert [r.prompt_tokens for r in trace] == [40, 20]
    assert {count.what for count in trace.report.counts} >= {"a line whose stamp is no time"}
    half = SAMPLES["sglang-log"].splitlines()[2][:90]
    log.write_text(SAMPLES["sglang-log"] + half + '"event": "request.finished"')
    trace = open_trace(log)
    assert len(trace) == 2
    assert [(count.what, count.rows) for count in trace.report.counts if count.kind == "dropped"] == [
        ("a request that is damaged or cut off", 1)
    ]


def test_a_log_of_lengths_only_shares_nothing(tmp_path: Path) -> None:
    """SGLang at level 1: no text, no ids."""
    row = {
        "timestamp": 100.0,
        "event": "request.finished",
        "rid": "a",
        "obj": {},
        "out": {"meta_info": {"prompt_tokens": 9, "completion_tokens": 2}},
    }
    (tmp_path / "log").write_text(lines(row))
    trace = open_trace(tmp_path / "log", format="sglang-log")
    assert trace.block_tokens == 0
    assert [(r.prompt_tokens, r.blocks) for r in trace] == [(9, ())]


def test_chunks_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    for change, message in (
        ({"seq_len": 100, "chunk_hashes": ["a", "b"]}, "2 chunks do not fit 100 tokens"),
        ({"chunk_size": 128}, "a chunk of 128 tokens, but 256 above"),
        ({"timestamp": "soon"}, "'soon' is not a time"),
    ):
        rows = SAMPLES["lmcache-hashes"].splitlines()
        rows[2] = json.dumps(json.loads(rows[2]) | change)
        (tmp_path / "log").write_text("\n".join(rows))
        with pytest.raises(InputError, match=f"line 3: {message}"):
            open_trace(tmp_path / "log")


def test_the_same_tokens_share_the_same_blocks(tmp_path: Path) -> None:
    text = SAMPLES["vllm-log"]
    (tmp_path / "log").write_text(text)
    first, second = open_trace(tmp_path / "log")
    assert first.blocks[:1] == second.blocks  # the second prompt is the first one's beginning
    assert len(TOKENS) // 16 == len(first.blocks)
