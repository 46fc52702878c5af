"""The wheel holds everything: installed outside the checkout, all that is shipped is found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from kvplan import __version__, catalog

ROOT = Path(__file__).resolve().parent.parent
KINDS = ("machines", "engines", "models", "scenarios")


def run(*command: str | Path, cwd: Path) -> str:
    here = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(command, cwd=cwd, env=here, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of an environment with kvplan from its wheel; what it depends on is borrowed from this environment."""
    home = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", home, ROOT, cwd=home)
    (wheel,) = home.glob("kvplan-*.whl")
    run(sys.executable, "-m", "venv", "--without-pip", home / "env", cwd=home)
    python = home / "env" / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=home).strip())
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    run(*pip, "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=home)
    return python.parent


def test_the_wheel_finds_all_that_the_checkout_ships(installed: Path, tmp_path: Path) -> None:
    listing = f"[catalog.__file__, *map(catalog.names, {KINDS})]"
    code = f"import json; from kvplan import catalog; print(json.dumps({listing}))"
    where, *found = json.loads(run(installed / "python", "-c", code, cwd=tmp_path))
    assert str(installed.parent) in where
    assert found == [catalog.names(kind) for kind in KINDS]


def test_the_command_runs_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    assert run(installed / "kvplan", "--version", cwd=tmp_path).split()[-1] == __version__
    assert run(installed / "python", "-m", "kvplan", "--version", cwd=tmp_path).split()[-1] == __version__
