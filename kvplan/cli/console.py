"""Streams, verbosity and exit codes of the command line: the result on stdout, everything else on stderr."""

from __future__ import annotations

import enum
import os
import sys
from typing import Any

import msgspec
from rich.console import Console

from kvplan.errors import KvplanError


class Exit(enum.IntEnum):
    """Exit codes of every command."""

    DONE = 0
    NO = 1  # done, and the answer is no: does not fit, target missed
    BAD_INPUT = 2
    MISSING = 3
    BUG = 70
    INTERRUPTED = 130


EXIT_CODES = (
    "Exit codes: 0 done; 1 the answer is no (does not fit, target missed, do not offload); 2 bad input; "
    "3 something is missing here; 70 a bug; 130 interrupted."
)


def out() -> Console:
    """The console of the result. Made anew at each call so that tests and pipes see the current stream."""
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 100
    return Console(file=sys.stdout, highlight=False, soft_wrap=False, width=width)


def err() -> Console:
    """The console of progress, warnings and errors."""
    return Console(file=sys.stderr, highlight=False, soft_wrap=True)


def emit_json(result: Any) -> None:
    """Write one JSON document, and nothing else, to stdout."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(result), indent=2).decode() + "\n")


def warn(text: str) -> None:
    """One warning line on stderr."""
    err().print(f"[yellow]! warning:[/] {_plain(text)}")


def note(text: str, *, quiet: bool = False) -> None:
    """One line on stderr about what was done."""
    if not quiet:
        err().print(text, markup=False)


def fail(error: KvplanError) -> int:
    """Show an error with its hint on stderr; returns its exit code."""
    console = err()
    console.print(f"[red]error:[/] {_plain(error.message)}")
    if error.hint:
        console.print(f"  [cyan]hint:[/] {_plain(error.hint)}")
    return error.exit_code


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)
