"""How a configuration is written: lines with their comments, as shell, YAML or a connector's JSON."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from kvplan.deploy.dialect import Dialect
from kvplan.results.deploy import Part
from kvplan.results.placement import Notice

Line = tuple[str, list[str]]  # what the engine reads, and which decisions it carries out
Written = tuple[list[Part], list[Notice]]

BESIDE = 60  # a longer line has its comments above it

_PLAIN = re.compile(r"[A-Za-z_/][\w./-]*(?<!-)")
_WORDS = ("true", "false", "null", "yes", "no", "on", "off", "y", "n")


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


def shell(dialect: Dialect, version: str, command: str, arguments: list[Line], before: list[Line], name: str = "serve.sh") -> Part:
    """A bash script: exports, an array of arguments with their comments, and the command."""
    lines = [
        "#!/usr/bin/env bash",
        _title(dialect, version),
        *commented(before),
        "args=(",
        *commented(arguments, "  "),
        ")",
        f'exec {command} "${{args[@]}}"',
    ]
    return Part(name=name, format="shell", text="\n".join(lines) + "\n")


def yaml(dialect: Dialect, version: str, name: str, lines: list[Line]) -> Part:
    return Part(name=name, format="yaml", text="\n".join([_title(dialect, version), *commented(lines)]) + "\n")


def manifest(dialect: Dialect, version: str, name: str, documents: Sequence[Mapping[str, Any]], comments: Sequence[str] = ()) -> Part:
    """Kubernetes objects, or Helm values, as YAML documents under a few lines of comment."""
    head = "\n".join([_title(dialect, version), *(f"# {comment}" for comment in comments)])
    return Part(name=name, format="yaml", text=head + "\n" + "---\n".join(to_yaml(one) for one in documents))


def to_yaml(value: Mapping[str, Any]) -> str:
    """A mapping in YAML's block form."""
    return "\n".join(_block(value, "")) + "\n"


def _block(value: Any, indent: str) -> list[str]:
    """Lines of a mapping or a list in YAML's block form."""
    lines = []
    entries = value.items() if isinstance(value, Mapping) else ((None, one) for one in value)
    for key, one in entries:
        head = f"{indent}-" if key is None else f"{indent}{_scalar(str(key))}:"
        if isinstance(one, str) and "\n" in one:
            lines += [f"{head} |", *(f"{indent}  {line}" for line in one.rstrip("\n").split("\n"))]
        elif isinstance(one, Mapping | list | tuple) and one:
            inner = _block(one, indent + "  ")
            if key is None:
                inner[0] = f"{indent}- {inner[0].lstrip()}"
                lines += inner
            else:
                lines += [head, *inner]
        else:
            lines.append(f"{head} {_scalar(one)}")
    return lines


def _scalar(value: Any) -> str:
    plain = isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _WORDS
    return value if plain else json.dumps(value)


def _title(dialect: Dialect, version: str) -> str:
    return f"# written by kvplan for {dialect.title} {version}"


def connector(config: Mapping[str, object]) -> str:
    return f"--kv-transfer-config {shlex.quote(json.dumps(config))}"
