"""Bad files: one clear sentence with file and line, whatever the bytes."""

from __future__ import annotations

import gzip
import json
import os
import random
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvplan.errors import InputError, KvplanError, MissingError
from kvplan.traces import FORMATS, open_trace, source
from kvplan.traces.generate.spec import load_spec
from tests.traces.test_readers import SAMPLES

GOOD = {"timestamp": 0, "input_length": 600, "output_length": 5, "hash_ids": [0, 1]}
CASES: list[tuple[bytes, str]] = [
    (b'{"timestamp": 1', "line 2: not valid JSON"),
    (b"[1, 2]", "line 2: a table is expected, not a list"),
    (b"\xff\xfe{}", "line 2: not UTF-8 text"),
    (json.dumps(GOOD | {"input_length": -1}).encode(), "line 2: input_length: a whole number >= 0 is expected"),
    (json.dumps(GOOD | {"input_length": 1.5}).encode(), "line 2: input_length: a whole number is expected, not a fraction"),
    (json.dumps(GOOD | {"input_length": "600"}).encode(), "line 2: input_length: a whole number is expected, not text"),
    (json.dumps(GOOD | {"input_length": 10**9}).encode(), "line 2: input_length: a whole number <= 100000000 is expected"),
    (json.dumps(GOOD | {"input_length": 10**400}).encode(), "line 2: "),
    (json.dumps({k: v for k, v in GOOD.items() if k != "input_length"}).encode(), "line 2: input_length is missing"),
    (json.dumps({k: v for k, v in GOOD.items() if k != "output_length"}).encode(), "line 2: output_length is missing"),
    (json.dumps({k: v for k, v in GOOD.items() if k != "timestamp"}).encode(), "line 2: timestamp is missing"),
    (json.dumps(GOOD | {"timestamp": 1e300}).encode(), "line 2: the time 1e.300 is not plausible"),
    (json.dumps(GOOD | {"hash_ids": [2**70, 1]}).encode(), "line 2: an id of a block has more than 64 bits"),
    (json.dumps(GOOD | {"hash_ids": [-(10**400), 1]}).encode(), "line 2: "),
    (json.dumps(GOOD | {"hash_ids": [1.5]}).encode(), r"line 2: hash_ids\[0\]: a whole number is expected"),
    (b'{"timestamp": NaN, "input_length": 1, "output_length": 1}', "line 2: not valid JSON"),
    (b"[" * 100_000, "line 2: "),
]


@pytest.mark.parametrize(("line", "message"), CASES)
def test_a_bad_row_is_named_by_its_line(line: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b"\n" + line + b"\n" + json.dumps(GOOD).encode())
    with pytest.raises(InputError, match=message) as caught:
        open_trace(path)
    assert str(path) in caught.value.message
    assert "`" not in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("azure", ("3180", "-5"), "line 3: ContextTokens: '-5' is not a number of tokens"),
        ("azure", ("3180", "9" * 30), "line 3: ContextTokens: '999"),
        ("azure", ("3180", "12.5"), "line 3: ContextTokens: '12.5'"),
        ("azure", ("3180,8", "3180"), "line 3: 2 fields, but the header names 3"),
        ("azure", ("3180,8", "3180,8,9"), "line 3: 4 fields, but the header names 3"),
        ("azure", ("3180,8", ",8"), "line 3: ContextTokens is missing"),
        ("azure", ("18:18:01.4799601", "25:18:01.4799601"), "line 3: '2023-11-16 25:18:01' is not a wall-clock time"),
        ("vidur", ("2.0", "soon"), "line 3: 'soon' is not a time"),
        ("vidur", ("2.0", "nan"), "line 3: the time nan is not plausible"),
        ("bailian", ('"chat_id": 2', '"chat_id": "x"'), "line 2: chat_id: a whole number is expected, not text"),
        ("weka", ('"in": 70', '"in": -70'), r"in a subagent: \[0\].in: a whole number >= 0 is expected"),
        ("weka", ('"block_size": 64', '"block_size": 0'), "block_size"),
        ("kvcache-simulator", ('[64, 64]', '[60, 64]'), "line 2: block_tokens differ from blocks of 64"),
        ("kvcache-simulator", ('64, "hash_ids": ["a", 5]', '32, "hash_ids": ["a", 5]'), "block_size is 32, but 64"),
        ("native", ("trace/1", "trace/9"), "the schema 'trace/9' is not known"),
        ("native", ('"think": 0.5', '"thing": 0.5'), "line 3: thing is not a field of a row"),
        ("native", ("[1, 2, 3]", "[1, 2, 3, 4, 5]"), "line 3: 5 blocks do not fit 50 tokens"),
    ],
)  # fmt: skip
def test_traps_of_each_format(name: str, change: tuple[str, str], message: str, tmp_path: Path) -> None:
    assert change[0] in SAMPLES[name]
    path = tmp_path / "t"
    path.write_text(SAMPLES[name].replace(*change))
    with pytest.raises(InputError, match=message):
        open_trace(path)


