"""Conversions keep what the target can hold, and say what it cannot."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvplan.errors import InputError
from kvplan.request import Request
from kvplan.traces import FORMATS, Trace, open_trace
from kvplan.traces.write import WRITERS, convert
from tests.traces.test_readers import SAMPLES


def converted(trace: Trace, path: Path, format: str = "native") -> list[str]:
    count, losses = convert(trace, path, block_tokens=trace.block_tokens, format=format)
    assert count == len(trace)
    return losses


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_read_write_read_is_the_identity(name: str, suffix: str, tmp_path: Path) -> None:
    if suffix == ".zst":
        pytest.importorskip("zstandard")
    (tmp_path / "t").write_bytes(SAMPLES[name].encode())
    trace = open_trace(tmp_path / "t")
    assert converted(trace, tmp_path / f"native{suffix}") == []
    again = open_trace(tmp_path / f"native{suffix}")
    assert list(again) == list(trace)
    assert (again.format, again.block_tokens) == ("native", trace.block_tokens)


PUBLIC = [
    "mooncake_conversation.jsonl",
    "mooncake_trace_slice_93rows.jsonl",
    "weka",
    "qwen_traceA_light_stratified_first24.jsonl",
    "AzureLLMInferenceTrace_code.csv",
]


@pytest.mark.parametrize("name", PUBLIC)
def test_public_traces_survive_the_native_format(real, name: str, tmp_path: Path) -> None:
    trace = open_trace(real(name))
    converted(trace, tmp_path / "t.jsonl")
    assert all(a == b for a, b in zip(trace, open_trace(tmp_path / "t.jsonl"), strict=True))


requests = st.lists(
    st.builds(
        Request,
        index=st.integers(0, 10**6),
        arrival_s=st.floats(0, 1e8),
        prompt_tokens=st.integers(64, 10**6),
        output_tokens=st.integers(0, 10**6),
        blocks=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=4).map(tuple),
        session=st.text(max_size=5),
        think_s=st.one_of(st.just(-1.0), st.floats(0, 1e6)),
        priority=st.integers(-5, 5),
        retention=st.integers(0, 100),
    ),
    min_size=1,
    max_size=8,
    unique_by=lambda request: request.index,
)


@settings(max_examples=100, deadline=None)
@given(rows=requests)
def test_native_holds_every_request(rows: list[Request], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("native") / "t"
    rows.sort(key=lambda request: request.arrival_s)
    rows[0] = msgspec.structs.replace(rows[0], arrival_s=0.0)
    convert(rows, path, block_tokens=16)
    assert list(open_trace(path)) == rows


def test_mooncake_to_mooncake_changes_nothing(real, tmp_path: Path) -> None:
    trace = open_trace(real("mooncake_synthetic.jsonl"))
    losses = converted(trace, tmp_path / "t", "mooncake")
    assert losses == ["mooncake does not say the block size: read it with --block-tokens 512"]
    assert list(open_trace(tmp_path / "t")) == list(trace)


def test_other_targets_say_what_they_lose(tmp_path: Path) -> None:
    (tmp_path / "t").write_text(SAMPLES["native"])
    trace = open_trace(tmp_path / "t")
    lost = converted(trace, tmp_path / "azure.csv", "azure")
    assert [sentence.split(" hold ")[1].split(":")[0] for sentence in lost] == [
        "what prompts share",
        "the rows of the file that the requests came from",
        "sessions",
        "think times",
    ]
    assert [(r.arrival_s, r.prompt_tokens, r.output_tokens) for r in open_trace(tmp_path / "azure.csv")] == [
        (0.0, 40, 5),
        (1.5, 50, 6),
    ]
    assert len(converted(trace, tmp_path / "k", "kvcache-simulator")) == 3
    assert [r.blocks for r in open_trace(tmp_path / "k")] == [r.blocks for r in trace]


def test_ids_beyond_a_double_are_renumbered_for_other_tools(tmp_path: Path) -> None:
    (tmp_path / "t").write_text(SAMPLES["bailian"])
    trace = open_trace(tmp_path / "t")
    converted(trace, tmp_path / "m", "mooncake")
    first, second = open_trace(tmp_path / "m", block_tokens=16)
    assert all(0 <= block < 2**53 for block in first.blocks)
    assert len({*first.blocks, *second.blocks}) == 6


def test_nothing_is_left_behind_by_a_failure(tmp_path: Path) -> None:
    def broken():  # noqa: ANN202
        yield Request(index=0, arrival_s=0.0, prompt_tokens=1, output_tokens=1)
        raise InputError("stop")

    with pytest.raises(InputError, match="stop"):
        convert(broken(), tmp_path / "t", block_tokens=16)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="no request to write"):
        convert([], tmp_path / "t", block_tokens=16)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="cannot be written"):
        convert([], tmp_path / "t", block_tokens=16, format="weka")
    with pytest.raises(InputError, match="does not exist"):
        convert([], tmp_path / "no" / "t", block_tokens=16)
    assert set(WRITERS) <= set(FORMATS)
