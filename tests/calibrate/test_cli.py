"""The command: exit codes, streams, files."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def call(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1", "COLUMNS": "80", **more}
    command = [sys.executable, "-m", "kvplan", "calibrate", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=120)


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "my.toml"
    run = call("--device", "fake", "--quick", "-o", str(path))
    assert run.returncode == 0, run.stderr
    assert "Fake GPU, fake: no hardware was measured" in run.stdout
    assert "copies by size and direction" in run.stderr
    assert max(map(len, run.stdout.split("probes done")[0].splitlines())) <= 80
    return path


def test_json_is_one_document_and_progress_goes_to_stderr() -> None:
    run = call("--device", "fake", "--quick", "--only", "disk", "--json")
    document = json.loads(run.stdout)
    assert document["schema"] == "kvplan.calibrate/1"
    assert {"machine", "figures", "probes", "quality", "warnings"} <= document.keys()
    assert "disk reads" in run.stderr


def test_compare_of_a_profile_with_itself_agrees(profile: Path) -> None:
    run = call("--compare", str(profile), str(profile))
    assert run.returncode == 0
    assert "agree within their intervals" in run.stdout


def test_compare_of_different_machines_says_no(profile: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    text = profile.read_text()
    line = next(line for line in text.splitlines() if line.startswith("h2d_Bps"))
    source = next(line for line in text.splitlines() if line.startswith('"link.h2d_Bps"'))
    changed = '"link.h2d_Bps" = {kind = "fake", source = "x", lo = 1.0e+10, hi = 1.1e+10}'
    other.write_text(text.replace(line, "h2d_Bps = 1.05e+10").replace(source, changed))
    run = call("--compare", str(profile), str(other), "--json")
    assert run.returncode == 1
    apart = [row["path"] for row in json.loads(run.stdout)["differences"] if not row["agree"]]
    assert apart == ["link.h2d_Bps"]


def test_a_partial_rerun_keeps_the_rest(profile: Path, tmp_path: Path) -> None:
    merged = tmp_path / "merged.toml"
    run = call("--device", "fake", "--quick", "--only", "disk", "--merge", str(profile), "-o", str(merged))
    assert run.returncode == 0, run.stderr
    before, after = profile.read_text(), merged.read_text()
    kept = [line for line in before.splitlines() if line.startswith(('"link.', '"gpu.'))]
    assert kept
    assert all(line in after for line in kept)
    assert "[calibration.tables.gemm]" in after


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--only", "network"], 2, "no such part"),
        (["--quick", "--full"], 2, "exclude each other"),
        (["--device", "tpu"], 2, "no such device"),
        (["--device", "fake", "--model", "lama-3.1-8b"], 2, "did you mean llama-3.1-8b"),
        (["--only", "disk", "--disk-path", "/no/such/folder"], 2, "no such folder"),
        (["--merge", "no-such-machine", "--only", "disk"], 2, "no machine named"),
        (["--from-log", "/no/such/file"], 2, "No such file"),
        (["--device", "fake", "--quick", "-o", "/no/such/folder/my.toml"], 2, "/no/such/folder"),
    ],
)
def test_bad_input_is_one_sentence(arguments: list[str], code: int, said: str) -> None:
    run = call(*arguments)
    assert run.returncode == code, run.stderr
    assert said in run.stderr
    assert "Traceback" not in run.stderr
    assert run.stdout == ""


def test_without_a_gpu_the_way_out_is_said() -> None:
    run = call(CUDA_VISIBLE_DEVICES="")
    assert run.returncode == 3
    assert "--only disk" in run.stderr
    assert "Traceback" not in run.stderr
