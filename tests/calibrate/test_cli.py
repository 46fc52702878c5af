"""The command: exit codes, streams, files."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import pytest

from kvplan import catalog

ROOT = Path(__file__).resolve().parents[2]


def call(*arguments: str, cwd: Path = ROOT, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1", "COLUMNS": "80", **more}
    command = [sys.executable, "-m", "kvplan", "calibrate", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cwd, timeout=120)


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "my.toml"
    run = call("--device", "fake", "--quick", "-o", str(path))
    assert run.returncode == 0, run.stderr
    assert "Fake GPU, fake: no hardware was measured" in run.stdout
    assert "copies by size and direction" in run.stderr
    assert max(map(len, run.stdout.split("probes done")[0].splitlines())) <= 80
    return path


def test_one_probe_is_measured_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    run = call("--device", "fake", "--quick", "--only", "collectives", "-o", str(path))
    assert run.returncode == 0, run.stderr
    assert "only collectives between GPUs was measured" in run.stdout
    known = catalog.machine(str(path))
    assert known.interconnect is not None
    assert {(one.op, one.gpus) for one in known.interconnect.curves} >= {("all_reduce", 2), ("all_reduce", 4), ("send", 2)}


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
        (["--device", "fake", "--quick", "--only", "disk", "-o", "/"], 2, "/: is a folder"),
        (["--device", "fake", "--quick", "--only", "disk", "-o", "/proc/m.toml"], 2, "/proc/m.journal.jsonl: no such file"),
        (["--device", "fake", "--quick", "--disk-path", "/no/such/folder"], 2, "--disk-path /no/such/folder: no such folder"),
        (["--device", "fake", "--quick", "--remember"], 2, "--remember needs a profile"),
    ],
)
def test_bad_input_is_one_sentence(arguments: list[str], code: int, said: str) -> None:
    run = call(*arguments)
    assert run.returncode == code, run.stderr
    assert said in run.stderr
    assert "Traceback" not in run.stderr
    assert run.stdout == ""


def test_without_a_gpu_the_way_out_is_said(tmp_path: Path) -> None:
    run = call(CUDA_VISIBLE_DEVICES="", cwd=tmp_path)
    assert run.returncode == 3
    assert "--only disk" in run.stderr
    assert "Traceback" not in run.stderr


NO_TORCH = """
import sys
sys.modules["torch"] = None
from kvplan.cli.main import run
run()
"""


def without_torch(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
    command = [sys.executable, "-c", NO_TORCH, "calibrate", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cwd, timeout=120)


def test_without_torch_one_line_says_what_to_install_and_the_host_is_measured(tmp_path: Path) -> None:
    run = without_torch(cwd=tmp_path)
    assert run.returncode == 3
    assert "needs torch, which is not installed" in run.stderr
    assert 'pip install "kvplan[calibrate]"' in run.stderr
    assert "--only host" in run.stderr
    assert list(tmp_path.iterdir()) == []
    run = without_torch("--only", "host", "--quick", "--json", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    document = json.loads(run.stdout)
    machine = document["machine"]
    assert 1e-7 < machine["host"]["python_s"] < 1e-4
    assert "launch_s" not in machine["host"]
    assert machine["provenance"]["host.python_s"]["kind"] == "measured"
    assert machine["provenance"]["link.h2d_Bps"]["kind"] == "assumed"
    launch = next(probe for probe in document["probes"] if probe["name"] == "launch")
    assert (launch["status"], launch["reason"]) == ("waived", "needs torch and a GPU")
    assert document["profile"] == "machine.toml"
    assert catalog.machine(str(tmp_path / "machine.toml")).host.python_s == pytest.approx(machine["host"]["python_s"], rel=1e-5)


def test_a_profile_without_a_name_never_replaces_one(tmp_path: Path) -> None:
    (tmp_path / "machine.toml").write_text("mine")
    run = without_torch("--only", "host", cwd=tmp_path)
    assert run.returncode == 2
    assert "machine.toml is here already" in run.stderr
    assert (tmp_path / "machine.toml").read_text() == "mine"


def test_a_replaced_profile_is_said_and_can_be_the_folders_machine(profile: Path, tmp_path: Path) -> None:
    mine = tmp_path / "my.toml"
    mine.write_bytes(profile.read_bytes())
    run = call("--device", "fake", "--quick", "--only", "disk", "-o", "my.toml", "--remember", "-q", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert "(the one of that name was replaced)" in run.stdout
    assert run.stderr == ""
    assert tomllib.loads((tmp_path / "kvplan.toml").read_text()) == {"machine": "my.toml"}


def test_a_profile_can_go_down_a_pipe() -> None:
    run = call("--device", "fake", "--quick", "--only", "disk", "-o", "-")
    assert run.returncode == 0, run.stderr
    assert tomllib.loads(run.stdout)["name"] == "fake-gpu"


def test_not_saved_is_said() -> None:
    assert "not saved: -o FILE writes it" in call("--device", "fake", "--quick", "--only", "disk").stdout


@pytest.mark.parametrize("json_too", [True, False])
def test_a_full_disk_loses_nothing(tmp_path: Path, json_too: bool) -> None:
    """Files may hold 4 KiB here: journal, samples and profile all fail on the way."""
    limited = f"ulimit -f 4; exec {sys.executable} -m kvplan calibrate --device fake --quick -o m.toml {'--json' if json_too else ''}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
    run = subprocess.run(["bash", "-c", limited], capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=120)
    assert run.returncode == 3
    assert "Traceback" not in run.stderr
    assert "m.toml: file too large" in run.stderr
    assert "an interrupted run could not go on; this one does" in run.stderr
    if json_too:
        assert json.loads(run.stdout)["machine"]["name"] == "fake-gpu"
    else:
        assert "matrix products" in run.stdout
    assert {path.name for path in tmp_path.iterdir()} <= {"m.journal.jsonl"}


def test_a_profile_that_finds_no_place_goes_to_the_temporary_folder(profile: Path, tmp_path: Path) -> None:
    from kvplan.calibrate.profile import save

    blocked = tmp_path / "gone" / "kvplan-test-spare.toml"
    saved = save(blocked, catalog.machine(str(profile)), [])
    assert saved.path == str(Path(tempfile.gettempdir()) / "kvplan-test-spare.toml")
    assert "does not exist" in saved.problem
    assert catalog.machine(saved.path).name == "fake-gpu"
    for left in Path(tempfile.gettempdir()).glob("kvplan-test-spare*"):
        left.unlink()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_keeps_the_finished_probes(tmp_path: Path, number: signal.Signals) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
    command = [sys.executable, "-m", "kvplan", "calibrate", "--only", "host", "--full", "--device", "cuda", "-o", "m.toml"]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=tmp_path)
    assert run.stderr is not None
    for line in run.stderr:
        if "one thread of Python ..." in line:
            break
    run.send_signal(number)
    stdout, stderr = run.communicate(timeout=30)
    assert run.returncode == 130
    assert stdout == ""
    assert "with --resume and -o m.toml goes on" in stderr
    assert "Traceback" not in stderr
    assert (tmp_path / "m.journal.jsonl").exists()
