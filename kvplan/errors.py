"""One exception family; each carries the exit code that the command line returns.

KvplanError            70  a bug in kvplan
├── InputError          2  what the user gave cannot be used
└── MissingError        3  the environment lacks something (GPU, permission, optional package)
"""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager


class KvplanError(Exception):
    """A failure with a sentence for the user: what and where, and a hint how to mend it."""

    exit_code = 70

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint.strip()


class InputError(KvplanError):
    """What the user gave cannot be used."""

    exit_code = 2


class MissingError(KvplanError):
    """The environment lacks something: a GPU, a permission, an optional package."""

    exit_code = 3


_SURROUNDINGS = {
    errno.ENOSPC: "free some space, or write elsewhere",
    errno.EDQUOT: "free some of the quota, or write elsewhere",
    errno.EFBIG: "the file may not grow so large here: write elsewhere",
    errno.EROFS: "write elsewhere",
    errno.EACCES: "",
    errno.EPERM: "",
    errno.EIO: "",
    errno.EMFILE: "",
    errno.ENOMEM: "",
}
"""Failures of the environment, with what helps; others come from what the user named."""


def from_os(error: OSError, where: object = "") -> KvplanError:
    """The sentence and the exit code for a failure of the operating system."""
    named = str(where or error.filename or "")
    reason = error.strerror or str(error)
    message = f"{named}: {reason[:1].lower()}{reason[1:]}" if named else f"the output cannot be written: {reason[:1].lower()}{reason[1:]}"
    if error.errno in _SURROUNDINGS:
        return MissingError(message, hint=_SURROUNDINGS[error.errno])
    return InputError(message)


_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "object": "a table",
    "array": "a list",
    "null": "nothing",
}
"""What a decoder calls a kind of value -> what people call it."""

_FORMS: tuple[tuple[str, Callable[[re.Match[str]], str]], ...] = (
    (r"Object contains unknown field `(.+)`", lambda found: f"{found[1]} is not a setting"),
    (r"Object missing required field `(.+)`", lambda found: f"{found[1]} is missing"),
    (r"Expected `(.+)`, got `(.+)`", lambda found: f"{_kind(found[1])} is expected, not {_kind(found[2], given=True)}"),
    (r"Expected `(.+)` (>=|<=|>|<) (\S+)", lambda found: f"{_kind(found[1])} {found[2]} {_plain_number(found[3])} is expected"),
    (r"Expected `str` matching regex '\^\((.+)\)\$'", lambda found: f"one of {found[1].replace('|', ', ')} is expected"),
    (r"Invalid enum value (.+)", lambda found: f"{found[1]} is not one of the words for it"),
)
"""What the decoder says of a value that does not fit -> the same in plain words."""


def misfit(error: Exception, where: object = "", fields: Iterable[str] = ()) -> InputError:
    """The sentence for what a decoder found wrong in a file or a record: where, which field, what is expected. `fields` are the names that
    an unknown one is compared with.
    """
    problem, _, at = str(error).partition(" - at `")
    unknown = re.fullmatch(r"Object contains unknown field `(.+)`", problem)
    for form, words in _FORMS:
        if found := re.fullmatch(form, problem):
            problem = words(found)
            break
    place = at.rstrip("`").removeprefix("$").removeprefix(".")
    joined = f"{place}.{problem}" if place and unknown else f"{place}: {problem}" if place else problem
    known, hint = tuple(fields), ""
    if unknown and known:
        hint = f"{unknown[1]} belongs in another table of it" if unknown[1] in known else did_you_mean(unknown[1], known)
    return InputError(f"{where}: {joined}" if where else joined, hint=hint)


@contextmanager
def of_its_kind(where: object, what: str) -> Iterator[None]:
    """Read a document whose parts may be of any kind: where one is not of the kind that is asked for, a sentence says so."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise InputError(f"{where}: a part of it is not of the kind that {what} has there ({type(error).__name__}: {error})") from None


def _kind(names: str, *, given: bool = False) -> str:
    kinds = names.removesuffix(" | null").split(" | ")
    return "a fraction" if given and kinds == ["float"] else " or ".join(_KINDS.get(kind, kind) for kind in kinds)


def _plain_number(text: str) -> str:
    return text.removesuffix(".0")


MOST_KNOWN = 40
"""Of more names than these, a few say nothing."""


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """A hint that names the choices nearest to `name`, the nearest first, else a few of them."""
    known, wanted = sorted(choices), name.lower()
    alike = {choice: difflib.SequenceMatcher(None, wanted, choice.lower()).ratio() for choice in known}
    part = {choice for choice in known if len(wanted) > 1 and (wanted in choice.lower() or (len(choice) > 2 and choice.lower() in wanted))}
    near = sorted((choice for choice in known if choice in part or alike[choice] >= 0.6), key=lambda choice: (-alike[choice], choice))[:4]
    if near:
        return f"did you mean {' or '.join(near)}?"
    if len(known) > MOST_KNOWN:
        return ""
    shown = ", ".join(known[:8])
    return f"known: {shown}{', ...' if len(known) > 8 else '.'}"
