"""A trace that processes share by its packed file is the trace itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvplan import catalog
from kvplan.traces import shared
from kvplan.traces.trace import open_once, open_trace

CHAT = str(catalog.folder("scenarios") / "chat.jsonl")


@pytest.fixture
def unsigned(tmp_path: Path) -> str:
    """A trace whose ids of blocks need all of 64 bits."""
    file = tmp_path / "hashes.jsonl"
    rows = [f'{{"timestamp": {at}, "input_length": 1024, "output_length": 5, "hash_ids": [{2**64 - 1}, {at}]}}' for at in range(3)]
    file.write_text("\n".join(rows) + "\n")
    return str(file)


@pytest.mark.parametrize("limit", [0, 20])
def test_requests_and_facts_are_the_same(limit: int, unsigned: str) -> None:
    wanted = [(CHAT, limit, 0), (unsigned, 0, 0)]
    with shared.shared(wanted) as traces:
        shared.attach(traces)
        for (path, most, _), one in zip(wanted, traces, strict=True):
            mapped, read = open_once(path, limit=most or None, max_input=None), open_trace(path, limit=most or None)
            assert mapped is not read and list(mapped) == list(read)
            assert mapped.facts == read.facts and mapped.block_tokens == read.block_tokens and mapped.format == read.format
            assert Path(one.file).is_file()
    assert not Path(one.file).exists()
    assert list(open_once(CHAT, limit=5, max_input=None)) == list(open_trace(CHAT, limit=5))  # the file itself again


def test_the_digest_is_of_the_content(tmp_path: Path) -> None:
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(Path(CHAT).read_bytes())
    with shared.shared([(CHAT, 0, 0), (str(copy), 0, 0), (CHAT, 10, 0)]) as (first, same, shorter):
        assert first.digest == same.digest != shorter.digest
