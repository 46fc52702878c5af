"""What reaches the tiers behind host memory, and comes back from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kvplan

REMOTE_TRACE = '{"kvplan":"trace/1","block_tokens":16}\n' + "".join(
    f'{{"t":{10 * turn},"in":64,"out":1,"blocks":[{first},{first + 1},{first + 2},{first + 3}]}}\n'
    for turn, first in enumerate((1, 5, 9, 1))
)


def test_a_filter_of_the_disk_leaves_the_remote_pool_alone(tmp_path: Path) -> None:
    # Blocks of 2 MiB: 6 on the GPU (one of them null), 5 in host memory. The first prompt's 4 blocks reach the remote pool when they are
    # stored; the two after it push them out of both. Asked again, all but the block of its last token come from there: 48 of 64.
    trace = tmp_path / "t.jsonl"
    trace.write_text(REMOTE_TRACE)
    sizes: dict[str, Any] = {"gpu_kv": "14680064B", "cpu": "10485760B"}
    found = kvplan.simulate(trace, model="llama-3.1-8b", machine="h100-sxm", engine="dynamo", remote="1TiB", **sizes)
    assert found.prompt_tokens.remote_hit == 48
    filtered = kvplan.simulate(trace, model="llama-3.1-8b", machine="h100-sxm", engine="dynamo", disk="1TiB", **sizes)
    assert filtered.prompt_tokens.disk_hit == 0


def test_a_prompt_larger_than_host_memory_comes_back_as_far_as_that_reaches(tmp_path: Path) -> None:
    # 1,024 tokens of 128 KiB in host memory of 512: LMCache's chunks go on to the remote pool through its buffers, and come back until no
    # buffer is left.
    trace = tmp_path / "t.jsonl"
    rows = [(0, 0), (50, 1000), (100, 2000), (150, 0)]
    trace.write_text(
        '{"kvplan":"trace/1","block_tokens":16}\n'
        + "".join(f'{{"t":{at},"in":1024,"out":1,"blocks":{list(range(first, first + 64))}}}\n' for at, first in rows)
    )
    sizes: dict[str, Any] = {"gpu_kv": f"{80 * 2}MiB", "cpu": "64MiB", "remote": "1TiB"}
    found = kvplan.simulate(trace, model="llama-3.1-8b", machine="h100-sxm", engine="lmcache", **sizes)
    assert found.prompt_tokens.remote_hit == 512
