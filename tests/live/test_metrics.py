"""What a server tells of itself, on real and hostile pages."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvplan.errors import InputError
from kvplan.live import metrics
from kvplan.live.client import StreamClient
from kvplan.live.prometheus import parse
from kvplan.live.records import Endpoint, Limits
from kvplan.units import GiB

PAGE = (Path(__file__).parent / "vllm-0.24-metrics.txt").read_text()


def test_a_real_page_of_vllm() -> None:
    page = parse(PAGE, 10.0)
    names = metrics.engine_of(page)
    assert names is not None and names.name == "vllm"
    empty = parse("# TYPE vllm:prompt_tokens counter\n", 0.0)
    found = metrics.window(empty, page)
    # 18 requests, 123,452 prompt tokens, 33,184 of them cached; 25 stores of 11.83 GB in 0.223 s, no load.
    assert found.counted["prompt_tokens"] == 123_452
    assert found.counted["gpu_hit_tokens"] == 33_184
    assert found.counted["store_bytes"] == 11_830_034_432
    assert found.counted["store_s"] == pytest.approx(0.22337, rel=1e-4)
    assert found.counted["stores"] == 25
    assert found.counted["load_bytes"] == 0  # announced, and nothing loaded yet
    assert found.counted["cpu_hit_tokens"] == 0
    assert found.gauges["running"] == 0
    by_source = "vllm:prompt_tokens_cached_by_source_total"  # of later versions
    assert found.missing == [f"disk_hit_tokens ({by_source})", f"remote_hit_tokens ({by_source})"]
    with pytest.raises(InputError, match="started anew"):
        metrics.window(page, parse(PAGE.replace("123452.0", "12.0"), 20.0))


def test_a_server_says_what_it_is(server: str) -> None:
    async def ask(habit: str, key: str = "") -> metrics.Served:
        async with StreamClient(Endpoint(url=f"{server}/{habit}", key=key), Limits()) as client:
            return (await metrics.ask(client))[0]

    told = asyncio.run(ask("law"))
    assert (told.engine, told.version, told.models, told.context_tokens) == ("vllm", "0.24.0", ["toy", "org/llama-3.1-8b"], 40_000)
    assert (told.block_tokens, told.pool_tokens, told.pool_bytes, told.kv_dtype) == (16, 65_536, 8 * GiB, "auto")
    assert told.cpu_bytes == 0 and told.unknown == []
    silent = asyncio.run(ask("silent"))
    assert silent.engine == "" and silent.unknown == ["its metrics (no Prometheus page at /metrics)"]
    with pytest.raises(InputError, match="refuses the key") as caught:
        asyncio.run(ask("locked", "wr0ng"))
    assert "wr0ng" not in caught.value.message
    with pytest.raises(InputError, match="127.0.0.1:9"):
        asyncio.run(_nowhere())


async def _nowhere() -> None:
    async with StreamClient(Endpoint(url="http://127.0.0.1:9"), Limits()) as client:
        await metrics.ask(client)


@pytest.mark.parametrize(
    ("text", "engine", "counted"),
    [
        (
            'sglang:prompt_tokens_total{m="a"} 100\nsglang:cached_tokens_total{cache_source="device"} 30\n'
            'sglang:cached_tokens_total{cache_source="host"} 20\nsglang:load_back_duration_seconds_sum 0.5\n',
            "sglang",
            {"prompt_tokens": 100, "gpu_hit_tokens": 30, "cpu_hit_tokens": 20, "load_s": 0.5},
        ),
        ("trtllm_prompt_tokens_total 7\ntrtllm_prompt_cached_tokens_total 3\n", "trtllm", {"prompt_tokens": 7, "gpu_hit_tokens": 3}),
        ("dynamo_frontend_input_sequence_tokens_sum 7\nkvbm_onboard_blocks_h2d 2\n", "dynamo", {"prompt_tokens": 7, "loads": 2}),
        (
            'vllm:prompt_tokens_cached_by_source_total{source="host"} 5\nvllm:prompt_tokens_cached_by_source_total{source="disk"} 6\n'
            "vllm:external_prefix_cache_hits_total 11\n",
            "vllm",
            {"cpu_hit_tokens": 5, "disk_hit_tokens": 6},
        ),
    ],
)
def test_names_of_other_engines_and_versions(text: str, engine: str, counted: dict[str, float]) -> None:
    found = metrics.window(parse("", 0.0), parse(text, 1.0))
    assert found.engine == engine
    assert found.counted.items() >= counted.items()
    assert found.missing


@given(st.text(max_size=200))
def test_any_text_is_a_page(text: str) -> None:
    page = parse(text, 0.0)
    assert all(value == value for rows in page.series.values() for _, value in rows)


def test_labels_with_quotes_and_braces() -> None:
    page = parse('a{x="1,}",y="say \\"hi\\" {now}"} 2\na{x="3"} nan\nb 1e999\nc{ 1\n', 0.0)
    assert page.series == {"a": [({"x": "1,}", "y": 'say "hi" {now}'}, 2.0)]}
    assert page.unread == 3
