"""Each warning speaks when it should, with the right numbers, and is silent otherwise."""

from __future__ import annotations

import msgspec

from kvplan import catalog
from kvplan.deployment import Deployment
from kvplan.engine.spec import Offload
from kvplan.model import Layers, ModelSpec
from kvplan.planning.traps import Case, Workload, warnings
from kvplan.results.placement import Notice, Placement
from kvplan.units import GiB, TiB

GROUPED = Layers(kind="full", count=32, query_heads=32, kv_heads=8, k_dim=128, v_dim=128)
LLAMA = ModelSpec(name="grouped", depth=32, hidden=4096, vocab=128256, layers=(GROUPED,), ffn=(), max_context_tokens=131072)
# 32 layers x 8 heads x 128 x 2 (K and V) x 2 bytes
LLAMA_TOKEN_BYTES = 131_072

SHIPPED = catalog.machine("h100-sxm")
LINK = msgspec.structs.replace(SHIPPED.link, h2d_Bps=54.9e9, small_copy_bytes=28_672)
MACHINE = msgspec.structs.replace(SHIPPED, link=LINK)
"""The numbers that the arithmetic below uses, whatever is measured next."""

QUIET = Case(
    deployment=Deployment(model=LLAMA, server=MACHINE, engine=catalog.engine("vllm")),
    placement=Placement(model="grouped", cpu_bytes=100 * GiB),
    workload=Workload(longest_prompt_tokens=30_000, reused_prefix_tokens=20_000, prefix_sharers=2),
    pool_bytes=50 * GiB,
    pool_tokens=50 * GiB // LLAMA_TOKEN_BYTES,
    token_bytes=LLAMA_TOKEN_BYTES,
)


def change(case: Case = QUIET, **fields: object) -> Case:
    """A case with other fields; those of a placement, workload or engine's offload rules are given as `part__field`."""
    for path, value in fields.items():
        part, _, name = path.partition("__")
        if name:
            value = msgspec.structs.replace(getattr(case, part), **{name: value})
        if part in ("model", "engine", "machine"):
            case = msgspec.structs.replace(case, deployment=case.deployment.changed(**{part: value}))
        else:
            case = msgspec.structs.replace(case, **{part: value})
        if part == "pool_bytes":
            case = msgspec.structs.replace(case, pool_tokens=int(case.pool_bytes / case.token_bytes))
        if part == "placement":
            case = msgspec.structs.replace(case, deployment=_deployed(case))
    return case


def _deployed(case: Case) -> Deployment:
    """The deployment that the placement decides, as a plan realises it."""
    engine, placement = case.engine, case.placement
    offload = msgspec.structs.replace(engine.offload, chunk_tokens=placement.chunk_tokens)
    changed = msgspec.structs.replace(engine, offload=offload, block_tokens=placement.block_tokens or engine.block_tokens)
    return case.deployment.changed(engine=changed, tp=placement.tp, kv_dtype=placement.kv_dtype)


def found(case: Case) -> dict[str, Notice]:
    return {notice.code: notice for notice in warnings(case) if notice.level != "note"}


def test_a_sound_case_raises_no_warning() -> None:
    assert found(QUIET) == {}


def test_nothing_offloaded_raises_nothing_about_offloading() -> None:
    assert warnings(change(placement__cpu_bytes=0)) == ()


def test_tier_smaller_than_the_pool() -> None:
    same = found(change(placement__cpu_bytes=50 * GiB))["tier_adds_nothing"]
    assert "50.0 GiB" in same.sentence
    assert "100.0 GiB" in same.hint
    assert "small_tier" in found(change(placement__cpu_bytes=100 * GiB - 1))
    # What is stored only on eviction does not repeat the pool.
    assert found(change(placement__cpu_bytes=50 * GiB, placement__store="on_evict")) == {}


def test_multi_head_model() -> None:
    # Llama-2-7B: 32 layers x 32 heads x 128 x 2 x 2 = 524,288 bytes = 512 KiB a token
    heads = Layers(kind="full", count=32, query_heads=32, kv_heads=32, k_dim=128, v_dim=128)
    case = change(model__layers=(heads,), token_bytes=524_288)
    assert "512.0 KiB" in found(case)["multi_head"].sentence
    assert "multi_head" not in found(change(case, token_bytes=262_144))  # the same model at 8 bits


