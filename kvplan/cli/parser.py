"""The one parser of the command line: reads a command's options from its signature, and writes its help.

A command is a function whose parameters are `Annotated[type, Flag(...)]` or `Annotated[type, Word(...)]`; types are str, int,
float, bool (a switch), Path, `X | None`, `list[X]` (given several times), and `tuple[X, X]` (so many words).
"""

from __future__ import annotations

import inspect
import shutil
import textwrap
import types
import typing
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from kvplan.errors import InputError, did_you_mean

Complete = Callable[[str], Iterable[str]]


class Flag:
    """An option: its flags (none: the parameter's name), what its value is called, and one line of help."""

    __slots__ = ("complete", "flags", "help", "metavar", "panel")

    def __init__(self, *flags: str, help: str, metavar: str = "", panel: str = "", complete: Complete | None = None) -> None:
        self.flags, self.help, self.metavar, self.panel, self.complete = flags, help, metavar, panel, complete


class Word:
    """A word without a flag, by its place."""

    __slots__ = ("complete", "help", "metavar")

    def __init__(self, *, help: str, metavar: str = "", complete: Complete | None = None) -> None:
        self.help, self.metavar, self.complete = help, metavar, complete


class _Parameter(NamedTuple):
    """A parameter of a command as the command line fills it."""

    name: str
    kind: type  # of one word
    words: int  # of one value; 0: a switch
    many: bool  # may it be given several times, or take all words that are left
    default: Any  # inspect.Parameter.empty: it must be given
    info: Flag | Word

    @property
    def flags(self) -> tuple[str, ...]:
        return (self.info.flags or (f"--{self.name.replace('_', '-')}",)) if isinstance(self.info, Flag) else ()

    @property
    def title(self) -> str:
        """The name of its value in messages."""
        return self.info.metavar or self.name.upper()


def parameters(command: Callable[..., int]) -> list[_Parameter]:
    """The parameters of a command in the order of its signature."""
    hints = typing.get_type_hints(command, include_extras=True)
    found = []
    for name, parameter in inspect.signature(command).parameters.items():
        annotation, info = typing.get_args(hints[name])[:2]
        found.append(_Parameter(name, *_kind(annotation), parameter.default, info))
    return found


def _kind(annotation: Any) -> tuple[type, int, bool]:
    """The type of one word, how many words make a value, and whether there may be several values."""
    if isinstance(annotation, types.UnionType):
        annotation = next(one for one in typing.get_args(annotation) if one is not type(None))
    inner = typing.get_args(annotation)
    if typing.get_origin(annotation) is list:
        return inner[0], 1, True
    if typing.get_origin(annotation) is tuple:
        return inner[0], len(inner), False
    return annotation, 0 if annotation is bool else 1, False


def parse(command: Callable[..., int], words: list[str], title: str) -> dict[str, Any]:
    """Keyword arguments of a command from the words after its name. Raises InputError naming the word that is wrong."""
    known = parameters(command)
    options = {flag: one for one in known for flag in one.flags}
    found: dict[str, Any] = {}
    values: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            values += rest
            break
        if word == "-" or not word.startswith("-"):
            values.append(word)
            continue
        name, equals, value = word.partition("=")
        if name not in options:
            hint = did_you_mean(name, (*options, "--help")) if name.startswith("--") else ""
            raise InputError(f"kvplan {title} has no option {name}", hint=f"{hint} kvplan {title} --help lists them".strip())
        one = options[name]
        if one.words == 0:
            if equals:
                raise InputError(f"{name} takes no value", hint=f"write {name} alone")
            found[one.name] = True
            continue
        given = [value] if equals else rest[: one.words]
        del rest[: 0 if equals else one.words]
        if len(given) < one.words or any(text.startswith("--") and text in options for text in given):
            raise InputError(f"{name} needs {one.title}", hint=_sentence(one.info.help))
        converted = [_converted(one, name, text) for text in given]
        entry = converted[0] if one.words == 1 else tuple(converted)
        found[one.name] = [*found.get(one.name, []), entry] if one.many else entry
    return _placed(known, values, found, title)


def _placed(known: list[_Parameter], values: list[str], found: dict[str, Any], title: str) -> dict[str, Any]:
    """The words without a flag to the arguments, in order."""
    for one in (one for one in known if isinstance(one.info, Word)):
        if one.many and values:
            found[one.name], values = [_converted(one, one.title, text) for text in values], []
        elif values:
            found[one.name] = _converted(one, one.title, values.pop(0))
        elif one.default is inspect.Parameter.empty:
            raise InputError(f"kvplan {title}: {one.title} is missing", hint=_sentence(one.info.help))
    if values:
        raise InputError(f"kvplan {title}: one word too many: {values[0]!r}", hint=f"kvplan {title} --help shows what it takes")
    return found


