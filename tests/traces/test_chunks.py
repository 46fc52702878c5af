"""Files that are read whole, in chunks of rows and by several processes, against the same files read row by row."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvplan.errors import InputError
from kvplan.request import Request
from kvplan.traces import open_trace
from kvplan.traces.packed import PackedRequests


def rows_of(path: Path) -> list[Request]:
    """The requests of a file read row by row, which a limit asks for."""
    return list(open_trace(path, limit=10**9))


PLAIN = {
    "native": (
        '{"kvplan": "trace/1", "block_tokens": 4}',
        '{"t": %s, "in": 9, "out": 2, "blocks": [%d, 1, 2], "session": "s%d", "think": 1.5}',
    ),
    "mooncake": ("", '{"timestamp": %s, "input_length": 1024, "output_length": 2, "hash_ids": [%d, 1], "session_id": %d}'),
}
ODD = ("", "   ", '{"t": 7e9}', "[]", "{", '{"t": 1, "in": 0, "out": 1}', '{"t": 1, "in": 1, "out": 1, "blocks": [1, 2]}', "\ufeff")
ODD_MOONCAKE = (
    '{"session_id": 3, "delay": 1500, "input_length": 5, "output_length": 1}',
    '{"timestamp": 3, "input_length": 5, "output_length": 1, "hash_ids": [1, 2, 3]}',
    '{"created_time": 3, "input_tokens": 600, "output_tokens": 1, "hash_ids": [1, 18446744073709551616]}',
    '{"created_time": 3, "input_tokens": 600, "output_tokens": 1, "hash_ids": [1, 18446744073709551615]}',
)


@pytest.mark.parametrize("odd", [None, *ODD, *ODD_MOONCAKE])
@pytest.mark.parametrize("format", PLAIN)
@pytest.mark.parametrize("together", [False, True])
def test_a_whole_file_reads_as_its_rows_one_by_one(
    format: str, odd: str | None, together: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if together:  # by copies of this process, in chunks of two lines
        monkeypatch.setattr("kvplan.copies.possible", lambda tasks: 3)
        monkeypatch.setattr("kvplan.traces.trace.LONG_BYTES", 0)
        monkeypatch.setattr("kvplan.traces.formats.jsonl.CHUNK", 2)
    header, row = PLAIN[format]
    lines = [row % (at - at % 5, at, at % 3) for at in range(23)]
    if odd is not None:
        lines.insert(13, odd)
    (path := tmp_path / "t.jsonl").write_text("\n".join([*([header] if header else []), *lines]))
    try:
        expected = rows_of(path)
    except InputError as error:
        with pytest.raises(InputError) as found:
            open_trace(path)
        assert str(found.value) == str(error)
        return
    read = open_trace(path)
    assert list(read) == expected
    assert read.report == open_trace(path, limit=10**9).report


IDS = st.lists(st.one_of(*(st.integers(least, least + 3) for least in (0, -(2**63), 2**63 - 2, 2**64 - 4))))
RUNS = st.lists(st.tuples(st.integers(-5, 5), st.integers(0, 600)), max_size=4)


@given(st.lists(IDS | RUNS.map(lambda runs: [first + at for first, length in runs for at in range(length)]), min_size=1, max_size=6))
def test_packed_ids_come_back(prompts: list[list[int]]) -> None:
    requests = [Request(index=at, arrival_s=0.0, prompt_tokens=1, output_tokens=1, blocks=tuple(ids)) for at, ids in enumerate(prompts)]
    packed = PackedRequests()
    packed.extend(requests)
    whole = PackedRequests().join([packed, packed])
    same = [[block % 2**64 for block in ids] if packed.unsigned else ids for ids in prompts]
    assert [list(request.blocks) for request in whole] == same * 2
    ids, starts = whole.ids()
    assert [[int(block) % 2**64 for block in ids[a:b]] for a, b in itertools.pairwise(starts.tolist())] == [
        [block % 2**64 for block in ids] for ids in prompts
    ] * 2