def test_copies_below_the_cliff() -> None:
    # One layer of a block of 16 tokens on one of 8 ranks: 16 x 1 head x 128 x 2 x 2 = 8,192 bytes < 28,672.
    single = msgspec.structs.replace(QUIET.engine, offload=Offload(copy_layers="one"))
    case = change(engine=single, placement__tp=8, placement__block_tokens=16)
    assert "8.0 KiB" in found(case)["small_copies"].sentence
    # Blocks of 64 tokens: 32,768 bytes; chunks of 64 still lie in blocks of 16. All 32 layers together: 262,144 bytes.
    assert "small_copies" not in found(change(case, placement__block_tokens=64))
    assert "small_copies" in found(change(case, placement__chunk_tokens=64))
    assert "small_copies" not in found(change(placement__tp=8, placement__block_tokens=16))
    # 8-bit KV halves the 64-token piece to 16,384 bytes.
    assert "small_copies" in found(change(case, placement__block_tokens=64, placement__kv_dtype="fp8"))


def test_disk_for_short_prefixes() -> None:
    disk = change(placement__disk_bytes=TiB, placement__disk_path="/kv")
    assert found(disk) == {}
    short = found(change(disk, workload__reused_prefix_tokens=2_000))
    assert "2,000 tokens" in short["disk_short_prefix"].sentence
    assert found(change(disk, workload__reused_prefix_tokens=0)) == {}  # unknown is not short


def test_convoy_behind_a_shared_prefix() -> None:
    case = change(workload__prefix_sharers=40, workload__shared_prefix_tokens=100_000)
    # 100,000 x 131,072 bytes / 54.9e9 B/s = 0.2387 s
    notice = found(case)["convoy"]
    assert "40 requests" in notice.sentence
    assert "239 ms" in notice.sentence
    layerwise = msgspec.structs.replace(QUIET.engine, offload=Offload(load="layerwise"))
    assert found(change(case, engine=layerwise)) == {}
    assert found(change(case, workload__prefix_sharers=7)) == {}


def test_host_memory_and_pinning_time() -> None:
    # 2 TiB x 0.8 = 1638.4 GiB can be pinned.
    assert found(change(placement__cpu_bytes=1638 * GiB)) == {}
    assert found(change(placement__cpu_bytes=1639 * GiB))["host_exhausted"].level == "error"
    assert "host_exhausted" in found(change(placement__cpu_bytes=820 * GiB, replicas=2))
    # 500 GiB x 8e-11 s/B = 42.9 s
    notices = {notice.code: notice for notice in warnings(change(placement__cpu_bytes=500 * GiB))}
    assert "42.9 s" in notices["slow_start"].sentence


def test_latent_kv_on_every_rank() -> None:
    latent = Layers(kind="latent", count=61, query_heads=128, latent_dim=576)
    copies = msgspec.structs.replace(QUIET.engine, offload=Offload(latent_per_rank=True))
    case = change(engine=copies, model__layers=(latent,), placement__tp=8, placement__block_tokens=64)
    assert "1/8" in found(case)["latent_per_rank"].sentence
    assert found(change(case, placement__tp=1)) == {}
    once = msgspec.structs.replace(QUIET.engine, offload=Offload(latent_per_rank=False))
    assert "latent_per_rank" not in found(change(case, engine=once))


def test_pool_too_small_for_one_long_request() -> None:
    # 2 GiB / 131,072 bytes = 16,384 tokens
    case = change(pool_bytes=2 * GiB)
    assert found(case)["pool_too_small"].level == "error"
    assert "16,384 tokens" in found(case)["pool_too_small"].sentence
    assert found(change(pool_bytes=4 * GiB))["pool_too_small"].level == "warning"  # 32,768: one of 30,000 at a time
    assert "pool_too_small" not in found(change(pool_bytes=8 * GiB))


def test_the_gravest_come_first() -> None:
    case = change(pool_bytes=2 * GiB, placement__cpu_bytes=3 * TiB)
    assert [notice.level for notice in warnings(case)][:2] == ["error", "error"]
