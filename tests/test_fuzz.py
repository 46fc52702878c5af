"""Numbers, files and settings of the wrong kind: a sentence each, never anything else."""

from __future__ import annotations

import copy
import json
import math
import tomllib
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kvplan import catalog, scenario
from kvplan.cli.main import guarded, main
from kvplan.deployment import Deployment
from kvplan.errors import KvplanError
from kvplan.hardware.spec import machine_of
from kvplan.scenario import SECTIONS, Scenario, with_setting

WRONG: tuple[Any, ...] = (math.nan, -1, 1e308, "abc", [1], {"a": 1}, 10**18)


def fields(kind: Any, path: str) -> Iterator[str]:
    """Dotted paths of all fields of a record and the records in it."""
    records = [one for one in (kind, *typing.get_args(kind)) if isinstance(one, type) and issubclass(one, msgspec.Struct)]
    if not records:
        yield path
        return
    for name, inner in typing.get_type_hints(records[0]).items():
        yield from fields(inner, f"{path}.{name}")


def settings() -> list[str]:
    found = []
    for first, place in SECTIONS.items():
        owner = Deployment if place[0] == "deployment" else Scenario
        found += list(fields(typing.get_type_hints(owner)[place[-1]], first))
    return found


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "1e308", "abc", ""])
def test_every_setting_takes_a_value_of_its_own_kind_or_says_what_it_wants(value: str) -> None:
    base, refused = scenario.load("chat"), 0
    for path in settings():
        try:
            changed = with_setting(base, path, value)
        except KvplanError as error:
            assert error.exit_code == 2, path
            refused += 1
        else:
            assert changed is not None
    assert refused > 100  # most are numbers with bounds


def leaves(document: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in document.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key)


def replaced(document: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(document)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return changed


@pytest.mark.parametrize("name", ["gemma-3-12b", "deepseek-v3"])
def test_a_config_whose_field_is_of_another_kind(name: str, tmp_path: Path) -> None:
    config = json.loads((catalog.folder("models") / f"{name}.json").read_text())["config"]
    path = tmp_path / "config.json"
    for field in leaves(config):
        for value in WRONG[1:]:
            path.write_text(json.dumps(replaced(config, field, value)))
            try:
                assert catalog.model(str(path)) is not None
            except KvplanError as error:
                assert error.exit_code == 2, field


def test_a_machine_whose_number_is_of_another_kind() -> None:
    machine = tomllib.loads((catalog.folder("machines") / "h100-sxm.toml").read_text())
    for field in leaves({key: value for key, value in machine.items() if key != "provenance"}):
        for value in WRONG:
            try:
                assert machine_of(replaced(machine, field, value)) is not None
            except msgspec.ValidationError:
                continue


@pytest.mark.parametrize(
    "damage", ["changes = 3", "changes = [1]", "provenance = 3", "base = [1]", "overhead = 1.5", "provenance = {a = 3}"]
)
def test_an_engine_whose_part_is_of_another_kind(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "engine.toml"
    path.write_text(f'name = "mine"\nversion = "1.0"\n{damage}\n' if "base" in damage else f'name = "mine"\nbase = "vllm"\n{damage}\n')
    with pytest.raises(KvplanError) as refused:
        catalog.engine(str(path))
    assert refused.value.exit_code == 2


@pytest.mark.parametrize(
    "words",
    [
        ("size", "llama-3.1-8b", "--ctx=99999999999999999999"),
        ("size", "llama-3.1-8b", "--batch=99999999999999999999"),
        ("size", "llama-3.1-8b", "--export=table"),
        ("sweep", "chat", "--vary", "cpu=0", "--export="),
        ("trace", "curve", "chat", "--policy=,"),
        ("trace", "generate", "batch", "/dev/null", "--seed=-1"),
        ("plan", "--sessions", "users=1,turns=1,shared=99999999999999999999"),
        ("simulate", "chat", "--target", "ttft_p95<1e308s"),
        ("simulate", "chat", "--machine", "l4", "--machine", "l40s"),
    ],
)
def test_an_option_beyond_reason_is_a_sentence(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(main, list(words)) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_more_requests_than_there_are_is_all_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(main, ["trace", "inspect", "chat", "--limit=99999999999999999999"]) == 0
