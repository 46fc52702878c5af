"""What published figures say beyond their effects, which the scorecard judges, and losses by design."""

from __future__ import annotations

import json

import pytest

from kvplan.planning.closed_form import ttft_s
from tests.plan.effects import BLOG, batch_rate, of, run_rows
from tests.plan.published import CASES, FILE, INFERRED, not_judged


def test_milliseconds_of_an_earlier_vllm() -> None:
    # The first model runner moves all layers of a block in one piece: 10,000 tokens in 43 ms (read off a figure: 38 to 48), 100,000 in 310,
    # where the second one, in which vLLM runs this model since 0.23, takes longer.
    entries = {entry["id"]: entry for entry in map(json.loads, FILE.read_text().splitlines())}
    base = of("llama-3.1-8b", "h100-sxm", version=BLOG)
    for thousands in range(10, 101, 10):
        entry = entries[f"vllm-native-ttft-8b-{thousands}k"]
        assert ttft_s(base, 1000 * thousands) == pytest.approx(entry["baseline_value"] / 1e3, rel=0.07)
        assert ttft_s(base, 1000 * thousands, "cpu", 1.0) == pytest.approx(entry["offload_value"] / 1e3, rel=0.04)
    assert ttft_s(of("llama-3.1-8b", "h100-sxm", version="0.23"), 10_000, "cpu", 1.0) > 1.1 * ttft_s(base, 10_000, "cpu", 1.0)


def test_the_layout_of_0_12() -> None:
    # "Up to 4 times" sooner, by the blog: one piece a block instead of 64, each a call of 3.7 us.
    old, new = (of("llama-3.1-8b", "h100-sxm", version=version) for version in ("0.11", "0.12"))
    assert ttft_s(old, 10_000, "cpu", 1.0) / ttft_s(new, 10_000, "cpu", 1.0) == pytest.approx(4, rel=0.1)
    assert ttft_s(old, 10_000) == ttft_s(new, 10_000)


def test_loads_of_an_earlier_vllm_wait_for_the_step_in_progress() -> None:
    # Read off a figure: 73,900 prompt tokens a second where half of the prompts are in host memory, 219,700 where nine in ten are.
    assert 512 * batch_rate(0.5, "llama-3.1-8b", "256GiB") == pytest.approx(73_900, rel=0.12)
    assert 512 * batch_rate(0.9, "llama-3.1-8b", "256GiB") == pytest.approx(219_700, rel=0.12)


def test_traps_and_vendors_claims_are_listed_and_not_judged() -> None:
    kinds = {entry["id"]: entry["kind"] for entry in map(json.loads, FILE.read_text().splitlines())}
    barred = {name for name, kind in kinds.items() if kind in ("trap", "vendor")}
    judged = set(CASES | INFERRED)
    assert barred and not barred & judged
    assert set(not_judged()) | judged == set(kinds)


def _requests_per_s(prompts: list[int], output_tokens: int, *, sets: tuple[str, ...] = (), **tiers: str) -> float:
    """Of prompts of 8,192 tokens, each named by its content, one every 2 s."""
    rows = [
        {"timestamp": 2000 * at, "input_length": 8192, "output_length": output_tokens, "hash_ids": [100 * prompt + k for k in range(16)]}
        for at, prompt in enumerate(prompts)
    ]
    columns = run_rows(rows, gpu_kv="2GiB", sets=sets, **tiers)
    return len(prompts) / float(columns["e2e_s"].sum())


def test_storing_what_never_comes_back_is_a_loss() -> None:
    """Output tokens wait behind stores on the copy engine: without a hit, nothing pays for that."""
    fresh = list(range(40))
    assert _requests_per_s(fresh, 16, cpu="64GiB") < 0.998 * _requests_per_s(fresh, 16)


def test_a_disk_slower_than_computing_is_a_loss_unless_each_load_is_weighed() -> None:
    """A prompt is 1 GiB of KV: 5 s from a disk of 0.2 GB/s, some 0.2 s to compute. The CPU tier holds 4 of the 12. (Asking the disk for 512
    chunks, 20 us each, is a loss of some 5 % of its own, whatever is loaded: left out here.)"""
    again = list(range(12)) * 3
    tiers = {"cpu": "4GiB", "disk": "1TiB"}
    slow = ("machine.disk.read_Bps=0.2GB/s", "machine.disk.stream_Bps=0.2GB/s")
    without = _requests_per_s(again, 1)
    assert _requests_per_s(again, 1, sets=slow, **tiers) < 0.5 * without
    assert (
        _requests_per_s(again, 1, sets=(*slow, "engine.overhead.probe_s=0", "engine.offload.load_rule=break_even"), **tiers)
        > 0.95 * without
    )
