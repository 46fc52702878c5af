"""Every format: recognised by content, read to the same record, with its traps."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from kvplan.errors import InputError
from kvplan.request import Request
from kvplan.traces import FORMATS, open_trace
from kvplan.traces.formats import keys


def lines(*rows: dict) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


TOKENS = list(range(40))
SAMPLES: dict[str, str] = {
    "native": lines(
        {"kvplan": "trace/1", "block_tokens": 16},
        {"t": 0.0, "in": 40, "out": 5, "blocks": [1, 2], "session": "a"},
        {"t": 1.5, "in": 50, "out": 6, "blocks": [1, 2, 3], "session": "a", "think": 0.5, "row": 7},
    ),
    "mooncake": lines(
        {"timestamp": 0, "input_length": 600, "output_length": 5, "hash_ids": [0, 1]},
        {"timestamp": 1500, "input_length": 600, "output_length": 6, "hash_ids": [0, 2]},
    ),
    "weka": json.dumps(
        {
            "id": "s",
            "block_size": 64,
            "hash_id_scope": "local",
            "requests": [
                {"t": 0.0, "type": "n", "in": 130, "out": 5, "hash_ids": [1, 2]},
                {
                    "t": 3.25,
                    "type": "subagent",
                    "agent_id": "agent_001",
                    "requests": [{"t": 1.0, "type": "n", "in": 70, "out": 1, "hash_ids": [1]}],
                },
                {"t": 4.0, "type": "s", "in": 200, "out": 6, "hash_ids": [1, 2, 3], "think_time": 2.0},
            ],
        }
    ),
    "bailian": lines(
        {
            "chat_id": 1,
            "parent_chat_id": -1,
            "timestamp": 0.2,
            "input_length": 40,
            "output_length": 5,
            "hash_ids": [9, 8, 9],
        },
        {
            "chat_id": 2,
            "parent_chat_id": 1,
            "timestamp": 1.7,
            "input_length": 40,
            "output_length": 6,
            "hash_ids": [7, 8, 9],
        },
    ),
    "kvcache-simulator": lines(
        {"block_size": 64, "hash_ids": ["a", "b"], "input_length": 100},
        {"block_size": 64, "hash_ids": ["a", 5], "input_length": 128, "block_tokens": [64, 64]},
    ),
    "llmservingsim": lines(
        {
            "input_toks": 40,
            "output_toks": 5,
            "arrival_time_ns": 2_000_000_000,
            "input_tok_ids": TOKENS,
            "output_tok_ids": [],
        },
        {
            "session_id": "x",
            "arrival_time_ns": 3_500_000_000,
            "sub_requests": [
                {"input_toks": 20, "output_toks": 6, "tool_duration_ns": 250_000_000},
                {"input_toks": 30, "output_toks": 6},
            ],
        },
    ),
    "sharegpt": json.dumps(
        [
            {
                "id": "c",
                "conversations": [
                    {"from": "human", "value": "x" * 300},
                    {"from": "gpt", "value": "y" * 20},
                    {"from": "human", "value": "z" * 300},
                    {"from": "gpt", "value": "w" * 8},
                ],
            }
        ]
    ),
    "lmcache": lines(
        {"timestamp": 1_700_000_000_000_000, "input": "a" * 600, "output": "b" * 8, "session_id": "s"},
        {"timestamp": 1_700_000_001_500_000, "input": "a" * 900, "output": "", "session_id": "s"},
    ),
    "openai": lines(
        {
            "created": 100,
            "messages": [{"role": "user", "content": "hello " * 100}],
            "usage": {"prompt_tokens": 128, "completion_tokens": 9},
        },
        {"created": 101.5, "prompt": "hello " * 100, "max_tokens": 7},
    ),
    "azure": "TIMESTAMP,ContextTokens,GeneratedTokens\r\n2023-11-16 18:17:59.9799600,4808,10\r\n2023-11-16 18:18:01.4799601,3180,8",
    "burstgpt": "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    "5,7,1.0,ChatGPT,472,18,490,Conversation log\n6,,,ChatGPT,10,0,10,API log\n45,7,1.0,ChatGPT,1087,230,1317,x\n",
    "vidur": "arrived_at,num_prefill_tokens,num_decode_tokens\n0.5,374,44\n2.0,396,109\n",
    "lmcache-hashes": lines(
        {
            "timestamp": 1711929600.5,
            "request_id": "a",
            "model_name": "m",
            "chunk_size": 256,
            "seq_len": 600,
            "dtypes": ["bfloat16"],
            "shapes": [[32, 256, 128]],
            "chunk_hashes": ["0xab", "0xcd"],
        },
        {"timestamp": 1711929600.6, "request_id": "a", "chunk_size": 256, "seq_len": 600, "chunk_hashes": ["0xab", "0xcd"]},
        {"timestamp": 1711929602.0, "request_id": "b", "chunk_size": 256, "seq_len": 512, "chunk_hashes": ["0xab", "0xef"]},
    ),
    "dynamo": lines(
        {"event": {"schema": "dynamo.request.trace.v1", "event_type": "tool_end", "tool": {"tool_call_id": "x"}}},
        {
            "schema": "dynamo.request.trace.v1",
            "event_type": "request_end",
            "event_time_unix_ms": 1_700_000_001_000,
            "agent_context": {"session_id": "s"},
            "request": {
                "request_id": "a",
                "output_tokens": 7,
                "request_received_ms": 1_700_000_000_000,
                "replay": {"trace_block_size": 64, "input_length": 130, "input_sequence_hashes": [11, 22, 2**64 - 1]},
            },
        },
        {"schema": "dynamo.request.trace.v1", "event_type": "request_end", "request": {"request_id": "no replay"}},
        {
            "event": {
                "schema": "dynamo.request.trace.v1",
                "event_type": "request_end",
                "request": {
                    "request_id": "b",
                    "output_tokens": 8,
                    "request_received_ms": 1_700_000_001_500,
                    "replay": {"trace_block_size": 64, "input_length": 64, "input_sequence_hashes": [11]},
                },
            }
        },
    ),
    "sglang-log": "[2026-11-27 10:00:00] server started\n"
    + lines(
        {
            "timestamp": "2026-11-27T10:00:01.000000",
            "event": "request.received",
            "rid": "a",
            "obj": {"input_ids": TOKENS, "sampling_params": {"max_new_tokens": 5}},
        },
        {
            "timestamp": "2026-11-27T10:00:03.000000",
            "event": "request.finished",
            "rid": "a",
            "obj": {"input_ids": TOKENS, "text": None},
            "out": {"text": "secret", "meta_info": {"prompt_tokens": 40, "completion_tokens": 5, "e2e_latency": 1.9}},
        },
        {
            "timestamp": "2026-11-27T10:00:03.500000",
            "event": "request.finished",
            "rid": "b",
            "obj": {"input_ids": [1, 2, "...", 3], "text": "a secret"},
            "out": {"meta_info": {"prompt_tokens": 4000, "completion_tokens": 6, "e2e_latency": 1.0}},
        },
    ),
    "vllm-log": "INFO 12-31 23:59:58 [api_server.py:1] Starting vLLM API server\n"
    f"(APIServer pid=7) DEBUG 12-31 23:59:59 [logger.py:49] Request cmpl-a-0 details: prompt: 'see prompt_token_ids: [9]', "
    f"prompt_token_ids: {TOKENS}, prompt_embeds shape: None.\n"
    "(APIServer pid=7) INFO 12-31 23:59:59 [logger.py:64] Received request cmpl-a-0: params: SamplingParams(n=1, max_tokens=16, "
    "min_tokens=0), lora_request: None.\n"
    "INFO 12-31 23:59:59 [logger.py:80] Generated response cmpl-a-0 (streaming): output: 'x', output_token_ids: [5, 6, 7], "
    "finish_reason: stop\n"
    f"INFO 01-01 00:00:01 [logger.py:39] Received request chatcmpl-b: prompt: 'it', params: SamplingParams(n=1, max_tokens=6), "
    f"prompt_token_ids: {TOKENS[:20]}, lora_request: None.\n",
}


def read(text: str | bytes, path: Path, **options: object) -> list[Request]:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return list(open_trace(path, **options))


@pytest.mark.parametrize("name", FORMATS)
def test_is_recognised_by_content_whatever_its_name_and_packing(name: str, tmp_path: Path) -> None:
    plain = read(SAMPLES[name], tmp_path / "some.file")
    assert open_trace(tmp_path / "some.file").format == name
    zstandard = pytest.importorskip("zstandard")
    for packed in (
        gzip.compress(SAMPLES[name].encode()),
        zstandard.compress(SAMPLES[name].encode()),
        SAMPLES[name].rstrip().encode(),
        SAMPLES[name].replace("\r\n", "\n").replace("\n", "\r\n").encode(),
        b"\xef\xbb\xbf" + SAMPLES[name].encode(),
    ):
        assert read(packed, tmp_path / "packed") == plain


def summary(requests: list[Request]) -> list[tuple]:
    return [(r.index, r.arrival_s, r.prompt_tokens, r.output_tokens, len(r.blocks), r.session, r.think_s) for r in requests]


EXPECTED = {
    "native": [(0, 0.0, 40, 5, 2, "a", -1), (7, 1.5, 50, 6, 3, "a", 0.5)],
    "mooncake": [(0, 0.0, 600, 5, 2, "", -1), (1, 1.5, 600, 6, 2, "", -1)],
    # The subagent is spawned at 3.25 s and asks 1 s later, after the parent's request at 4 s.
    "weka": [(0, 0.0, 130, 5, 2, "s", -1), (2, 4.0, 200, 6, 3, "s", 2.0), (1, 4.25, 70, 1, 1, "s/agent_001", -1)],
    "bailian": [(0, 0.0, 40, 5, 3, "1", -1), (1, 1.5, 40, 6, 3, "1", -1)],
    "kvcache-simulator": [(0, 0.0, 100, 0, 2, "", -1), (1, 0.0, 128, 0, 2, "", -1)],
    # 40 token ids are two full blocks of 16.
    "llmservingsim": [(0, 0.0, 40, 5, 2, "", -1), (1, 1.5, 20, 6, 0, "x", -1), (2, 1.75, 30, 6, 0, "x", 0.25)],
    # "<human>\n" + 300 x + "\n" = 309 characters = 78 tokens, one full block of 64 x 4; with the answer ("<gpt>\n" 6 +
    # 20 + 1)
    # and the next question 309 + 27 + 309 = 645 characters = 162 tokens, two blocks.
    "sharegpt": [(0, 0.0, 78, 5, 1, "c", -1), (1, 0.0, 162, 2, 2, "c", 0.0)],
    "lmcache": [(0, 0.0, 150, 2, 2, "s", -1), (1, 1.5, 225, 0, 3, "s", -1)],
    "openai": [(0, 0.0, 128, 9, 2, "", -1), (1, 1.5, 150, 7, 2, "", -1)],
    "azure": [(0, 0.0, 4808, 10, 0, "", -1), (1, 1.5000001, 3180, 8, 0, "", -1)],
    "burstgpt": [(0, 0.0, 472, 18, 0, "7", -1), (2, 40.0, 1087, 230, 0, "7", -1)],
    "vidur": [(0, 0.0, 374, 44, 0, "", -1), (1, 1.5, 396, 109, 0, "", -1)],
    "lmcache-hashes": [(0, 0.0, 600, 1, 2, "", -1), (2, 1.5, 512, 1, 2, "", -1)],
    "dynamo": [(0, 0.0, 130, 7, 3, "s", -1), (2, 1.5, 64, 8, 1, "", -1)],
    # Received at 10:00:01; the other finished at 10:00:03.5 after a second. Its prompt was cut in the log: no blocks.
    "sglang-log": [(0, 0.0, 40, 5, 2, "", -1), (1, 1.5, 4000, 6, 0, "", -1)],
    # A new year lies between; three tokens were answered, and the other may have six.
    "vllm-log": [(0, 0.0, 40, 3, 2, "", -1), (1, 2.0, 20, 6, 1, "", -1)],
}


@pytest.mark.parametrize("name", FORMATS)
def test_reads_times_lengths_blocks_and_sessions(name: str, tmp_path: Path) -> None:
    assert summary(read(SAMPLES[name], tmp_path / "t")) == EXPECTED[name]


def test_one_json_array_reads_as_the_lines_that_it_holds(tmp_path: Path) -> None:
    for name in ("mooncake", "bailian", "openai", "lmcache", "llmservingsim", "kvcache-simulator"):
        array = "[\n" + ",\n".join(SAMPLES[name].splitlines()) + "\n]"
        assert read(array, tmp_path / "array") == read(SAMPLES[name], tmp_path / "lines")
        assert open_trace(tmp_path / "array").format == name
    custom = lines({"prompt": "a" * 1000, "output_tokens": 3})
    assert [(r.prompt_tokens, r.output_tokens) for r in read(custom, tmp_path / "t")] == [(250, 3)]


def test_a_parquet_file_reads_as_the_lines_that_it_holds(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    import pandas

    for name in ("mooncake", "bailian", "azure", "burstgpt", "vidur"):
        (tmp_path / "t").write_text(SAMPLES[name])
        if name in ("mooncake", "bailian"):
            frame = pandas.DataFrame([json.loads(line) for line in SAMPLES[name].splitlines()])
        else:
            frame = pandas.read_csv(tmp_path / "t")
        frame.to_parquet(tmp_path / "t.parquet")
        got = list(open_trace(tmp_path / "t.parquet"))
        sessions = [r.session.removesuffix(".0") for r in got]
        want = read(SAMPLES[name], tmp_path / "t")
        assert [(r.arrival_s, r.prompt_tokens, r.blocks) for r in got] == [(r.arrival_s, r.prompt_tokens, r.blocks) for r in want]
        assert sessions == [r.session for r in want]


def test_bailian_blocks_are_keyed_by_their_chain(tmp_path: Path) -> None:
    first, second = read(SAMPLES["bailian"], tmp_path / "t")
    assert len(set(first.blocks)) == 3  # id 9 twice in one prompt is two blocks
    assert not set(first.blocks) & set(second.blocks)  # ids 8 and 9 again, after another first block
    assert keys.chained([9, 8, 9])[:2] == keys.chained([9, 8, 7])[:2]


def test_a_folder_is_one_workload_and_ids_of_its_files_stay_apart(tmp_path: Path) -> None:
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text(SAMPLES["weka"])
    (tmp_path / "README.md").write_text("not a trace")
    trace = open_trace(tmp_path)
    requests = list(trace)
    assert [r.index for r in requests] == [0, 3, 2, 5, 1, 4]
    own, other = ({b for r in requests if r.index // 3 == file for b in r.blocks} for file in (0, 1))
    assert len(own) == len(other) == 3
    assert not own & other
    assert trace.report.rows("reordered") == 3  # each file's subagent row, and the second file's start


def test_sorts_stably_and_counts_what_it_moved(tmp_path: Path) -> None:
    rows = [{"timestamp": t, "input_length": 10, "output_length": 1, "hash_ids": [i]} for i, t in enumerate([7000, 5000, 9000, 5000])]
    (tmp_path / "t").write_text(lines(*rows))
    trace = open_trace(tmp_path / "t")
    assert [(r.index, r.arrival_s) for r in trace] == [(1, 0.0), (3, 0.0), (0, 2.0), (2, 4.0)]
    assert list(trace) == list(trace)
    (moved,) = trace.report.counts
    assert (moved.kind, moved.rows, moved.first_line) == ("reordered", 2, 2)


def test_drops_and_limits_are_counted(tmp_path: Path) -> None:
    rows = [{"timestamp": i, "input_length": n, "output_length": 1, "hash_ids": []} for i, n in enumerate([0, 100, 20, 30])]
    (tmp_path / "t").write_text(lines(*rows))
    trace = open_trace(tmp_path / "t", max_input=50, limit=1)
    assert [r.index for r in trace] == [2]
    assert [(c.kind, c.rows, c.first_line) for c in trace.report.counts] == [("dropped", 1, 1), ("dropped", 1, 2)]
    assert trace.report.rows_read == 3
    with pytest.raises(InputError, match="no request is left"):
        open_trace(tmp_path / "t", max_input=5)


def test_ids_that_do_not_fit_the_block_size_are_refused_unless_it_was_named(tmp_path: Path) -> None:
    text = lines({"timestamp": 0, "input_length": 40, "output_length": 1, "hash_ids": [1, 2, 3]})
    with pytest.raises(InputError, match=r"line 1: 3 hash_ids do not fit 40 input tokens in blocks of 512") as caught:
        read(text, tmp_path / "t")
    assert "--block-tokens" in caught.value.hint
    (request,) = read(text, tmp_path / "t", block_tokens=16)
    assert request.blocks == (1, 2, 3)
    (request,) = read(text, tmp_path / "t", block_tokens=32)
    assert request.blocks == (1, 2)


def test_times_in_another_unit(tmp_path: Path) -> None:
    text = SAMPLES["mooncake"]
    assert [r.arrival_s for r in read(text, tmp_path / "t", time_unit="s")] == [0.0, 1500.0]
    with pytest.raises(InputError, match="no unit of time 'hours'"):
        read(text, tmp_path / "t", time_unit="hours")


def test_aiperf_extras(tmp_path: Path) -> None:
    text = lines(
        {"timestamp": 1000, "text_input": "a" * 1200, "output_length": 5, "session_id": "s"},
        {"delay": 250, "messages": [{"role": "user", "content": "b" * 500}], "output_length": 5, "session_id": "s"},
    )
    first, second = read(text, tmp_path / "t")
    assert (first.prompt_tokens, len(first.blocks), first.think_s) == (300, 4, -1)  # 1,200 characters, blocks of 256
    assert (second.arrival_s, second.think_s, second.session) == (0.25, 0.25, "s")
    warned = open_trace(tmp_path / "t").report.warnings
    assert any("4 characters a token" in sentence for sentence in warned)


def test_a_tokenizer_counts_tokens(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    model = tokenizers.models.WordLevel({"hello": 0, "[UNK]": 1}, unk_token="[UNK]")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    text = lines({"timestamp": 0, "input": "hello " * 40, "output": "hello hello", "session_id": "s"})
    trace_path = tmp_path / "t"
    (request,) = read(text, trace_path, tokenizer=str(tmp_path / "tokenizer.json"))
    assert (request.prompt_tokens, request.output_tokens, len(request.blocks)) == (40, 2, 2)
    with pytest.raises(InputError, match=r"not a tokenizer.json"):
        read(text, trace_path, tokenizer=str(trace_path))


def test_the_public_files(real) -> None:
    weka = open_trace(real("weka"))
    assert (weka.format, len(weka), weka.block_tokens) == ("weka", 380, 64)
    bailian = open_trace(real("qwen_traceA_light_stratified_first24.jsonl"))
    assert (bailian.format, len(bailian), bailian.block_tokens) == ("bailian", 24, 16)
    slice_ = open_trace(real("mooncake_trace_slice_93rows.jsonl"))
    assert (len(slice_), next(iter(slice_)).arrival_s, slice_.first_s) == (93, 0.0, 1178.625)
    azure = open_trace(real("AzureLLMInferenceTrace_code.csv"))
    assert (azure.format, len(azure), azure.block_tokens) == ("azure", 8819, 0)
