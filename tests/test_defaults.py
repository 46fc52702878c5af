"""What is not given: in which order it is looked for, and what the user is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kvplan import defaults, scenario
from kvplan.errors import InputError
from kvplan.hardware import detect

TRACE = str(Path(__file__).parent / "measured/h100-vllm-0.24/chat28.jsonl")


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detect, "found", lambda: None)


def test_without_anything_model_and_machine_are_assumed_and_the_first_line_says_so(tmp_path: Path) -> None:
    found = defaults.resolve({}, trace=TRACE, folder=tmp_path)
    assert found.first_line() == "assumed: llama-3.1-8b on h100-sxm (--model and --machine name another)"
    assert found.provenance() == {
        "model": {"value": "llama-3.1-8b", "source": "assumed"},
        "machine": {"value": "h100-sxm", "source": "assumed"},
        "engine": {"value": "vllm", "source": "assumed"},
    }


def test_each_source_gives_way_to_the_one_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trace = tmp_path / "t.jsonl"
    trace.write_text(json.dumps({"model": "Qwen/Qwen3-32B", "timestamp": 0}) + "\n")
    monkeypatch.setattr(detect, "found", lambda: detect.Detected("NVIDIA L4", 2))

    def names(given: dict[str, str | None], **options: object) -> list[str]:
        found = defaults.resolve(given, trace=str(trace), folder=tmp_path, **options)  # type: ignore[arg-type]
        assert found.machine is not None
        return [f"{one.value} {one.source}" for one in (found.model, found.machine)]

    assert names({}) == ["Qwen/Qwen3-32B trace", "l4 found in this server: 2 x NVIDIA L4"]
    defaults.remember(tmp_path, model="qwen3-8b", machine="l40s")
    assert names({}) == ["qwen3-8b kvplan.toml", "l40s kvplan.toml"]
    assert names({}, isolated=True) == ["Qwen/Qwen3-32B trace", "l4 found in this server: 2 x NVIDIA L4"]
    written = {"model": "llama-3-8b", "machine": "a30"}
    assert names({}, written=written) == ["llama-3-8b scenario", "a30 scenario"]
    assert names({"machine": "h20-sxm"}, written=written) == ["llama-3-8b scenario", "h20-sxm given"]


def test_a_machine_found_has_the_gpus_of_this_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detect, "found", lambda: detect.Detected("NVIDIA H100 80GB HBM3", 2))
    server = defaults.resolve({}, folder=tmp_path).server()
    assert server is not None and (server.name, server.gpus) == ("h100-sxm", 2)


def test_size_gets_no_machine_that_is_only_assumed(tmp_path: Path) -> None:
    assert defaults.resolve({}, folder=tmp_path, machine_wanted=False).machine is None


def test_a_profile_is_found_from_the_folder_of_its_file(tmp_path: Path) -> None:
    defaults.remember(tmp_path, machine="machine.toml")
    found = defaults.resolve({}, folder=tmp_path)
    assert found.machine == defaults.Default(value=str(tmp_path / "machine.toml"), source="kvplan.toml")


def test_what_a_folder_remembers_is_kept_beside_what_is_new(tmp_path: Path) -> None:
    defaults.remember(tmp_path, model="qwen3-8b")
    path = defaults.remember(tmp_path, machine="machine.toml")
    assert path.read_text() == 'model = "qwen3-8b"\nmachine = "machine.toml"\n'


def test_a_wrong_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "kvplan.toml").write_text('modle = "x"\n')
    with pytest.raises(InputError) as refused:
        defaults.resolve({}, folder=tmp_path)
    assert "kvplan.toml" in refused.value.message and "model" in refused.value.hint


def test_a_scenario_carries_where_its_names_come_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    loaded = scenario.load(TRACE)
    assert loaded.defaults is not None and loaded.defaults.first_line().startswith("assumed: llama-3.1-8b on h100-sxm")
    assert (loaded.model.name, loaded.machine.name) == ("llama-3.1-8b", "h100-sxm")


def test_gpus_are_found_by_what_the_driver_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    for number in range(2):
        folder = tmp_path / f"0000:0{number}:00.0"
        folder.mkdir()
        (folder / "information").write_text("Model: \t\t NVIDIA H100 80GB HBM3\nIRQ:   \t\t 34\n")
    assert detect.found(tmp_path) == detect.Detected("NVIDIA H100 80GB HBM3", 2)
    assert detect.found(tmp_path / "nothing") is None


def test_size_takes_what_the_folder_remembers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    defaults.remember(tmp_path, model="llama-3.1-8b", machine="l40s")
    from kvplan.cli.main import main

    assert main(["size", "--ctx", "8k", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["model"], told["machine"]) == ("llama-3.1-8b", "l40s")
    assert told["provenance"]["defaults"]["machine"] == {"value": "l40s", "source": "kvplan.toml"}
    assert main(["size", "llama-3.1-8b", "--ctx", "8k", "--isolated", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["machine"] != "l40s"
