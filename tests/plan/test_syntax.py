"""Configurations as people write them; PyYAML and bash are the oracles."""

from __future__ import annotations

import pytest
import yaml

from kvplan.deploy.emit import emit
from kvplan.deploy.syntax import parse_config
from kvplan.errors import InputError
from kvplan.results.placement import Placement

YAMLS = [
    "chunk_size: 256\nlocal_cpu: true\nmax_local_cpu_size: 5.0\n",
    "# a comment\nlocal_disk: 'file:///mnt/a#b'  # where\nremote_url: \"redis://h:6379\"\n",
    "extra_config:\n  nixl_path: /x\n  deep:\n    n: 1\nafter: null\n",
    "kv_cache_config:\n    host_cache_size: 45000000000\n    dtype: fp8\ntensor_parallel_size: 2\n",
    'cuda_graph_config: null\nlist_in_line: [1, 2]\nname: "a: b"\nplain: it is\n',
    "empty:\nnext: 1\n",
]


@pytest.mark.parametrize("text", YAMLS)
def test_yaml_as_pyyaml_reads_it(text: str) -> None:
    expected = yaml.safe_load(text)
    expected = {key: {} if value is None and f"{key}:\n" in text else value for key, value in expected.items()}
    assert parse_config(text, "f").document == expected


@pytest.mark.parametrize(
    ("text", "flags", "environment", "words"),
    [
        (
            "vllm serve m --kv-offloading-size 100 -tp 8",
            {"--kv-offloading-size": "100", "-tp": "8"},
            {},
            ["vllm", "serve", "m"],
        ),
        (
            "vllm serve m \\\n  --kv_offloading_size=100 \\\n  --enforce-eager",
            {"--kv-offloading-size": "100", "--enforce-eager": ""},
            {},
            None,
        ),
        ("# note\nexport A=1\nB='x y' run --flag v # end", {"--flag": "v"}, {"A": "1", "B": "x y"}, ["run"]),
        ("DYN_KVBM_CPU_CACHE_GB=20\n", {}, {"DYN_KVBM_CPU_CACHE_GB": "20"}, []),
    ],
)
def test_command_lines(text: str, flags: dict, environment: dict, words: list | None) -> None:
    config = parse_config(text, "f")
    assert config.flags == flags
    assert config.environment == environment
    assert words is None or config.words == words


def test_an_emitted_configuration_is_read_whole() -> None:
    emission = emit(Placement(model="m", cpu_bytes=2**30), "lmcache")
    config = parse_config(emission.text, "f")
    assert config.environment == {"LMCACHE_CONFIG_FILE": "lmcache.yaml", "PYTHONHASHSEED": "0"}
    assert config.document == yaml.safe_load(emission.parts[0].text)
    assert "--kv-transfer-config" in config.flags


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "sets nothing"),
        ("# only a comment\n", "sets nothing"),
        ("hello there", "sets nothing"),
        ('{"a": ', "not valid JSON"),
        ("vllm serve --x 'open", "not a command line"),
        ("a: 1\n- b\n", "line 2: not `key: value`"),
    ],
)
def test_what_is_not_a_configuration_is_refused(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        parse_config(text, "f")
