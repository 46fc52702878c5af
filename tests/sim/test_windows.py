"""Windows and states in the GPU pool: a sequence takes what the engine's groups take; what left a window stays cached for a while."""

from __future__ import annotations

import msgspec
import pytest

from kvplan import catalog
from kvplan.deployment import Deployment
from kvplan.memory.layout import Layout, layout
from kvplan.request import Request
from kvplan.sim.cache.footprint import footprint
from kvplan.sim.cache.gpu_cache import GpuCache
from kvplan.sim.replica.sequence import Sequence
from tests.sim.runs import run

VLLM = catalog.engine("vllm")


def layout_of(name: str) -> Layout:
    return layout(Deployment(model=catalog.model(name), engine=VLLM))


def prompts(count: int, tokens: int, output: int) -> list[Request]:
    blocks = tokens // 16
    return [
        Request(index=at, arrival_s=0.0, prompt_tokens=tokens, output_tokens=output, blocks=tuple(range(at * blocks, (at + 1) * blocks)))
        for at in range(count)
    ]


def test_footprint_of_gemma() -> None:
    # 8 of 48 layers keep every token: one group; 40 have a window of 1,024 tokens: five groups. A block of 16 tokens is
    # 8 layers long. Decoding at 2,048 tokens: 128 blocks, and 5 x (1,024 / 16 + 1) = 325 beside.
    found = footprint(layout_of("gemma-3-12b"))
    assert (found.unit, found.unit_blocks, found.slid) == (16, 1, 5 * 16)
    assert found.held(2048 // 16) == 325 * 16
    # A short one keeps all: 10 blocks in each group. A chunk of 8,192 tokens: 5 x (ceil(9,215 / 16) + 1) = 5 x 577.
    assert found.held(10) == 50 * 16
    assert found.held(65_536 // 16, 8192) == 5 * 577 * 16


@pytest.mark.parametrize(
    "name", ["llama-3.1-8b", "gemma-3-12b", "gpt-oss-20b", "llama-4-scout", "qwen3-next-80b-a3b", "nemotron-3-nano-30b-a3b"]
)
def test_a_request_takes_what_size_says(name: str) -> None:
    # The engine sets aside a block more in each window group for contexts that no window cuts.
    blocks, plan = layout_of(name), footprint(layout_of(name))
    for tokens in (32_768, 65_536):
        assert plan.request(tokens) * plan.unit_blocks / plan.unit == pytest.approx(blocks.request_blocks(tokens), abs=plan.unit_blocks)


def test_windows_keep_what_steps_in_flight_compute() -> None:
    # Until vLLM 0.24 a window is moved on when a step is scheduled: 5 x (ceil((1,023 + 8,192) / 16) + 1) = 5 x 577 blocks beside a long
    # prompt. From 0.26 on it stays until the step is handled, and two are in flight: 5 x (ceil((1,023 + 16,384) / 16) + 1) = 5 x 1,089.
    # The size command and the simulator's admission say the same: a prompt of 32,768 tokens takes 2,048 blocks more.
    for version, beside in (("0.24", 5 * 577), ("0.26", 5 * 1089)):
        engine = catalog.engine("vllm", version)
        blocks = layout(Deployment(model=catalog.model("gemma-3-12b"), engine=engine))
        assert blocks.request_blocks(32_768) == 2048 + beside
        assert footprint(blocks).request(32_768) == (2048 + beside) * 16
        for spare, status in ((0, 1), (1, 0)):  # one block holds no tokens, the answer takes one
            result, _ = run(
                prompts(1, 32_767, 1), model="gemma-3-12b", version=version, gpu_kv=f"{(2048 + beside + spare) * blocks.block_bytes}B"
            )
            assert (result.requests.completed, result.requests.rejected) == (1 - status, status)


def test_a_chunk_is_computed_beside_the_one_in_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    # Gemma 3 12B, 12,288 tokens in steps of 4,096, 256 blocks each. The second and third chunks keep, in each of five groups,
    # ceil((1,023 + 4,096) / 16) + 1 = 321 blocks in 0.24; in 0.26 all 512 there are, and ceil((1,023 + 8,192) / 16) + 1 = 577.
    held: list[int] = []
    allocate = GpuCache.allocate

    def noted(self: GpuCache, seq: Sequence, *others: int) -> bool:
        fits = allocate(self, seq, *others)
        held.append(seq.beside)
        return fits

    monkeypatch.setattr(GpuCache, "allocate", noted)
    for version, kept in (("0.24", [256, 321, 321]), ("0.26", [256, 512, 577])):
        held.clear()
        run(prompts(1, 12_288, 2), model="gemma-3-12b", version=version, gpu_kv="64GiB", sets={"engine.step_tokens": 4096})
        assert held[:3] == [5 * blocks * 16 for blocks in kept]


def test_long_prompts_of_a_window_model_run_in_24_GiB() -> None:
    # 24 GiB are 236,958 tokens as the engine prints them for 32,768: 3 prompts of 65,536 tokens do not fit if every layer
    # keeps every token (12 GiB for 32,768), and do with windows: 2 GiB of growth each and 5 windows of a step.
    result, built = run(prompts(3, 65_536, 8), model="gemma-3-12b", gpu_kv="24GiB")
    assert (result.requests.completed, result.requests.rejected) == (3, 0)
    assert built.tiers[0].peak_tokens <= built.tiers[0].capacity_tokens


def test_decoding_past_a_window_needs_no_more_than_growth() -> None:
    # One sequence of gpt-oss-20b decodes from 256 to 2,304 tokens: 144 blocks in the full group and 128 / 16 + 1 in the window
    # group, beside those of 2 sequences before it whose content stays cached. Nothing is preempted in a pool of just that.
    small = layout(Deployment(model=catalog.model("gpt-oss-20b"), engine=msgspec.structs.replace(VLLM, step_tokens=256)))
    need, block = footprint(small).request(2304) // 16, small.block_bytes
    for jump in (True, False):
        result, built = run(
            prompts(1, 256, 2048), model="gpt-oss-20b", gpu_kv=f"{(need + 1) * block}B", sets={"run.jump": jump, "engine.step_tokens": 256}
        )
        assert (result.requests.completed, result.requests.preempted) == (1, 0)
        assert built.tiers[0].used_tokens == built.tiers[0].evictable_tokens


def test_what_left_a_window_is_evicted_like_other_content() -> None:
    # A: 1,600 tokens of gpt-oss-20b (window 128): 100 blocks of growth; 100 window blocks were allocated, of which all but the last
    # 9 leave when it takes its second step. In a pool of 210 blocks all of it is cached. B, 50 blocks of growth and 50 of windows,
    # takes the place of the oldest: A's window blocks, which left before A ended. A again: 99 blocks hit.
    # With one token A takes no second step, and all 100 window blocks are freed at its end, the tail first and group by group: B takes
    # 90 of them, and only 10 blocks are left in both groups.
    block = layout_of("gpt-oss-20b").block_bytes
    for output, blocks in ((2, 99), (1, 10)):
        first, second = prompts(2, 1600, output)
        again = Request(index=2, arrival_s=20.0, prompt_tokens=1600, output_tokens=1, blocks=first.blocks)
        other = Request(index=1, arrival_s=10.0, prompt_tokens=800, output_tokens=1, blocks=second.blocks[:50])
        result, _ = run([first, other, again], model="gpt-oss-20b", gpu_kv=f"{211 * block}B")
        assert result.prompt_tokens.gpu_hit == blocks * 16


def test_a_preempted_sequence_finds_its_window_blocks_again() -> None:
    # Gemma 3 12B, 128 prompts of 512 tokens and 96 more each in a pool of 65,536 tokens (24,575 blocks of six groups): 124 run, and at
    # each block boundary of 16 of them a block for each group is lacking. vLLM 0.24 with a connector preempts all behind the first that
    # goes without; one step later they are back, each with its blocks of all groups in place but for those of the last.
    _, built = run(prompts(128, 512, 96), model="gemma-3-12b", machine="h200-sxm", gpu_kv="24GiB", cpu="24GiB")
    taken = built.recorder.arrays()
    assert int(taken["preemptions"].sum()) > 300
    assert float(taken["load_s"].sum()) < 1.0
