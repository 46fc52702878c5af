"""One file holds an engine at every version: what each version is, and that no fact of any is misspelt."""

from __future__ import annotations

import msgspec
import pytest

import kvplan
from kvplan import catalog, scenario
from kvplan.engine.versions import at_version, order
from kvplan.errors import InputError


def test_changes_hold_from_their_version_on_and_touch_only_what_they_name() -> None:
    written = {
        "name": "x",
        "version": "2.0",
        "offload": {"store": "write_through", "load": "blocking"},
        "changes": [{"since": "1.10", "offload": {"load": "layerwise"}}, {"since": "1.9", "offload": {"load": "whole_request"}}],
    }
    assert at_version(written, "1.8")["offload"]["load"] == "blocking"
    assert at_version(written, "1.9.3")["offload"] == {"store": "write_through", "load": "whole_request"}
    assert at_version(written, "1.10")["offload"]["load"] == "layerwise"  # 10 comes after 9


@pytest.mark.parametrize("name", catalog.names("engines"))
def test_every_version_named_in_a_file_is_a_valid_engine(name: str) -> None:
    written = msgspec.toml.decode(catalog.resolve("engines", name).read_text())
    for change in written.get("changes", ()):
        assert catalog.engine(name, change["since"]).version == change["since"]
        assert order(change["since"]) > (0,)
    assert catalog.engine(name).version == str(written.get("version", "0.24.0"))


def test_what_changed_in_vllm() -> None:
    old, default, new = (catalog.engine("vllm", version) for version in ("0.10.1", "", "0.33.0"))
    assert default.version == "0.24.0"
    assert (old.gpu_fraction, default.gpu_fraction) == (0.9, 0.92)
    assert (default.offload.latent_per_rank, new.offload.latent_per_rank) == (True, False)
    assert new.offload.row_multiple_bytes == 4096
    assert catalog.engine("streamed", "0.10").gpu_fraction == 0.9  # what follows vLLM follows its version


def test_an_engine_that_cannot_be_a_version_is_refused() -> None:
    with pytest.raises(InputError, match="not a version"):
        catalog.engine("vllm@newest")


def test_the_state_of_nemotron_h_by_engine_and_version() -> None:
    """Config without a state dtype: the model's at first, float16 from 0.13, float32 from 0.20 on and in SGLang. nemotron-h-56b, one
    sequence: 54 x 256 x 64 x 256 elements.
    """
    elements = 54 * 256 * 64 * 256

    def states(engine: str) -> int:
        return kvplan.size("nemotron-h-56b", engine=catalog.engine(engine), context_tokens=1024).kv.state_bytes

    conv = states("vllm@0.12") - 2 * elements
    assert states("vllm@0.13") == states("vllm@0.12")  # both take two bytes
    assert states("vllm") == states("sglang") == 4 * elements + conv


def test_sparse_latents_keep_fp8_in_rows_of_656_bytes_on_every_gpu() -> None:
    for machine in ("h200-sxm", "b200-sxm"):
        assert (
            kvplan.size("deepseek-v3.2", machine=machine, tp=8, kv_dtype="fp8", context_tokens=4096).engine.stored_kv_dtype == "fp8_ds_mla"
        )


@pytest.mark.parametrize(
    "setting",
    [
        "engine.kernel_share=0",
        "engine.null_blocks=-100000",
        "engine.block_tokens=0",
        "engine.offload.streamed_share=2",
        "engine.overhead.load_s=-1",
        "engine.gpu_fraction=1.5",
        "run.tp=0",
        "cluster.replicas=0",
        "remote.parallel=0",
    ],
)
def test_numbers_without_meaning_are_refused_by_their_type(setting: str) -> None:
    path = setting.partition("=")[0]
    with pytest.raises(InputError, match=path):
        scenario.load("none.jsonl", model="llama-3.1-8b", machine="h100-sxm", sets=(setting,))


def test_kinds_of_parallelism_that_are_not_built_are_refused_by_name() -> None:
    with pytest.raises(InputError, match="parallel.cp"):
        scenario.load("none.jsonl", model="llama-3.1-8b", machine="h100-sxm", sets=("parallel.cp=2", "machine.gpus=8"))
    for setting in ("parallel.dp=2", "parallel.pp=2"):
        scenario.load("none.jsonl", model="llama-3.1-8b", machine="h100-sxm", sets=(setting, "machine.gpus=8"))


@pytest.mark.parametrize(
    ("engine", "machine", "tokens"),
    [
        *[("vllm", "h100-sxm", 8192), ("vllm", "a100-sxm-80gb", 2048), ("vllm", "l40s", 2048), ("lmcache", "rtx-4090", 2048)],
        *[("sglang", "rtx-4090", 4096), ("sglang", "a100-sxm-80gb", 8192), ("sglang", "b200", 16384), ("trtllm", "l40s", 8192)],
    ],
)
def test_tokens_of_a_step_are_what_the_engine_takes_on_such_a_gpu(engine: str, machine: str, tokens: int) -> None:
    one = scenario.load("none.jsonl", model="llama-3.1-8b", machine=machine, engine=engine)
    assert one.engine.step_tokens == tokens
    by_hand = scenario.load("none.jsonl", model="llama-3.1-8b", machine=machine, engine=engine, sets=("engine.step_tokens=1000",))
    assert by_hand.engine.step_tokens == 1000
