"""`kvplan explain`: what a word of a report means."""

from __future__ import annotations

from typing import Annotated

import typer

from kvplan.cli.console import Exit, out
from kvplan.errors import InputError, did_you_mean
from kvplan.report.tables import print_terms
from kvplan.report.terms import OTHER_WORDS, TERMS

EXAMPLES = """
kvplan explain wins-from
kvplan explain
"""


def explain(
    term: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TERM",
            help="A word or column of a report; none: all of them.",
            autocompletion=lambda incomplete: [one for one in TERMS if one.startswith(incomplete)],
        ),
    ] = None,
) -> int:
    """Say what a word of a report means, and how its number comes about."""
    name = "-".join(term or []).lower().replace("_", "-").replace(" ", "-")
    if not name:
        print_terms(out(), [(one, meaning.partition(". ")[0].rstrip(".")) for one, meaning in TERMS.items()])
        return Exit.DONE
    name = OTHER_WORDS.get(name, name)
    if name not in TERMS:
        raise InputError(f"{' '.join(term or [])!r} is not explained", hint=did_you_mean(name, TERMS))
    print_terms(out(), [(name, TERMS[name])])
    return Exit.DONE
