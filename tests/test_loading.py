"""One load against arithmetic: bytes of the connector's keys over the links, and the same break-even wherever it is asked for."""

from __future__ import annotations

import math

import msgspec
import pytest

import kvplan
from kvplan import scenario
from kvplan.deployment import Remote, Tiers
from kvplan.loading import Loading
from kvplan.planning.closed_form import worth
from kvplan.scenario import Scenario
from tests.deployed import deployed

GiB = 2**30


def test_a_window_model_loads_its_full_layers_and_one_window() -> None:
    # gemma-3-12b: 4,096 + 320 rows of 1 MiB, in pieces of one layer as its groups share tensors: 8 a row, 8,192 of them handed over first.
    made = deployed("gemma-3-12b", machine="h200-sxm")
    link, overhead, keys = made.machine.link, made.overhead, 4416
    by_hand = (
        overhead.load_s
        + (overhead.load_block_s + 8 * overhead.load_piece_s) * keys
        + 8192 * overhead.submit_piece_s
        + link.launch_s
        + 8 * keys * link.copy_s
        + keys * 2**20 / link.h2d_Bps
    )
    assert Loading(made).load_s("cpu", 65536) == pytest.approx(by_hand)


def test_every_rank_loads_its_own_copy_of_a_latent_over_its_own_link() -> None:
    one, eight = (Loading(deployed("deepseek-r1", machine="h200-sxm", tp=tp)) for tp in (1, 8))
    assert one.path_s("cpu", 8192) == eight.path_s("cpu", 8192)
    assert eight.path_s("disk", 8192) > 4 * one.path_s("disk", 8192)  # the disk holds a copy for each rank
    shared = Loading(deployed("deepseek-r1", "lmcache", "h200-sxm", tp=8))
    alone = Loading(deployed("deepseek-r1", "lmcache", "h200-sxm", tp=1))
    assert shared.path_s("disk", 8192) == alone.path_s("disk", 8192)


def test_a_remote_pool_is_never_faster_than_what_it_gives_to_all() -> None:
    # 8,192 tokens x 131,072 bytes = 1.074 GB at 1 GB/s.
    made = deployed("llama-3.1-8b", machine="h100-sxm").changed(remote=Remote(total_Bps=1e9), tiers=Tiers(remote_bytes=GiB))
    found = Loading(made)
    assert found.link_s("remote", found.below.loaded(8192)) == pytest.approx(1.0737, abs=0.01)


def test_few_thread_blocks_load_slower_than_the_link_and_store_as_fast() -> None:
    # sglang 0.5.17 reads host memory at 0.79 of the 50.5 GB/s of a kernel with many thread blocks: 8,192 tokens of 128 KiB in 26.9 ms.
    found = Loading(deployed("llama-3.1-8b", "sglang@0.5.17", "h100-sxm"))
    newer = Loading(deployed("llama-3.1-8b", "sglang@0.5.23", "h100-sxm"))
    assert found.path_s("cpu", 8192) == pytest.approx(2**30 / (0.79 * 50.5e9), rel=1e-6)
    assert newer.path_s("cpu", 8192) == pytest.approx(2**30 / 50.5e9, rel=1e-6)
    moved = found.below.stored(8192)
    assert found.host_copy_s(1, moved) == newer.host_copy_s(1, moved)


def test_without_a_network_nothing_comes_from_afar() -> None:
    machine = msgspec.structs.replace(deployed("llama-3.1-8b", machine="h100-sxm").machine, network=None)
    assert math.isinf(Loading(deployed("llama-3.1-8b", machine=machine)).break_even_tokens("remote"))
    reached = deployed("llama-3.1-8b", machine=machine).changed(remote=Remote(client_Bps=1e10))
    assert math.isfinite(Loading(reached).load_s("remote", 8192))


@pytest.mark.parametrize(("model", "machine"), [("llama-3.1-8b", "h100-sxm"), ("llama-3.1-8b", "l4"), ("llama-3.3-70b", "h200-sxm")])
def test_size_and_plan_name_one_break_even(model: str, machine: str) -> None:
    tp = 1 if model == "llama-3.1-8b" else 2
    base = scenario.load("none.jsonl", model=model, machine=machine, tiers={"gpu_kv": "20GiB"}, run={"tp": tp}, sets=("machine.gpus=2",))
    price = kvplan.size(model, machine=base.machine, tp=tp, context_tokens=8192).offload[1].price
    assert price is not None
    assert price.idle_break_even_tokens == worth(base, "cpu", 8192).break_even_tokens.value


def test_a_disk_that_pays_for_a_latent_pays_in_plan_too() -> None:
    """By vLLM 0.24's rule a disk of 1 GB/s holds the latent of deepseek-r1 eight times on TP 8 and never pays; one copy pays soon."""
    machine = deployed("deepseek-r1", machine="h200-sxm").machine
    machine = msgspec.structs.replace(machine, disk=msgspec.structs.replace(machine.disk, read_Bps=1e9))
    once, ranks = (deployed("deepseek-r1", machine=machine, tp=8, latent_per_rank=copies) for copies in (False, True))
    assert Loading(once).break_even_tokens("disk") < 1000
    assert math.isinf(Loading(ranks).break_even_tokens("disk"))
    said = worth(Scenario(name="", trace="", deployment=once), "disk", 8192).break_even_tokens.value
    assert said == Loading(once).break_even_tokens("disk")
