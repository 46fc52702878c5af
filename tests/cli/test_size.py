"""`kvplan size` as it is called: documents, exit codes, messages, width, and what it loads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENTRY = "from kvplan.cli.main import run; run()"


def kvplan(*words: str, columns: int = 80) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": str(columns), "NO_COLOR": "1", "PYTHONIOENCODING": "utf-8"}
    return subprocess.run([sys.executable, "-c", ENTRY, *words], capture_output=True, text=True, env=env, check=False)


def test_json_keeps_the_contract() -> None:
    run = kvplan("size", "qwen2.5-32b", "--ctx", "128k", "--machine", "h100-sxm", "--json")
    found = json.loads(run.stdout)
    assert run.returncode == 1  # 61 GiB of weights leave less than 32 GiB
    assert found["schema"] == "kvplan.size/1"
    assert (found["kv"]["bytes_per_sequence"], found["kv"]["mha_formula_bytes"]) == (32 << 30, 160 << 30)
    assert found["engine"]["reserved_bytes_per_request"] == 32 << 30
    assert found["fit"]["fits"] is False and found["fit"]["ways_out"]
    assert found["provenance"]["machine.gpu.memory_bytes"]["kind"] == "measured"


def test_the_table_says_why_the_formula_is_wrong() -> None:
    run = kvplan("size", "qwen2.5-32b", "--ctx", "128k")
    assert run.returncode == 0 and run.stderr == ""
    assert "32.0 GiB" in run.stdout and "160.0 GiB" in run.stdout and "KV heads" in run.stdout
    assert "\x1b" not in run.stdout


@pytest.mark.parametrize(
    "words",
    [
        ["size", "llama-3.1-8b", "--ctx", "128k", "--machine", "h100-sxm", "--batch", "8"],
        ["size", "deepseek-v3.2", "--ctx", "32k", "--machine", "h200-sxm", "--tp", "8"],
        ["size", "llama-3.1-8b", "gpt-oss-120b", "--ctx", "8k,32k,128k"],
        ["size", "--list"],
    ],
    ids=lambda words: words[1],
)
def test_eighty_columns_cut_nothing(words: list[str]) -> None:
    run = kvplan(*words)
    assert max(len(line) for line in run.stdout.splitlines()) <= 80
    assert "…" not in run.stdout


def test_many_models_and_contexts_are_one_document() -> None:
    run = kvplan("size", "llama-3.1-8b", "deepseek-v3", "--ctx", "8k,32k,128k", "--json")
    found = json.loads(run.stdout)
    assert found["schema"] == "kvplan.size-table/1"
    assert [(one["model"], one["context_tokens"]) for one in found["rows"]][2:4] == [
        ("llama-3.1-8b", 131072),
        ("deepseek-v3", 8192),
    ]


def test_a_config_of_ones_own(tmp_path: Path) -> None:
    config = {
        "model_type": "llama",
        "num_hidden_layers": 2,
        "hidden_size": 64,
        "num_attention_heads": 4,
        "vocab_size": 100,
    }
    (tmp_path / "config.json").write_text(json.dumps(config | {"intermediate_size": 128, "max_position_embeddings": 512}))
    for path in (tmp_path, tmp_path / "config.json"):
        run = kvplan("size", str(path), "--ctx", "10", "--json")
        assert json.loads(run.stdout)["kv"]["bytes_per_sequence"] == 2 * 2 * 4 * 16 * 2 * 10


def test_hugging_face_ids_find_the_catalog() -> None:
    assert json.loads(kvplan("size", "Qwen/Qwen3-32B", "--ctx", "1k", "--json").stdout)["model"] == "qwen3-32b"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["size"], "name a model"),
        (["size", "lama-3.1-8b"], "did you mean llama-3.1-8b"),
        (["size", "llama-3.1-8b", "--machine", "h1000"], "no machine named"),
        (["size", "llama-3.1-8b", "--engine", "vlm"], "no engine named"),
        (["size", "llama-3.1-8b", "--engine", "vllm@new"], "not a version"),
        (["size", "llama-3.1-8b", "--ctx", "128G"], "unknown unit"),
        (["size", "llama-3.1-8b", "--ctx", "0"], "above zero"),
        (["size", "llama-3.1-8b", "--kv-dtype", "fp7"], "no KV dtype"),
        (["size", "llama-3.1-8b", "--dtype", "fp7"], "no weight dtype"),
        (["size", "llama-3.1-8b", "--tp", "3"], "cannot be split"),
        (["size", "llama-3.1-8b", "--machine", "l4", "--tp", "16"], "needs 16"),
        (["size", "llama-3.1-8b", "--gpu-kv", "12G"], "ambiguous"),
        (["size", "llama-3.1-8b", "--gpu-fraction", "1.5"], "fraction"),
        (["size", "nowhere/config.json"], "no such file"),
    ],
    ids=lambda value: " ".join(value[1:]) if isinstance(value, list) else "",
)
def test_bad_input_is_one_sentence_and_two(words: list[str], said: str) -> None:
    run = kvplan(*words)
    assert (run.returncode, run.stdout) == (2, "")
    assert said in " ".join(run.stderr.split())
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "{}"])
def test_files_that_are_no_config(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    run = kvplan("size", str(path))
    assert run.returncode == 2 and "config.json" in run.stderr and "Traceback" not in run.stderr


def test_unknown_options_and_help() -> None:
    assert kvplan("size", "llama-3.1-8b", "--frobnicate", "1").returncode == 2
    shown = kvplan("size", "--help")
    assert shown.returncode == 0 and "--kv-dtype" in shown.stdout and "kvplan size qwen2.5-32b" in shown.stdout


def test_list_searches() -> None:
    found = json.loads(kvplan("size", "--list", "llama-3", "--json").stdout)
    assert {"llama-3.1-8b", "llama-3.2-1b"} <= {one["name"] for one in found["models"]} and not found["machines"]
    assert kvplan("size", "--list", "nothing-like-it").returncode == 1


def test_names_complete_without_heavy_packages() -> None:
    code = (
        "import sys\n"
        "sys.argv = ['kvplan', 'size', 'qwen2.5-32b', '--ctx', '128k', '--machine', 'h100-sxm', '-q']\n"
        "from kvplan.cli.main import run\n"
        "try:\n    run()\nexcept SystemExit:\n    pass\n"
        "heavy = {'numpy', 'pandas', 'torch', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert run.returncode == 0, run.stderr
    done = kvplan("__complete", "size", "qwen3-")
    assert "qwen3-32b" in done.stdout.split()


def test_a_stream_without_utf8() -> None:
    env = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "80", "PYTHONIOENCODING": "ascii"}
    words = ["size", "llama-3.1-8b", "--ctx", "8k", "--machine", "h100-sxm"]
    run = subprocess.run([sys.executable, "-c", ENTRY, *words], capture_output=True, text=True, env=env, check=False)
    assert run.returncode == 0 and "####" in run.stdout, run.stderr


def test_quantisation_beside_the_config(tmp_path: Path) -> None:
    config = {
        "model_type": "llama",
        "num_hidden_layers": 2,
        "hidden_size": 64,
        "num_attention_heads": 4,
        "vocab_size": 100,
    }
    (tmp_path / "config.json").write_text(json.dumps(config | {"intermediate_size": 128, "tie_word_embeddings": True}))
    beside = {"quantization": {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head"]}}
    (tmp_path / "hf_quant_config.json").write_text(json.dumps(beside))
    found = json.loads(kvplan("size", str(tmp_path), "--ctx", "8", "--json").stdout)
    assert (found["kv_dtype"], found["weights"]["bits"]["dense"]) == ("fp8", 4.5)
