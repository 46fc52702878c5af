"""What a trace reuses, worked out by hand on four requests."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kvplan.planning.traffic import capacity_for, hit_at, traffic
from kvplan.traces import open_trace


@pytest.fixture
def four(tmp_path: Path) -> Path:
    """Two sessions of two turns: blocks of 100 tokens, 2 then 3 of them."""
    rows = [(0.0, [1, 2]), (10.0, [3, 4]), (30.0, [1, 2, 5]), (50.0, [3, 4, 6])]
    lines = [json.dumps({"kvplan": "trace/1", "block_tokens": 100})]
    lines += [json.dumps({"t": at, "in": 100 * len(ids), "out": 10, "blocks": ids}) for at, ids in rows]
    path = tmp_path / "four.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_reuse_by_hand(four: Path) -> None:
    known = traffic(open_trace(four), token_bytes=10.0)
    assert known.prompt_tokens == 1000
    assert known.ideal_hit == pytest.approx(0.4)  # 200 + 200 of 200 + 200 + 300 + 300 tokens
    assert known.reused_prefix_tokens == 200
    assert known.reuse_s in (30.0, 40.0)
    assert known.reuse_p90_s == 40.0


def test_capacities_by_hand(four: Path) -> None:
    # When request 3 comes, [3, 4] and [1, 2] have been used: 4 blocks. When request 4 comes, [1, 2, 5] lie above
    # [3, 4]: 5 blocks. A block is 100 tokens of 10 bytes.
    known = traffic(open_trace(four), token_bytes=10.0)
    assert hit_at(known, 5000) == pytest.approx(0.4)
    assert hit_at(known, 1e9) == pytest.approx(0.4)
    assert hit_at(known, 0) == 0.0
    assert capacity_for(known, 0.4) == 5000


def test_lengths_only_are_lengths_only(tmp_path: Path) -> None:
    path = tmp_path / "azure.csv"
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,4808,10\n")
    known = traffic(open_trace(path), token_bytes=10.0)
    assert not known.named
    assert known.ideal_hit == 0.0