def test_missing_empty_and_unknown_files(tmp_path: Path) -> None:
    for content, message in (
        (None, "No such file"),
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"hello\n", "not a trace"),
    ):
        path = tmp_path / "t"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(InputError, match=message):
            open_trace(path)
    with pytest.raises(InputError, match="the trace is empty"):
        open_trace("/dev/null")
    with pytest.raises(InputError, match="holds no trace"):
        (tmp_path / "empty").mkdir()
        open_trace(tmp_path / "empty")
    with pytest.raises(InputError, match="no trace format named 'moncake'") as caught:
        open_trace(path, format="moncake")
    assert "mooncake" in caught.value.hint


def test_headers_without_rows_are_empty_traces(tmp_path: Path) -> None:
    for name in ("azure", "native", "vidur"):
        (tmp_path / "t").write_text(SAMPLES[name].splitlines()[0] + "\n")
        with pytest.raises(InputError, match="the trace is empty"):
            open_trace(tmp_path / "t")


def test_a_line_beyond_the_limit_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "MAX_LINE_BYTES", 1000)
    path = tmp_path / "t"
    path.write_text(json.dumps(GOOD) + "\n" + json.dumps(GOOD | {"hash_ids": [1] * 2000}))
    with pytest.raises(InputError, match="line 2: the line is longer than 1,000 bytes"):
        open_trace(path)


def test_a_decompression_bomb_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "BOMB_BYTES", 2**20)
    path = tmp_path / "t.gz"
    row = json.dumps(GOOD).encode() + b"\n"
    path.write_bytes(gzip.compress(row * 100_000, 9))  # 8 MB at 390 times its size
    monkeypatch.setattr(source, "BOMB_RATIO", 200)
    with pytest.raises(InputError, match="stopped at"):
        open_trace(path)
    path.write_bytes(gzip.compress(row + b"\n" * 2**24))
    with pytest.raises(InputError, match="line 100002: more than 100,000 blank lines"):
        open_trace(path)


