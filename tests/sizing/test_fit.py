"""What fits, what would make it fit, and what offload frees: each answer against the arithmetic and against asking
again.
"""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kvplan
from kvplan import catalog
from kvplan.cli.main import guarded, main
from kvplan.errors import InputError
from kvplan.results.size import SizeResult
from kvplan.sizing.answer import ask

GiB = 2**30
VLLM = catalog.engine("vllm")
H100 = catalog.machine("h100-sxm")


def options(change: str) -> dict[str, object]:
    """`--kv-dtype fp8 --tp 2` as keyword arguments."""
    words = change.split()
    names = {"ctx": "context_tokens"}
    found = {}
    for flag, value in zip(words[::2], words[1::2], strict=True):
        name = flag.removeprefix("--").replace("-", "_")
        found[names.get(name, name)] = int(value) if value.isdigit() else value
    return found


def test_a_question_with_a_known_pool() -> None:
    # 16 GiB for Llama-3.1-8B at 131,072 B a token: one sequence of 128k, or 4 of 32k, or 16,384 tokens for each of 8.
    result = ask(catalog.model("llama-3.1-8b"), engine=VLLM, context_tokens=32768, batch=8, pool_bytes=16 * GiB)
    assert (result.fit.fits, result.fit.max_sequences, result.fit.max_context_tokens) == (False, 4, 16384)
    assert result.fit.missing_bytes == 8 * 4 * GiB - 16 * GiB
    assert kvplan.size("llama-3.1-8b", context_tokens=131072, pool_bytes=16 * GiB).fit.fits is True


@pytest.mark.parametrize(
    ("name", "tokens", "batch", "tp"),
    [
        ("llama-3.1-8b", 131072, 8, 1),
        ("qwen2.5-32b", 131072, 2, 1),
        ("llama-3.1-70b", 131072, 1, 2),
        ("gpt-oss-120b", 131072, 64, 1),
    ],
)
def test_ways_out_hold_when_asked_again(name: str, tokens: int, batch: int, tp: int) -> None:
    asked = {"context_tokens": tokens, "batch": batch, "tp": tp}
    result = kvplan.size(name, machine=H100, **asked)
    assert result.fit.fits is False
    assert 2 <= len(result.fit.ways_out) <= 4
    assert any(way.fits for way in result.fit.ways_out)
    for way in result.fit.ways_out:
        if way.change.startswith("--"):
            again = kvplan.size(name, machine=H100, **(asked | options(way.change)))
            assert (again.fit.fits, again.fit.max_sequences) == (way.fits, way.max_sequences), way.change


def test_weights_that_do_not_fit() -> None:
    result = kvplan.size("llama-3.1-70b", machine=H100, context_tokens=8192)
    assert (result.fit.fits, result.fit.kv_pool_bytes, result.fit.max_context_tokens) == (False, 0, 0)
    assert any(way.fits and "--tp" in way.change for way in result.fit.ways_out)


def row(result: SizeResult, placement: str, kv_dtype: str):  # noqa: ANN201
    return next(one for one in result.offload if one.placement == placement and kv_dtype in (one.kv_dtype, *one.same))


