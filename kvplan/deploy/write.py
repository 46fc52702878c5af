"""How a configuration is written: lines with their comments, as shell, YAML or a connector's JSON."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping

from kvplan.deploy.dialect import Dialect
from kvplan.results.deploy import Part
from kvplan.results.placement import Notice

Line = tuple[str, list[str]]  # what the engine reads, and which decisions it carries out
Written = tuple[list[Part], list[Notice]]

BESIDE = 60  # a longer line has its comments above it


def commented(lines: list[Line], indent: str = "") -> list[str]:
    """Lines with their comments: one short comment beside, more or longer ones above."""
    width = max((len(text) for text, _ in lines if len(text) <= BESIDE), default=0)
    shown = []
    for text, comments in lines:
        if len(comments) == 1 and len(text) <= BESIDE:
            shown.append(f"{indent}{text:<{width}}  # {comments[0]}")
        else:
            shown += [f"{indent}# {comment}" for comment in comments] + [indent + text]
    return shown


def shell(dialect: Dialect, command: str, arguments: list[Line], before: list[Line]) -> Part:
    """A bash script: exports, an array of arguments with their comments, and the command."""
    lines = [
        _title(dialect),
        *commented(before),
        "args=(",
        *commented(arguments, "  "),
        ")",
        f'{command} "${{args[@]}}"',
    ]
    return Part(name="serve.sh", format="shell", text="\n".join(lines) + "\n")


def yaml(dialect: Dialect, name: str, lines: list[Line]) -> Part:
    return Part(name=name, format="yaml", text="\n".join([_title(dialect), *commented(lines)]) + "\n")


def _title(dialect: Dialect) -> str:
    return f"# written by kvplan for {dialect.title} {dialect.version}"


def connector(config: Mapping[str, object]) -> str:
    return f"--kv-transfer-config {shlex.quote(json.dumps(config))}"