def test_cut_off_archives(tmp_path: Path) -> None:
    whole = gzip.compress((json.dumps(GOOD) + "\n").encode() * 5000)
    for bad in (whole[:-20], whole[:100], whole[: len(whole) // 2] + b"x" * 40):
        (tmp_path / "t.gz").write_bytes(bad)
        with pytest.raises(InputError, match="damaged or cut off"):
            open_trace(tmp_path / "t.gz")


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_bytes_never_end_in_a_traceback(name: str, data: st.DataObject, tmp_path: Path) -> None:
    content = bytearray(SAMPLES[name].encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content)))
        cut = data.draw(st.integers(0, 6))
        content[at : at + cut] = data.draw(
            st.one_of(st.binary(max_size=6), st.sampled_from([b"-1", b"null", b"1e999", b"{", b'"', b"[]", b"9" * 30, b"\n"]))
        )
    if data.draw(st.booleans()):
        content = bytearray(gzip.compress(bytes(content)))
        content[data.draw(st.integers(10, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path / "t"
    path.write_bytes(content)
    for format in (None, name):
        try:
            requests = list(open_trace(path, format=format))
        except KvplanError as error:
            assert isinstance(error, InputError | MissingError)
            continue
        assert all(b.arrival_s >= a.arrival_s for a, b in zip(requests, requests[1:], strict=False))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=300), format=st.sampled_from(list(FORMATS)))
def test_random_bytes_never_end_in_a_traceback(content: bytes, format: str, tmp_path: Path) -> None:
    path = tmp_path / "t"
    path.write_bytes(content)
    for named in (None, format):
        with suppress(InputError, MissingError):  # the magic number of a format whose package is absent
            list(open_trace(path, format=named))


def test_a_damaged_parquet_file(tmp_path: Path) -> None:
    pandas, _ = pytest.importorskip("pandas"), pytest.importorskip("pyarrow")
    pandas.DataFrame({"arrived_at": [0.0], "num_prefill_tokens": [1], "num_decode_tokens": [1]}).to_parquet(tmp_path / "t")
    whole, draw = (tmp_path / "t").read_bytes(), random.Random(1)
    for _ in range(50):
        bad = bytearray(whole)
        for _ in range(3):
            bad[draw.randrange(4, len(bad))] = draw.randrange(256)
        (tmp_path / "t").write_bytes(bad)
        with suppress(InputError):
            open_trace(tmp_path / "t")


@pytest.mark.parametrize(("package", "content"), [("zstandard", b"\x28\xb5\x2f\xfd...."), ("pyarrow", b"PAR1....")])
def test_an_optional_package_that_is_absent_is_named(package: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / "t").write_bytes(content)
    code = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from kvplan.cli.main import run\n"
        f"sys.argv = ['kvplan', 'trace', 'inspect', {str(tmp_path / 't')!r}]\nrun()"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert done.returncode == 3
    assert package in done.stderr
    assert "pip install 'kvplan[traces]'" in done.stderr
    assert "Traceback" not in done.stderr


HEAD = '{"kvplan":"trace/1","block_tokens":16}\n'


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (['{"t":0,"in":10,"out":1,"row":3000000000}'], "line 2: row: a whole number <= 2147483647 is expected"),
        (['{"t":0,"in":10,"out":1,"row":1}', '{"t":0,"in":12,"out":1,"row":1}'], "the same row number"),
        (
            ['{"t":0,"in":10,"out":1,"session":"a"}', '{"t":0,"in":10,"out":1,"session":"a","think":1e300}'],
            "line 3: think: a number <= 4",
        ),
    ],
)
def test_rows_of_the_native_format_stay_within_reason(tmp_path: Path, rows: list[str], said: str) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(HEAD + "\n".join(rows) + "\n")
    with pytest.raises(InputError, match=said):
        open_trace(path)


def test_a_trace_comes_through_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    text = HEAD + '{"t":0,"in":10,"out":1}\n'
    writer = threading.Thread(target=pipe.write_text, args=(text,))
    writer.start()
    assert [request.prompt_tokens for request in open_trace(pipe)] == [10]
    writer.join()


def test_what_a_limit_leaves_out_is_said(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(HEAD + '{"t":0,"in":10,"out":1}\n' * 3)
    assert open_trace(path, limit=2).report.warnings == ("only the first 2 requests were read (--limit): the trace goes on",)
    assert open_trace(path, limit=3).report.warnings == ()


def test_a_specification_that_is_wrong_is_named(tmp_path: Path) -> None:
    path = tmp_path / "spec.toml"
    path.write_text("duration = 5\n")
    with pytest.raises(InputError) as refused:
        load_spec(path)
    assert "duration_s" in refused.value.hint
    path.write_text("a=" + "[" * 3000 + "\n")
    with pytest.raises(InputError, match="nested too deeply"):
        load_spec(path)
