"""How kvplan uses typer: reads a command line by a command's typer options, says what is wrong with it, and writes its help.

A command is a function whose parameters are `Annotated[type, typer.Option(...)]` or `Annotated[type, typer.Argument(...)]`.
"""

from __future__ import annotations

import functools
import inspect
import shutil
import textwrap
import typing
from collections.abc import Callable
from typing import Any

import typer
from typer.main import get_command

from kvplan.errors import InputError, did_you_mean

USAGE_ERROR: type[Exception] = typer.BadParameter.__bases__[0]
"""What typer raises for a command line that is wrong."""


def typer_command(command: Callable[..., int]) -> Any:
    """A command as typer sees it. Invoked, it gives the keyword arguments instead of running."""

    @functools.wraps(command)
    def given(**values: Any) -> dict[str, Any]:
        return values

    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command(add_help_option=False, context_settings={"allow_extra_args": True})(given)
    return get_command(app)


def parameters(command: Callable[..., int]) -> tuple[list[Any], list[Any]]:
    """Typer's arguments and options of a command, in the order of its signature."""
    known = typer_command(command).params
    return [one for one in known if not _is_option(one)], [one for one in known if _is_option(one)]


def _is_option(one: Any) -> bool:
    return bool(one.param_type_name == "option")


def _by_flag(known: list[Any]) -> dict[str, Any]:
    return {flag: one for one in known if _is_option(one) for flag in one.opts}


def title_of(one: Any) -> str:
    """The name of a parameter's value."""
    return str(one.metavar or one.name.upper())


def parse(command: Callable[..., int], words: list[str], title: str) -> dict[str, Any]:
    """Keyword arguments of a command from the words after its name. Raises InputError naming the word that is wrong."""
    read = typer_command(command)
    options = _by_flag(read.params)
    _need_values(words, options)
    _given_once(words, options)
    context = typer.Context(read, info_name=title)
    try:
        given, left, _ = read.make_parser(context).parse_args(args=list(words))
    except USAGE_ERROR as error:
        raise _in_a_sentence(error, options, title) from None
    kinds = typing.get_type_hints(command)
    values = {}
    for one in read.params:
        value = given.get(one.name)
        if isinstance(value, str | bool | list | tuple) and value != ():
            values[one.name] = _converted(one, kinds[one.name], value, context)
        elif one.required:
            raise InputError(f"kvplan {title}: {title_of(one)} is missing", hint=_sentence(one.help))
    if left:
        raise InputError(f"kvplan {title}: one word too many: {left[0]!r}", hint=f"kvplan {title} --help shows what it takes")
    return dict(read.callback(**values))


_TEXT = (str, str | None, list[str], list[str] | None)


def _converted(one: Any, kind: Any, value: Any, context: typer.Context) -> Any:
    """A value as its type. Typer loads pydantic to convert one (0.1 s and more), so what is text already stays as it is."""
    if kind in _TEXT or kind is bool:
        return list(value) if isinstance(value, tuple) else value
    try:
        return one.process_value(context, value)
    except USAGE_ERROR:
        what = {int: "a whole number", float: "a number"}.get(next(iter(typing.get_args(kind)), kind), title_of(one))
        shown = value if isinstance(value, str) else " ".join(value)
        raise InputError(f"{one.opts[0] if _is_option(one) else title_of(one)} {shown}: not {what}") from None


def _need_values(words: list[str], options: dict[str, Any]) -> None:
    """Typer would take an option's name for the value of the option before it."""
    rest = list(words[: words.index("--")] if "--" in words else words)
    while rest:
        one = options.get(name := rest.pop(0))
        if one is not None and not one.is_flag:
            if any(word.startswith("--") and word.partition("=")[0] in options for word in rest[: one.nargs]):
                raise _needs(one, name)
            del rest[: one.nargs]