def _converted(one: _Parameter, name: str, text: str) -> Any:
    try:
        return one.kind(text)
    except ValueError:
        what = {int: "a whole number", float: "a number"}.get(one.kind, one.title)
        raise InputError(f"{name} {text}: not {what}") from None


def _sentence(text: str) -> str:
    return text[:1].lower() + text[1:].rstrip(".")


def help_text(command: Callable[..., int], title: str, examples: str = "", closing: str = "") -> str:
    """The help of a command: usage, what it does, its arguments and options, examples."""
    known = parameters(command)
    arguments = [one for one in known if isinstance(one.info, Word)]
    usage = " ".join(one.title if one.default is inspect.Parameter.empty else f"[{one.title}]" for one in arguments)
    lines = [f"Usage: kvplan {title} [OPTIONS] {usage}".rstrip(), "", *_wrapped(inspect.getdoc(command) or "")]
    panels: dict[str, list[tuple[str, str]]] = {"Arguments": [(one.title, one.info.help) for one in arguments]}
    for one in known:
        if isinstance(one.info, Flag):
            panels.setdefault(one.info.panel or "Options", []).append((flags_of(one), described(one)))
    panels.setdefault("Options", []).append(("-h, --help", "Show this and exit."))
    order = sorted(panels, key=lambda name: name == "Advanced")
    for panel in order:
        lines += _panel(panel, panels[panel])
    if examples:
        lines += ["", "Examples", *(f"  {line.strip()}" for line in examples.strip().splitlines() if line.strip())]
    if closing:
        lines += ["", *_wrapped(closing)]
    return "\n".join(lines) + "\n"


def flags_of(one: _Parameter) -> str:
    """An option's flags and what its value is called."""
    value = f" {one.title}" if one.words else ""
    return ", ".join(sorted(one.flags, key=len)) + value


def described(one: _Parameter) -> str:
    """An option's help with its default."""
    if one.words == 0 or one.default in (None, "", 0, 0.0, inspect.Parameter.empty) or "Default" in one.info.help:
        return one.info.help
    return f"{one.info.help} Default: {one.default}."


def _width() -> int:
    return min(100, shutil.get_terminal_size((100, 24)).columns)


def _wrapped(text: str) -> list[str]:
    return [line for part in text.split("\n") for line in textwrap.wrap(part, _width()) or [""]]


def _panel(title: str, rows: list[tuple[str, str]]) -> list[str]:
    """Two columns under a title; a long left side stands on a line of its own."""
    if not rows:
        return []
    left = min(28, max(len(flag) for flag, _ in rows))
    lines = ["", title]
    for flag, text in rows:
        wrapped = textwrap.wrap(text, max(24, _width() - left - 4)) or [""]
        if len(flag) > left:
            lines.append(f"  {flag}")
            flag = ""
        lines += [f"  {flag if at == 0 else '':<{left}}  {line}".rstrip() for at, line in enumerate(wrapped)]
    return lines


def commands_text(rows: list[tuple[str, str]], title: str, about: str, closing: str = "") -> str:
    """The help of a group of commands."""
    lines = [f"Usage: kvplan {title}{' ' if title else ''}COMMAND ...", "", *_wrapped(about), *_panel("Commands", rows)]
    return "\n".join([*lines, "", *_wrapped(closing)]) + "\n" if closing else "\n".join(lines) + "\n"


def candidates(command: Callable[..., int], words: list[str]) -> list[str]:
    """What the last of the words after a command's name may become."""
    known = parameters(command)
    options = {flag: one for one in known for flag in one.flags}
    *before, last = words or [""]
    name, equals, value = last.partition("=")
    if equals and name in options:
        return [f"{name}={one}" for one in _completed(options[name], value)]
    if last.startswith("-"):
        return [flag for flag in options if flag.startswith(last) and flag.startswith("--")]
    previous = options.get(before[-1]) if before else None
    if previous is not None and previous.words:
        return _completed(previous, last)
    places = [one for one in known if isinstance(one.info, Word)]
    return [one for place in places[:1] for one in _completed(place, last)]


def _completed(one: _Parameter, text: str) -> list[str]:
    """Candidates for a value; of several separated by commas, for the last."""
    if one.info.complete is None:
        return []
    done, comma, last = text.rpartition(",")
    return [f"{done}{comma}{found}" for found in one.info.complete(last)]
