"""Figures from the logs of an engine that keeps running."""

import json
from pathlib import Path

import pytest

from kvplan.calibrate.from_log import read
from kvplan.errors import InputError
from kvplan.units import GiB

pytest.importorskip("scipy")

START = """\
INFO 11-22 05:00:01 [gpu_model_runner.py:1] Model loading took 14.9889 GiB and 2.14 seconds
\x1b[36m(EngineCore pid=9)\x1b[0m INFO [gpu_worker.py:1] Available KV cache memory: 53.17 GiB
INFO [kv_cache_utils.py:1] GPU KV cache size: 435,568 tokens
INFO [kv_cache_utils.py:1] Maximum concurrency for 131,072 tokens per request: 3.32x
"""
STORED = "LMCache INFO: Stored 3866 out of total 3866 tokens. size: 0.5309 gb, cost 11.9537 ms, throughput: 44.4144 GB/s"


def _write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_start_up_lines(tmp_path: Path) -> None:
    result = read([_write(tmp_path, "vllm.log", START)])
    values = {figure.name: figure.value for figure in result.figures}
    assert values["KV pool"] == 53.17 * GiB
    assert values["KV pool, tokens"] == 435568
    # 53.17 x 2^30 / 435,568 = 131,072.1: 32 layers x 8 heads x 128 x 2 x 2 B.
    assert values["KV per token and rank"] == pytest.approx(131072, rel=1e-4)


def test_sizes_of_lmcache_are_binary(tmp_path: Path) -> None:
    result = read([_write(tmp_path, "lm.log", STORED)])
    # 3866 tokens of 147,456 B are 570 MB, printed as 0.5309; in 11.95 ms that is 47.7e9 B/s, printed as 44.4.
    assert result.settings["machine.link.d2h_Bps"] == pytest.approx(0.5309 * GiB / 11.9537e-3)


def test_loads_of_many_sizes_give_a_start_and_a_rate(tmp_path: Path) -> None:
    lines = []
    for tokens in (256, 512, 1024, 4096, 16384, 32768):
        size = tokens * 131072 / GiB
        cost = 1e3 * (4e-3 + size * GiB / 20e9)
        lines.append(
            f"LMCache INFO: Retrieved {tokens} out of {tokens} required tokens (from {tokens} total tokens). "
            f"size: {size:.4f} gb, cost {cost:.4f} ms, throughput: 1 GB/s;"
        )
    settings = read([_write(tmp_path, "lm.log", "\n".join(lines))]).settings
    assert settings["engine.overhead.load_s"] == pytest.approx(4e-3, rel=0.03)
    assert settings["machine.link.h2d_Bps"] == pytest.approx(20e9, rel=0.03)


def _benchmark(concurrency: int) -> str:
    lengths = [500, 1000, 2000, 4000, 8000]
    document = {
        "backend": "vllm",
        "max_concurrency": concurrency,
        "input_lens": lengths,
        "ttfts": [0.015 + n / 40000 for n in lengths],
        "itls": [[0.007, 0.0071, 0.0069]] * 5,
        "median_itl_ms": 7.0,
    }
    return json.dumps(document)


def test_a_detailed_benchmark_gives_the_engines_start(tmp_path: Path) -> None:
    result = read([_write(tmp_path, "bench.json", _benchmark(1))])
    assert result.settings["engine.overhead.transit_s"] == pytest.approx(0.015, rel=0.03)
    assert {f.name: f.value for f in result.figures}["between tokens"] == 0.007
    assert result.notes == ()


def test_overlapping_requests_are_said(tmp_path: Path) -> None:
    assert "overlapped" in read([_write(tmp_path, "bench.json", _benchmark(8))]).notes[0]


def test_medians_alone_are_used_and_said(tmp_path: Path) -> None:
    result = read([_write(tmp_path, "bench.json", json.dumps({"median_itl_ms": 9.5}))])
    assert {f.name: f.value for f in result.figures} == {"between tokens": 9.5e-3}
    assert "--save-detailed" in result.notes[0]


@pytest.mark.parametrize(("text", "match"), [("hello\n", "was recognised"), ("{broken", "not valid JSON"), ("", "was recognised")])
def test_files_that_say_nothing(tmp_path: Path, text: str, match: str) -> None:
    with pytest.raises(InputError, match=match):
        read([_write(tmp_path, "x.log", text)])


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read([tmp_path / "none.log"])
