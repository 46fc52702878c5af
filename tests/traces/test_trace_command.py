"""kvplan trace on the command line: streams, exit codes, widths."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def kvplan(*arguments: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"NO_COLOR": "1", "COLUMNS": "80", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "kvplan", "trace", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment)


@pytest.fixture
def small(mooncake: Callable[..., Path]) -> Path:
    rows = [(i * 1000, 1100, 10, [0, i % 5 + 1, 100 + i]) for i in range(40)]
    return mooncake(*rows)


def test_curve_writes_the_contract(small: Path) -> None:
    done = kvplan("curve", small, "--policy", "lru,fifo,opt", "--capacity", "2,4,8", "--warmup", "0.25", "--json")
    document = json.loads(done.stdout)
    assert (done.returncode, document["schema"], document["block_tokens"]) == (0, "kvplan.curve/1", 512)
    assert (document["requests"], document["warmup_requests"]) == (40, 10)
    assert set(document["ideal"]) == {"block_hit", "token_hit"}
    for points in document["curves"].values():
        assert [point["capacity_blocks"] for point in points] == [2, 4, 8]
        assert {"block_hit", "token_hit"} <= set(points[0])
    assert {"provenance", "warnings"} <= set(document)


def test_views_fit_eighty_columns_and_carry_units(small: Path) -> None:
    for command in (["inspect", small], ["curve", small, "--policy", "lru,fifo,opt", "--model", "llama-3.1-8b"]):
        done = kvplan(*command)
        assert done.returncode == 0, done.stderr
        assert max(map(len, done.stdout.splitlines())) <= 80
        assert "\x1b" not in done.stdout
        assert "requests" in done.stdout
        assert "Traceback" not in done.stderr


def test_sizes_with_a_model(small: Path) -> None:
    # 131,072 B a token x 512 tokens = 64 MiB a block: 8 GiB hold 128 blocks.
    done = kvplan("curve", small, "--model", "llama-3.1-8b", "--capacity", "8GiB", "--tiers", "1GiB,8GiB", "--json")
    document = json.loads(done.stdout)
    (point,) = document["curves"]["lru"]
    assert (document["bytes_per_block"], point["capacity_blocks"], point["capacity_bytes"]) == (2**26, 128, 2**33)
    assert [tier["capacity_blocks"] for tier in document["tiers"]] == [16, 128]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["curve", "none.jsonl"], "none.jsonl: No such file"),
        (["curve", "{small}", "--policy", "lur"], "did you mean lru"),
        (["curve", "{small}", "--capacity", "64G", "--model", "llama-3.1-8b"], "ambiguous"),
        (["curve", "{small}", "--capacity", "0"], "at least one block"),
        (["curve", "{small}", "--warmup", "1.5"], "warmup is a share"),
        (["curve", "{small}", "--model", "lama-3.1-8b"], "did you mean"),
        (["inspect", "{small}", "--block-tokens", "-4"], "block_tokens must be at least 1"),
        (["inspect", "{small}", "--format", "azzure"], "did you mean azure"),
        (["convert", "{small}", "out", "--to", "wekaa"], "cannot be written"),
        (["generate", "none.toml", "out"], "none.toml: no such file"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(arguments: list[str], says: str, small: Path, tmp_path: Path) -> None:
    done = kvplan(*(argument.replace("{small}", str(small)) for argument in arguments), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_generate_convert_inspect(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text('[[clients]]\nkind = "chat"\nsessions_per_s = 0.5\n')
    assert kvplan("generate", "s.toml", "a.jsonl", cwd=tmp_path).returncode == 0
    assert kvplan("generate", "s.toml", "b.jsonl.gz", cwd=tmp_path).returncode == 0
    done = kvplan("convert", "a.jsonl", "a.csv", "--to", "vidur", cwd=tmp_path)
    assert done.returncode == 0
    assert "vidur cannot hold what prompts share" in done.stderr
    documents = [json.loads(kvplan("inspect", name, "--json", cwd=tmp_path).stdout) for name in ("a.jsonl", "b.jsonl.gz", "a.csv")]
    assert documents[0]["sharing"] == documents[1]["sharing"]
    assert documents[2]["sharing"] is None
    assert documents[0]["prompt_tokens"] == documents[2]["prompt_tokens"]


def test_shipped_traces_are_what_their_specifications_give(tmp_path: Path) -> None:
    from kvplan.traces import open_trace
    from kvplan.traces.generate.generate import generate
    from kvplan.traces.generate.spec import load_spec

    specs = sorted((ROOT / "scenarios" / "traces").glob("*.toml"))
    assert specs
    for spec in specs:
        assert len(spec.read_text().splitlines()) < 20
        _, requests = generate(load_spec(spec), folder=spec.parent)
        made, shipped = list(requests), list(open_trace(spec.with_suffix(".jsonl.gz")))
        assert [(r.prompt_tokens, r.output_tokens, r.blocks, r.session) for r in made] == [
            (r.prompt_tokens, r.output_tokens, r.blocks, r.session) for r in shipped
        ]
