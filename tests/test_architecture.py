"""The house keeps its shape: imports go one way; packages, print, clocks and random numbers stay in their room."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "kvplan").rglob("*.py"))

# A room may import those on earlier lines, and its own line.
ORDER = [
    {"errors", "units", "provenance"},
    {"model", "hardware", "engine", "request"},
    {"deployment", "fit"},
    {"memory"},
    {"step_time", "loading"},
    {"results"},
    {"sizing"},
    {"catalog", "scenario", "defaults"},
    {"traces"},
    {"sim"},
    {"planning", "sweep", "deploy"},
    {"report"},
    {"cli", "__main__"},
]
LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms}
CALIBRATE_MAY_IMPORT = {*(room for rooms in ORDER[:6] for room in rooms), "calibrate"}
ONLY_IN = {"torch": {"calibrate"}, "simpy": {"sim"}, "typer": {"cli"}, "rich": {"cli", "report"}}
CLOCKS_AND_GLOBAL_RANDOM = {"random", "time.time", "time.monotonic", "datetime.datetime.now", "datetime.now"}


def room_of(path: Path) -> str:
    """The room of a file: its folder in kvplan, or its own name."""
    return path.relative_to(ROOT / "kvplan").with_suffix("").parts[0]


def imports(tree: ast.AST) -> set[str]:
    """Dotted names of all that a module imports, at the top or inside functions."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, "imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} if node.module == "kvplan" else {node.module}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way_and_outside_packages_stay_in_their_room(path: Path) -> None:
    room = room_of(path)
    for name in imports(ast.parse(path.read_text())):
        package, _, rest = name.partition(".")
        if package == "kvplan" and room != "__init__":  # __init__ is the face of the package: it may name every room
            target = rest.partition(".")[0]
            if target == "__version__":
                continue
            if room == "calibrate":
                assert target in CALIBRATE_MAY_IMPORT, f"calibrate imports {target}"
            elif target == "calibrate":
                assert room == "cli", f"{room} imports calibrate"
            else:
                assert LEVEL[target] <= LEVEL[room], f"{room} imports {target}, which stands above it"
        assert room in ONLY_IN.get(package, {room}), f"{package} is imported in {room}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_print_outside_cli_and_no_clock_or_global_random_outside_calibrate(path: Path) -> None:
    room, tree = room_of(path), ast.parse(path.read_text())
    calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    if room != "cli":
        assert calls.isdisjoint({"print", "sys.stdout.write", "sys.stderr.write"})
    if room not in {"calibrate", "cli"}:  # the command line shows how long a run took
        assert calls.isdisjoint(CLOCKS_AND_GLOBAL_RANDOM | {"time.perf_counter"})
        assert "random" not in imports(tree)
        assert not {call for call in calls if call.startswith(("np.random.", "numpy.random.")) and "Generator" not in call} - {
            "np.random.default_rng",
            "np.random.SeedSequence",
        }


def loaded_by(*arguments: str) -> set[str]:
    """Top-level packages in memory after a command has run in a fresh interpreter."""
    code = (
        "import sys; sys.argv = ['kvplan', *sys.argv[1:]]\n"
        "from kvplan.cli.main import run\n"
        "try: run()\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        "sys.stderr.write(' '.join({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=ROOT, check=True)
    return set(done.stderr.split())


def test_size_loads_no_heavy_package() -> None:
    loaded = loaded_by("size", "llama-3.1-8b", "--json")
    assert "msgspec" in loaded
    assert loaded.isdisjoint({"torch", "pandas", "simpy", "numpy", "scipy", "pyarrow"})