def _given_once(words: list[str], options: dict[str, Any]) -> None:
    """Typer would silently take the last of several."""
    rest, seen = list(words[: words.index("--")] if "--" in words else words), set()
    while rest:
        name, _, _ = (word := rest.pop(0)).partition("=")
        one = options.get(name)
        if one is None or one.is_flag:
            continue
        if one.name in seen and not one.multiple:
            several = f"write {name} A,B to compare" if "[," in title_of(one) else "give it once"
            raise InputError(f"{name} is given twice", hint=several)
        seen.add(one.name)
        if "=" not in word:
            del rest[: one.nargs]


def _needs(one: Any, name: str) -> InputError:
    return InputError(f"{name} needs {title_of(one)}", hint=_sentence(one.help))


def _in_a_sentence(error: Any, options: dict[str, Any], title: str) -> InputError:
    """Typer's error as kvplan's: what is wrong, and what helps."""
    name = getattr(error, "option_name", "")
    if name in options:
        return InputError(f"{name} takes no value", hint=f"write {name} alone") if options[name].is_flag else _needs(options[name], name)
    if name:
        hint = did_you_mean(name, (*options, "--help")) if name.startswith("--") else ""
        return InputError(f"kvplan {title} has no option {name}", hint=f"{hint} kvplan {title} --help lists them".strip())
    return InputError(f"kvplan {title}: {_sentence(error.format_message())}")


def _sentence(text: str) -> str:
    return text[:1].lower() + text[1:].rstrip(".")


def help_text(command: Callable[..., int], title: str, examples: str = "", closing: str = "") -> str:
    """The help of a command: usage, what it does, its arguments and options, examples."""
    arguments, options = parameters(command)
    usage = " ".join(title_of(one) if one.required else f"[{title_of(one)}]" for one in arguments)
    lines = [f"Usage: kvplan {title} [OPTIONS] {usage}".rstrip(), "", *_wrapped(inspect.getdoc(command) or "")]
    panels: dict[str, list[tuple[str, str]]] = {"Arguments": [(title_of(one), one.help) for one in arguments]}
    for one in options:
        panels.setdefault(one.rich_help_panel or "Options", []).append((flags_of(one), described(one)))
    panels.setdefault("Options", []).append(("-h, --help", "Show this and exit."))
    order = sorted(panels, key=lambda name: name == "Advanced")
    for panel in order:
        lines += _panel(panel, panels[panel])
    if examples:
        lines += ["", "Examples", *(f"  {line.strip()}" for line in examples.strip().splitlines() if line.strip())]
    if closing:
        lines += ["", *_wrapped(closing)]
    return "\n".join(lines) + "\n"


def flags_of(one: Any) -> str:
    """An option's flags and what its value is called."""
    value = "" if one.is_flag else f" {title_of(one)}"
    return ", ".join(sorted(one.opts, key=len)) + value


def described(one: Any) -> str:
    """An option's help with its default."""
    if one.is_flag or one.default in (None, "", 0, 0.0) or "Default" in one.help:
        return str(one.help)
    return f"{one.help} Default: {one.default}."


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
    read = typer_command(command)
    options = _by_flag(read.params)
    context = typer.Context(read)
    *before, last = words or [""]
    name, equals, value = last.partition("=")
    if equals and name in options:
        return [f"{name}={one}" for one in _completed(options[name], context, value)]
    if last.startswith("-"):
        return [flag for flag in options if flag.startswith(last) and flag.startswith("--")]
    previous = options.get(before[-1]) if before else None
    if previous is not None and not previous.is_flag:
        return _completed(previous, context, last)
    places = [one for one in read.params if not _is_option(one)]
    return [one for place in places[:1] for one in _completed(place, context, last)]


def _completed(one: Any, context: Any, text: str) -> list[str]:
    """Candidates for a value; of several separated by commas, for the last."""
    done, comma, last = text.rpartition(",")
    return [f"{done}{comma}{item.value}" for item in one.shell_complete(context, last) if item.type == "plain"]
