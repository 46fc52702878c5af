"""The house keeps its shape: imports go one way; packages, print, clocks and random numbers stay in their room."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "kvplan").rglob("*.py"))

# A room may import those on earlier lines, and its own line.
ORDER = [
    {"errors", "units", "provenance", "outputs", "toml_text", "settings", "copies", "executor"},
    {"model", "hardware", "engine", "request"},
    {"deployment", "fit"},
    {"memory"},
    {"step_time", "loading", "host_time", "layer_work", "kernel_rates", "spread_time", "prefill_attention"},
    {"results", "figures"},
    {"sizing"},
    {"catalog", "scenario", "defaults"},
    {"economics"},
    {"traces"},
    {"sim"},
    {"planning", "sweep", "live"},
    {"deploy"},
    {"report"},
    {"cli", "__main__"},
]
LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms}
CALIBRATE_MAY_IMPORT = {*(room for rooms in ORDER[:6] for room in rooms), "calibrate"}
ONLY_IN = {
    "huggingface_hub": {"catalog"},
    "aiohttp": {"live"},
    "torch": {"calibrate"},
    "joblib": {"executor"},
    "rich": {"cli", "report"},
    "typer": {"cli"},
    "plotly": {"figures"},
}
TOP_LEVEL = {".ci", ".gitignore", "LICENSE", "README.md", "docs", "kvplan", "models", "pyproject.toml", "scenarios", "tests"}
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
    if room not in {"calibrate", "cli", "fit", "live"}:  # the command line shows how long a run took; fits hold points out by chance
        assert calls.isdisjoint(CLOCKS_AND_GLOBAL_RANDOM | {"time.perf_counter"})
        assert "random" not in imports(tree)
        assert not {call for call in calls if call.startswith(("np.random.", "numpy.random.")) and "Generator" not in call} - {
            "np.random.default_rng",
            "np.random.SeedSequence",
        }


def module_of(path: Path) -> str:
    """Dotted name of a file."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


def imported_files(path: Path) -> set[str]:
    """Modules of the package that a file imports anywhere: at the top, in functions, under TYPE_CHECKING."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in names}
    return {name for name in found if name in MODULES and name != "kvplan"}  # the face of the package names every room


def circles() -> set[frozenset[str]]:
    """Sets of files that all import one another, directly or through others (Tarjan's strongly connected components)."""
    graph = {name: imported_files(path) for name, path in MODULES.items() if name != "kvplan"}
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: set[frozenset[str]] = set()

    def visit(name: str) -> None:
        number[name] = lowest[name] = len(number)
        stack.append(name)
        for other in graph[name]:
            if other not in number:
                visit(other)
            if other in stack:
                lowest[name] = min(lowest[name], lowest[other])
        if lowest[name] == number[name]:
            at = stack.index(name)
            if len(stack) - at > 1 or name in graph[name]:
                found.add(frozenset(stack[at:]))
            del stack[at:]

    for name in graph:
        if name not in number:
            visit(name)
    return found


def test_nothing_else_lies_at_the_top() -> None:
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("not a git checkout")
    kept = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if kept.returncode:
        pytest.skip(f"git refuses: {kept.stderr.strip()}")
    assert {name.split("/")[0] for name in kept.stdout.splitlines()} == TOP_LEVEL


def test_no_circle_of_files() -> None:
    assert not circles(), f"circles of files: {[sorted(one) for one in circles()]}"


def test_one_class_name_one_meaning() -> None:
    places = defaultdict(list)
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(name)
    several = {name: files for name, files in places.items() if len(files) > 1}
    assert not several, f"one name, several classes: {several}"


LONGEST_FILE = 350


def test_files_are_short() -> None:
    lines = {name: len(path.read_text().splitlines()) for name, path in MODULES.items()}
    long = {name: count for name, count in lines.items() if count > LONGEST_FILE}
    assert not long, f"longer than {LONGEST_FILE} lines: {long}"


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
    assert loaded.isdisjoint({"torch", "pandas", "numpy", "scipy", "pyarrow"})
