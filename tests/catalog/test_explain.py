"""How a config is read, shown and turned into a catalog file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from kvplan import catalog
from kvplan.model import explain, from_hf_config


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "kvplan", "size", *words], capture_output=True, text=True)


@pytest.mark.parametrize("name", catalog.names("models"))
def test_the_file_that_the_catalog_would_keep_is_the_same_model(name: str) -> None:
    raw = json.loads(catalog.resolve("models", name).read_text())
    found = explain(raw["config"], name=name, source=raw["source"], params=raw.get("params", 0))
    kept = found.catalog_file
    again = from_hf_config(kept["config"], name=name, source=kept["source"], params=kept.get("params", 0))
    assert again == found.model == catalog.model(name)


def test_a_config_becomes_a_catalog_file(tmp_path: Path) -> None:
    config = {"model_type": "llama", "num_hidden_layers": 4, "hidden_size": 256, "num_attention_heads": 8, "intermediate_size": 512}
    config |= {"num_key_value_heads": 2, "vocab_size": 1000, "rope_theta": 5e5, "torch_dtype": "bfloat16", "max_position_embeddings": 4096}
    (tmp_path / "mine.json").write_text(json.dumps(config))
    told = json.loads(run("--explain", str(tmp_path / "mine.json"), "--json").stdout)
    assert "rope_theta" not in told["config"]
    assert from_hf_config(told["config"], name="x").layers == from_hf_config(config, name="x").layers
    shown = run("--explain", str(tmp_path / "mine.json")).stdout
    assert "read as llama" in shown and "not looked at: rope_theta" in shown and "num_key_value_heads = 2" in shown


def test_an_unknown_family_is_sized_as_another_when_asked(tmp_path: Path) -> None:
    config = json.loads(catalog.resolve("models", "qwen3-next-80b-a3b").read_text())["config"]
    (tmp_path / "q.json").write_text(json.dumps({**config, "model_type": "qwen9_next"}))
    refused = run(str(tmp_path / "q.json"))
    assert refused.returncode == 2 and "--as qwen3" in refused.stderr
    sized = run(str(tmp_path / "q.json"), "--as", "qwen3_next", "--ctx", "8k", "--json")
    assert sized.returncode == 0 and "sized as qwen3_next, as asked" in sized.stderr
    known = json.loads(run("qwen3-next-80b-a3b", "--ctx", "8k", "--json").stdout)
    assert json.loads(sized.stdout)["kv"] == known["kv"]
