"""Arguments of a plain command line, read without typer's own parser.

Typer builds a pydantic validator per option before it looks at the command line, which takes longer than `kvplan
size` itself. A command line of known options with well-formed values needs none of that; anything else (help,
completion, a mistake) is left to typer.
"""

from __future__ import annotations

import inspect
import os
import types
import typing
from collections.abc import Callable
from typing import Any


def arguments(command: Callable[..., int], words: list[str]) -> dict[str, Any] | None:
    """Keyword arguments of `command` from the words after its name; None when typer has to decide."""
    if any(name.endswith("_COMPLETE") for name in os.environ):
        return None
    known = _parameters(command)
    if known is None:
        return None
    options, positional = known
    found: dict[str, Any] = {}
    values: list[str] = []
    rest = iter(words)
    for word in rest:
        if not word.startswith("-") or word == "-":
            values.append(word)
            continue
        name, equals, value = word.partition("=")
        if name not in options:
            return None
        parameter, kind, many = options[name]
        if kind is bool:
            if equals:
                return None
            found[parameter] = True
            continue
        text = value if equals else next(rest, None)
        if text is None or (text.startswith("-") and not equals):
            return None
        try:
            converted = kind(text)
        except ValueError:
            return None
        found[parameter] = [*found.get(parameter, []), converted] if many else converted
    return _assign(positional, values, found)


def _assign(positional: list[tuple[str, bool, bool]], values: list[str], found: dict[str, Any]) -> dict[str, Any] | None:
    """Positional words to their parameters: (name, takes several, has a default)."""
    for name, several, optional in positional:
        if several:
            if values or not optional:
                found[name], values = values, []
        elif values:
            found[name], values = values[0], values[1:]
        elif not optional:
            return None
    return None if values else found


_ONLY_TYPER = ("callback", "parser", "min", "max", "exists", "envvar", "prompt")
"""Settings of an option that are left to typer."""


def _parameters(
    command: Callable[..., int],
) -> tuple[dict[str, tuple[str, type, bool]], list[tuple[str, bool, bool]]] | None:
    """Options by flag as (parameter, type, repeatable), and positional arguments; None when one needs typer."""
    hints = typing.get_type_hints(command, include_extras=True)
    options: dict[str, tuple[str, type, bool]] = {}
    positional = []
    for name, parameter in inspect.signature(command).parameters.items():
        if typing.get_origin(hints[name]) is not typing.Annotated:
            return None
        annotation, info = typing.get_args(hints[name])[:2]
        kind, many = _kind(annotation)
        if kind not in (str, int, float, bool) or _special(info):
            return None
        if type(info).__name__ == "ArgumentInfo":
            positional.append((name, many, parameter.default is not parameter.empty))
            continue
        options |= dict.fromkeys(_flags(info, name), (name, kind, many))
    return options, positional


def _flags(info: Any, name: str) -> list[str]:
    """The flags of an option; inside Annotated typer keeps the first one in the place of the default."""
    first = [info.default] if isinstance(info.default, str) and info.default.startswith("-") else []
    return [*first, *info.param_decls] or [f"--{name.replace('_', '-')}"]


def _special(info: Any) -> bool:
    return any(getattr(info, name, None) not in (None, False) for name in _ONLY_TYPER)


def _kind(annotation: Any) -> tuple[type, bool]:
    """The plain type inside `X | None` or `list[X]`, and whether it was a list."""
    if isinstance(annotation, types.UnionType):
        annotation = next(one for one in typing.get_args(annotation) if one is not type(None))
    if typing.get_origin(annotation) is list:
        return typing.get_args(annotation)[0], True
    return annotation, False