def test_published_offload_figures() -> None:
    # 32 layers x 4096 hidden, fp16, 8k: 4 GiB; the last 1,024 tokens are 0.5 GiB (87.5 % saved); 80 % and 95 % off
    # leave 0.8 and 0.2 GiB;

    # int8 halves what 80 % leave: 90 % saved.
    result = ask(catalog.model("llama-2-7b"), engine=VLLM, context_tokens=8192, kv_dtype="fp16")
    kept = row(result, "last 1,024 on GPU", "fp16")
    assert (kept.gpu_bytes, kept.saved_fraction) == (GiB // 2, 0.875)
    assert row(result, "80 % on CPU", "fp16").gpu_bytes / GiB == pytest.approx(0.8, abs=1e-8)
    assert row(result, "95 % on CPU", "fp16").gpu_bytes / GiB == pytest.approx(0.2, abs=1e-8)
    assert row(result, "80 % on CPU", "int8").saved_fraction == pytest.approx(0.9, abs=1e-9)
    assert row(result, "all on GPU", "fp16").saved_fraction == 0


def test_offloaded_windows_and_states() -> None:
    # gpt-oss: the last 1,024 tokens hold 18 x 1,024 tokens of full layers and the 18 windows of 128 whole: 2,048 B a
    # token and layer.

    result = ask(catalog.model("gpt-oss-120b"), engine=VLLM, context_tokens=131072)
    assert row(result, "last 1,024 on GPU", "bf16").gpu_bytes == 18 * (1024 + 128) * 2048
    # A state never leaves the GPU.
    hybrid = ask(catalog.model("nemotron-3-nano-30b-a3b"), engine=VLLM, context_tokens=131072)
    assert min(one.gpu_bytes for one in hybrid.offload) >= hybrid.kv.state_bytes > 0


def test_both_prices_by_hand() -> None:
    # 80 % of 16 GiB = 13,743,895,347 bytes over a link of 54.9 GB/s take 250.3 ms, a piece of one layer or block 4.3 us more each, all
    # launched at once. A step is the longer of that and its computing; an idle reload has the engine's work as well.

    result = kvplan.size("llama-3.1-8b", machine=H100, context_tokens=131072)
    price = row(result, "80 % on CPU", "bf16").price
    assert price is not None
    link, moving = H100.link, 0.8 * 16 * GiB / H100.link.h2d_Bps
    assert 1 / price.streamed_tokens_per_s == pytest.approx(moving + 32 * link.copy_s + link.launch_s)
    assert price.streamed_added_s < moving
    blocks = round(0.8 * 131072) // 16
    block_s = VLLM.overhead.load_block_s + 32 * VLLM.overhead.load_piece_s + link.copy_s
    fixed = VLLM.overhead.load_s + blocks * block_s + 8192 * VLLM.overhead.submit_piece_s + link.launch_s
    assert price.idle_reload_s == pytest.approx(fixed + blocks * 16 * 131072 / link.h2d_Bps)
    assert price.idle_recompute_s > 10 * price.idle_reload_s
    both = row(result, "40 % CPU, 40 % disk", "bf16").price
    assert both is not None and both.streamed_added_s > price.streamed_added_s


def test_a_latent_vector_is_stored_as_the_engine_does() -> None:
    result = kvplan.size("deepseek-v3", machine="h200-sxm", tp=8, context_tokens=8192)
    assert result.tier_bytes_per_token == {"gpu": 8 * 70272, "cpu": 8 * 70272, "disk": 8 * 70272}
    result = kvplan.size("deepseek-v3", machine="h200-sxm", engine="lmcache", tp=8, context_tokens=8192)
    assert result.tier_bytes_per_token == {"gpu": 8 * 70272, "cpu": 70272, "disk": 70272}


MODELS = ["llama-3.1-8b", "gpt-oss-20b", "qwen3.5-27b", "mistral-7b-v0.1"]


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(MODELS),
    context=st.integers(1, 1 << 17),
    batch=st.integers(1, 64),
    pool=st.integers(1 << 20, 80 * GiB),
)
def test_fit_is_consistent(name: str, context: int, batch: int, pool: int) -> None:
    result = ask(catalog.model(name), engine=VLLM, context_tokens=context, batch=batch, pool_bytes=pool)
    assert result.kv.bytes_total == batch * result.kv.bytes_per_sequence
    assert result.fit.fits == (result.fit.max_sequences >= batch) == (result.fit.missing_bytes == 0)
    assert result.fit.max_sequences == int(result.engine.max_concurrency + 1e-9)
    if result.fit.fits:
        assert batch * result.engine.reserved_bytes_per_request <= pool
    longest = result.fit.max_context_tokens
    if longest and not result.fit.limited_by_model:
        assert ask(catalog.model(name), engine=VLLM, context_tokens=longest, batch=batch, pool_bytes=pool).fit.fits
        assert not ask(catalog.model(name), engine=VLLM, context_tokens=longest + 1, batch=batch, pool_bytes=pool).fit.fits


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch": 0},
        {"tp": 0},
        {"context_tokens": -1},
        {"gpu_fraction": 2.0},
        {"kv_dtype": "fp7"},
        {"dtype": "x"},
        {"ep": -1},
    ],
)
def test_questions_without_meaning(wrong: dict) -> None:
    with pytest.raises(InputError):
        kvplan.size("llama-3.1-8b", **wrong)


def test_more_than_the_host_can_pin_is_said() -> None:
    # 64 sequences of 16 GiB are 1 TiB; an L4 host has 128 GiB, of which 80 % can be pinned.
    result = kvplan.size("llama-3.1-8b", machine="l4", context_tokens=131072, batch=64)
    assert any("102.4 GiB that the host can pin" in text for text in result.warnings)


def test_the_default_context_of_a_small_card_is_what_fits() -> None:
    result = kvplan.size("llama-3.1-8b", machine="l4")
    assert result.fit.fits
    assert 0 < result.context_tokens < 131072
    assert kvplan.size("llama-3.1-8b", machine="l4", context_tokens=result.context_tokens + 16).fit.fits is False
    assert any("sized for" in text for text in result.warnings)
    assert kvplan.size("llama-3.1-8b", machine="l4", context_tokens=131072).fit.fits is False


def test_everything_on_the_cpu_or_the_disk_has_a_row_and_equal_rows_are_one() -> None:
    result = kvplan.size("llama-3.1-8b", machine=H100, context_tokens=8192)
    assert row(result, "all on CPU", "bf16").gpu_bytes == 0
    assert row(result, "95 % on disk", "bf16").disk_bytes == round(0.95 * 2**30)
    assert row(result, "80 % on CPU", "int8") is row(result, "80 % on CPU", "fp8")


def test_a_larger_share_of_the_gpu_is_a_way_out() -> None:
    longest = kvplan.size("qwen3-32b", machine=H100, context_tokens=4096).fit.max_context_tokens
    assert longest
    ways = kvplan.size("qwen3-32b", machine=H100, context_tokens=longest + 16).fit.ways_out
    assert ways[0].change == "--gpu-fraction 0.95" and ways[0].fits


