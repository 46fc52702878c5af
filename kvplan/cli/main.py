"""The `kvplan` command: its commands, and the one place that turns failures into exit codes."""

from __future__ import annotations

import functools
import importlib
import os
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from kvplan import __version__
from kvplan.cli import plain
from kvplan.cli.console import Exit, err, fail
from kvplan.errors import KvplanError

app = typer.Typer(
    name="kvplan",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="When to move KV cache out of GPU memory, where to, and how much.",
)


def _version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"kvplan {__version__}\n")
        raise typer.Exit()


@app.callback()
def main(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    pass


def _exit_code(command: Callable[..., int], *args: Any, **kwargs: Any) -> int:
    """Run a command: its return value is the exit code, and a failure becomes a sentence on stderr and its code."""
    try:
        code = command(*args, **kwargs)
        sys.stdout.flush()
    except KvplanError as error:
        if os.environ.get("KVPLAN_DEBUG"):
            raise
        code = fail(error)
    except KeyboardInterrupt:
        err().print("interrupted")
        code = Exit.INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = Exit.DONE
    return int(code)


def guard(command: Callable[..., int]) -> Callable[..., None]:
    """A command as typer runs it."""

    @functools.wraps(command)
    def guarded(*args: Any, **kwargs: Any) -> None:
        raise typer.Exit(_exit_code(command, *args, **kwargs))

    return guarded


COMMANDS: dict[str, str] = {
    "size": "kvplan.cli.size:size",
    "simulate": "kvplan.cli.simulate:simulate",
    "calibrate": "kvplan.cli.calibrate:calibrate",
    "plan": "kvplan.cli.plan:plan",
    "trace": "kvplan.cli.trace:app",
}
"""Command name -> module:function, or module:app for a group of commands. Only the module of the command that runs is imported."""


def _load(target: str) -> Callable[..., int] | typer.Typer:
    module, function = target.split(":")
    return getattr(importlib.import_module(module), function)


def run() -> None:
    """Entry point. Commands are imported only as far as the command line needs them, so that `kvplan size` starts fast."""
    asked = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    if sys.argv[1:2] == [asked] and asked in COMMANDS:
        command = _load(COMMANDS[asked])
        if not isinstance(command, typer.Typer):
            arguments = plain.arguments(command, sys.argv[2:])
            if arguments is not None:
                sys.exit(_exit_code(command, **arguments))
    for name, target in COMMANDS.items():
        if name == asked or asked not in COMMANDS:
            loaded = _load(target)
            if isinstance(loaded, typer.Typer):
                app.add_typer(loaded, name=name)
            else:
                examples = getattr(sys.modules[loaded.__module__], "EPILOG", None)
                app.command(name=name, epilog=examples)(guard(loaded))
    app()
