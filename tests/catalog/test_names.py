"""Models and machines by the names that people have for them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kvplan import catalog
from kvplan.catalog.machines import known, of_gpu
from kvplan.errors import InputError
from kvplan.memory.weights import weight_bytes
from kvplan.units import GiB


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("Qwen/Qwen2.5-32B-Instruct", "qwen2.5-32b"),
        ("Qwen2.5-32B-Instruct", "qwen2.5-32b"),
        ("meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-8b"),
        ("meta-llama/Meta-Llama-3.1-8B", "llama-3.1-8b"),
        ("meta-llama/Llama-2-7b-chat-hf", "llama-2-7b"),
        ("google/gemma-3-27b-it", "gemma-3-27b"),
        ("mistralai/Mistral-7B-Instruct-v0.3", "mistral-7b-v0.3"),
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", "mixtral-8x7b"),
        ("meta-llama/Llama-4-Scout-17B-16E-Instruct", "llama-4-scout"),
        ("mistralai/Mistral-Small-3.2-24B-Instruct-2506", "mistral-small-24b"),
        ("deepseek-ai/DeepSeek-R1-0528", "deepseek-r1"),
        ("Qwen/Qwen3-32B-FP8", "qwen3-32b-fp8"),
        ("openai/gpt-oss-20b", "gpt-oss-20b"),
    ],
)
def test_a_hugging_face_id_is_the_catalogs_model(asked: str, name: str) -> None:
    assert catalog.model(asked) == catalog.model(name)


@pytest.mark.parametrize(
    ("asked", "name", "bits"),
    [
        # 4 bits and, for each group of 128, a scale and a packed zero point: 4 + (16 + 4) / 128
        ("Qwen/Qwen2.5-32B-Instruct-AWQ", "qwen2.5-32b", 4.15625),
        ("hugging-quants/Meta-Llama-3.1-8B-Instruct-AWQ-INT4", "llama-3.1-8b", 4.15625),
        ("Qwen/Qwen2.5-72B-Instruct-GPTQ-Int8", "qwen2.5-72b", 8 + 24 / 128),
        ("RedHatAI/Llama-3.3-70B-Instruct-FP8-dynamic", "llama-3.3-70b", 8),
        ("nvidia/Llama-3.1-8B-Instruct-NVFP4", "llama-3.1-8b", 4.5),
        ("neuralmagic/Meta-Llama-3.1-8B-Instruct-quantized.w8a8", "llama-3.1-8b", 8),
        ("Intel/Qwen3-30B-A3B-int4-AutoRound", "qwen3-30b-a3b", 4.15625),
        ("QuantTrio/Qwen3-8B-AWQ-INT8", "qwen3-8b", 8 + 24 / 128),
        ("ModelCloud/Qwen3-8B-gptqmodel-4bit", "qwen3-8b", 4.15625),
        ("google/gemma-3-12b-it-qat-w4a16-ct", "gemma-3-12b", 4.15625),
        ("nvidia/Kimi-K2-NVFP4", "kimi-k2", 4.5),
        ("unsloth/llama-3-8b-bnb-4bit", "llama-3-8b", 4 + 8 / 64 + 32 / (64 * 256)),
    ],
)
def test_a_quantised_variant_has_the_shape_of_its_base_and_fewer_bits(asked: str, name: str, bits: float) -> None:
    found, base = catalog.model(asked), catalog.model(name)
    assert (found.layers, found.ffn, found.vocab) == (base.layers, base.ffn, base.vocab)
    assert found.quantization is not None
    assert found.quantization.bits["attention"] == found.quantization.bits["dense"] == pytest.approx(bits)
    assert any("by rule" in note for note in found.notes)


def test_a_name_that_says_bf16_is_not_quantised_though_its_base_is() -> None:
    # gpt-oss-20b ships its experts in 4 bits; 20.9 B parameters in bf16 are 38.9 GiB.
    wide = catalog.model("unsloth/gpt-oss-20b-BF16")
    assert wide.quantization is None
    assert weight_bytes(wide) / GiB == pytest.approx(38.95, rel=0.01)
    assert catalog.model("unsloth/Kimi-K2.5-BF16").quantization is None  # said in its nested part
    assert catalog.model("google/gemma-3-12b-it-qat-int4-unquantized") == catalog.model("gemma-3-12b")


def test_a_variant_takes_the_place_of_what_its_base_is_stored_in() -> None:
    found = catalog.model("nvidia/Kimi-K2.5-NVFP4").quantization
    assert found and found.method == "modelopt" and found.bits["attention"] == 4.5


def test_a_dated_release_keeps_its_own_context() -> None:
    assert catalog.model("Qwen/Qwen3-30B-A3B-Instruct-2507").max_context_tokens == 262144
    assert catalog.model("Qwen/Qwen3-30B-A3B").max_context_tokens == 40960


@pytest.mark.parametrize(("asked", "first"), [("lama-3.1-8b", "llama-3.1-8b"), ("Foo/Qwen2.5-32B-v2-Instruct", "qwen2.5-32b")])
def test_suggestions_put_the_nearest_name_first(asked: str, first: str) -> None:
    with pytest.raises(InputError) as refused:
        catalog.model(asked)
    assert refused.value.hint.startswith(f"did you mean {first}")


def test_a_fine_tune_is_not_taken_for_its_base() -> None:
    with pytest.raises(InputError):
        catalog.model("NousResearch/Hermes-3-Llama-3.1-8B")


@pytest.mark.parametrize(
    ("asked", "machine", "gpus"),
    [
        ("p5.48xlarge", "h100-sxm", 8),
        ("P4DE.24XLARGE", "a100-sxm-80gb", 8),
        ("a3-highgpu-8g", "h100-sxm", 8),
        ("g6.xlarge", "l4", 1),
        ("ND H100 v5", "h100-sxm", 8),
        ("Standard_ND96isr_H200_v5", "h200-sxm", 8),
        ("BM.GPU.H100.8", "h100-sxm", 8),
    ],
)
def test_a_clouds_server_has_the_rates_of_its_gpu(asked: str, machine: str, gpus: int) -> None:
    found = catalog.machine(asked)
    assert found.gpus == gpus
    assert found.gpu == catalog.machine(machine).gpu
    assert found.provenance["gpus"].kind == "assumed"


def test_host_memory_is_the_servers() -> None:
    assert catalog.machine("p5.48xlarge").host.memory_bytes == 2048 * GiB


@pytest.mark.parametrize(
    ("product", "machine"),
    [
        ("NVIDIA H100 80GB HBM3", "h100-sxm"),
        ("NVIDIA A100-SXM4-40GB", "a100-sxm-40gb"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("Tesla T4", ""),
    ],
)
def test_a_gpu_by_the_name_that_its_driver_reports(product: str, machine: str) -> None:
    assert of_gpu(product) == machine


def test_every_name_leads_to_a_shipped_machine() -> None:
    shipped = set(catalog.names("machines"))
    assert {server.machine for server in known().servers.values()} | set(known().gpus.values()) <= shipped


def test_the_local_cache_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--org--Mine-3B"
    snapshot = folder / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    config = {"model_type": "llama", "num_hidden_layers": 4, "hidden_size": 256, "num_attention_heads": 8, "intermediate_size": 512}
    (snapshot / "config.json").write_text(json.dumps({**config, "num_key_value_heads": 2, "vocab_size": 1000, "torch_dtype": "bfloat16"}))
    (snapshot / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": 7_000_000}}))
    found = catalog.model("org/Mine-3B")
    assert (found.name, found.depth, found.declared_params) == ("Mine-3B", 4, 3_500_000)


def test_engines_that_are_each_others_base_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "loop.toml"
    path.write_text(f'name = "loop"\nbase = "{path}"\n')
    with pytest.raises(InputError, match="each other's base"):
        catalog.engine(str(path))


@pytest.mark.parametrize("ending", ["toml", "json"])
def test_files_that_are_nested_too_deeply_are_refused(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"deep.{ending}"
    path.write_text("a=" + "[" * 3000 if ending == "toml" else '{"a":' * 20_000)
    with pytest.raises(InputError, match="nested too deeply"):
        catalog.machine(str(path)) if ending == "toml" else catalog.model(str(path))


def test_a_pattern_of_windows_below_one_layer_is_refused(tmp_path: Path) -> None:
    config = json.loads(catalog.resolve("models", "gemma-3-12b").read_text())["config"]
    (tmp_path / "g.json").write_text(json.dumps({**config, "sliding_window_pattern": 0.5}))
    with pytest.raises(InputError, match="sliding_window_pattern"):
        catalog.model(str(tmp_path / "g.json"))