def test_any_field_of_a_deployment_can_be_set() -> None:
    plain = kvplan.size("llama-3.1-8b", machine="h100-sxm", context_tokens=8192)
    assert plain.fit.kv_pool_bytes is not None
    wide = ask(
        catalog.model("llama-3.1-8b"),
        engine=catalog.engine("vllm"),
        machine=catalog.machine("h100-sxm"),
        context_tokens=8192,
        sets={"machine.gpu.memory_bytes": "100GiB", "engine.max_batch": "64"},
    )
    assert wide.fit.kv_pool_bytes is not None and wide.fit.kv_pool_bytes > plain.fit.kv_pool_bytes
    with pytest.raises(InputError, match="run.speedup is not a setting"):
        ask(catalog.model("llama-3.1-8b"), engine=catalog.engine("vllm"), sets={"run.speedup": "2"})


def test_a_tier_takes_what_the_engine_pins_and_a_container_needs_the_rest_too() -> None:
    import kvplan
    from kvplan.units import GiB

    # 2 x 28,672 tokens x 128 KiB = 7 GiB. vLLM 0.24 pins a tensor for each of 32 layers: 224 MiB each become 256: 8 GiB. With a disk
    # behind it the tier is one exact mapping. Limit: 8 + weights of 14.96 + 4 for the rank + 4 for the server, in whole GiB.
    found = kvplan.size("llama-3.1-8b", machine="h100-sxm", context_tokens=28_672, batch=2)
    rows = {row.placement: row for row in found.offload if row.kv_dtype == "bf16"}
    whole, both = rows["all on CPU"], rows["40 % CPU, 40 % disk"]
    assert (whole.cpu_bytes, whole.host_bytes, whole.limit_bytes) == (7 * GiB, 8 * GiB, 31 * GiB)
    assert both.host_bytes == pytest.approx(both.cpu_bytes, rel=0.01)
    assert rows["all on GPU"].limit_bytes == 0


def test_a_plan_says_what_its_tier_takes() -> None:
    import kvplan

    found = kvplan.plan("chat")
    assert found.host is not None
    assert found.host.taken_bytes >= found.placement.cpu_bytes
    assert found.host.limit_bytes > found.host.taken_bytes


def test_a_latent_model_sets_memory_aside_for_prefills_that_expand_it() -> None:
    from kvplan.memory.pool import activation_bytes
    from tests.deployed import deployed

    # DeepSeek-V3 on 8 ranks, 16 sequences: 65,536 tokens x 16 heads x (128 + 128) x 2 B = 0.54 GB, beside 8,192 x 6 rows of 7,168 in bf16.
    # Without it the widest expert activations would count: 8,192 x (6 x 7,168 + 8 x 2,048 x 3 / 8) x 2 B = 0.81 GB.
    made = deployed("deepseek-v3", tp=8, machine="a100-sxm-80gb")
    memory = msgspec.structs.replace(made.engine.memory, profile_batch=16)
    told = made.changed(engine=msgspec.structs.replace(made.engine, memory=memory, step_tokens=8192))
    assert activation_bytes(told) == 65_536 * 16 * 256 * 2 + 8_192 * 6 * 7_168 * 2
    sparse = deployed("deepseek-v3.2", tp=8, machine="a100-sxm-80gb")  # attends to latents as they are
    assert activation_bytes(sparse.changed(engine=told.engine)) < activation_bytes(told)


def test_fewer_sequences_at_once_leave_room_for_kv() -> None:
    """gpt-oss-120b on one H100: sampling 1,024 sequences of 201,088 logits takes 1,024 x 201,088 x 38.9 bytes = 7.5 GiB."""
    asked = {"machine": H100, "context_tokens": 131_072}
    result = kvplan.size("gpt-oss-120b", **asked)
    assert not result.fit.fits and result.fit.gpu["activations"] == pytest.approx(1024 * 201_088 * 38.9, rel=0.01)
    assert any(way.change == "--max-batch 256" and way.fits for way in result.fit.ways_out)
    told = kvplan.size("gpt-oss-120b", max_batch=256, **asked)
    assert told.fit.fits and told.fit.gpu["activations"] == pytest.approx(256 * 201_088 * 38.9, rel=0.01)
    command = ["size", "gpt-oss-120b", "--machine", "h100-sxm", "--ctx", "128k", "--json"]
    assert guarded(main, [*command, "--set", "engine.max_batch=256"]) == 0
    assert guarded(main, [*command, "--max-batch", "-1"]) == 2


def test_a_pool_that_is_given_has_room_beside_the_weights() -> None:
    def beyond(size: int) -> bool:
        return any("beside weights" in text for text in kvplan.size("llama-3.1-8b", machine=H100, pool_bytes=size).warnings)

    assert not beyond(60 * GiB)
    assert beyond(70 * GiB)  # 15 GiB of weights, 79.2 GiB of memory
