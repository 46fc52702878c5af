"""The pages of docs/ that are written from the program: one a command, and the JSON schemas of its answers.

`python tests/test_docs.py` writes them anew.
"""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

import kvplan.results
from kvplan.cli import parser
from kvplan.cli.main import COMMANDS, _examples, find
from tests.sizing import test_kinds as parallel

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"


def answers() -> dict[str, type]:
    """Schema -> record, of every record that an answer of `--json` is."""
    found: dict[str, type] = {}
    for module in pkgutil.iter_modules(kvplan.results.__path__):
        for record in vars(importlib.import_module(f"kvplan.results.{module.name}")).values():
            if not (isinstance(record, type) and issubclass(record, msgspec.Struct)):
                continue
            field = next((one for one in msgspec.structs.fields(record) if one.name == "schema"), None)
            if field is not None and isinstance(field.default, str):
                found[field.default] = record
    return found


def schema_of(record: type) -> str:
    return (
        msgspec.json.format(
            msgspec.json.encode(msgspec.json.schema(record, schema_hook=lambda kind: {"description": "any value"})), indent=1
        ).decode()
        + "\n"
    )


def commands() -> dict[str, Any]:
    """Title -> command, of every command and those of groups."""
    found: dict[str, Any] = {}
    for name in COMMANDS:
        _, command, _ = find([name])
        inner = command if isinstance(command, dict) else {"": command}
        found |= {f"{name} {word}".strip(): one for word, one in inner.items()}
    return found


def page_of(title: str, command: Any) -> str:
    """A command's page: what it does, its options in tables, examples."""
    doc = inspect.getdoc(command) or ""
    lines = [f"# kvplan {title}", "", *doc.splitlines(), ""]
    arguments, options = parser.parameters(command)
    if arguments:
        lines += ["| argument | |", "| --- | --- |", *(f"| `{parser.title_of(one)}` | {_cell(one.help)} |" for one in arguments), ""]
    lines += ["| option | |", "| --- | --- |"]
    lines += [f"| `{parser.flags_of(one)}` | {_cell(parser.described(one))} |" for one in options]
    examples = _examples(command).strip()
    if examples:
        lines += ["", "```", examples, "```"]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def accuracy() -> str:
    """What the fidelity tests hold the simulator to."""
    from tests.fidelity.test_measured import CASES, LIMITS

    kinds = {"cold": "nothing cached", "gpu_hit": "prefix on the GPU", "cpu_hit": "prefix in host memory", "decode": "time between tokens"}
    rows = [f"| {case} | {' | '.join(_allowed(LIMITS.get((case, kind))) for kind in kinds)} |" for case in CASES]
    return "\n".join(
        [
            "# How far predictions are off",
            "",
            "Single requests on real engines and GPUs (`tests/measured/`): the largest error of the time to first token that a test allows",
            "(of hits the mean one), one point above what is reached. `pytest tests/fidelity -s -n 0` prints every row and the replays.",
            "",
            f"| case | {' | '.join(kinds.values())} |",
            f"| --- |{' --- |' * len(kinds)}",
            *rows,
            "",
        ]
    )


def _allowed(limit: float | None) -> str:
    return "not measured" if limit is None else f"{limit:g}%" if limit else "not served"


def pages() -> dict[Path, str]:
    """File -> what it holds."""
    found = {DOCS / "commands" / f"{title.replace(' ', '-')}.md": page_of(title, command) for title, command in commands().items()}
    found |= {DOCS / "schemas" / f"{name.replace('/', '-')}.json": schema_of(record) for name, record in answers().items()}
    listed = [f"- [kvplan {title}](commands/{title.replace(' ', '-')}.md)" for title in commands()]
    schemas = [f"- [{name}](schemas/{name.replace('/', '-')}.json)" for name in sorted(answers())]
    found[DOCS / "accuracy.md"] = accuracy()
    found[DOCS / "parallel.md"] = parallel.page()
    found[DOCS / "README.md"] = "\n".join(
        [
            "# kvplan, page by page",
            "",
            "Written from the program by `python tests/test_docs.py`; a test keeps them current.",
            "",
            "## Commands",
            "",
            *listed,
            "",
            "## How true it is",
            "",
            "- [what predictions are held to](accuracy.md)",
            "- [what each kind of parallelism keeps](parallel.md)",
            "",
            "## What --json prints",
            "",
            "One document on stdout, in base units (bytes, seconds, tokens, bytes per second) that the keys name. Progress and errors",
            "go to stderr. Keys stay; new ones may come.",
            "",
            *schemas,
            "",
        ]
    )
    return found


@pytest.mark.parametrize("path", sorted(pages()), ids=lambda path: str(path.relative_to(DOCS)))
def test_a_page_is_what_the_program_says(path: Path) -> None:
    assert path.is_file() and path.read_text() == pages()[path], "python tests/test_docs.py writes it anew"


def test_no_page_is_left_over() -> None:
    written = {path for folder in ("commands", "schemas") for path in (DOCS / folder).iterdir()}
    assert written <= set(pages())


if __name__ == "__main__":
    os.environ["COLUMNS"] = "100"
    for path, text in pages().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
