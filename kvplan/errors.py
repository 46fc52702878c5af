"""One exception family; each carries the exit code that the command line returns.

KvplanError            70  a bug in kvplan
├── InputError          2  what the user gave cannot be used
└── MissingError        3  the environment lacks something (GPU, permission, optional package)
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class KvplanError(Exception):
    """A failure with a sentence for the user: what and where, and a hint how to mend it."""

    exit_code = 70

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class InputError(KvplanError):
    """What the user gave cannot be used."""

    exit_code = 2


class MissingError(KvplanError):
    """The environment lacks something: a GPU, a permission, an optional package."""

    exit_code = 3


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """A hint that names the choices that contain `name`, else the nearest ones, else a few of them."""
    known = sorted(choices)
    wanted = name.lower()
    near = [choice for choice in known if len(wanted) > 1 and wanted in choice.lower()][:4]
    near = near or difflib.get_close_matches(wanted, known, n=3, cutoff=0.6)
    if near:
        return f"did you mean {' or '.join(near)}?"
    shown = ", ".join(known[:8])
    return f"known: {shown}{', ...' if len(known) > 8 else ''}"
