"""Names of the command-line options that an engine's parser knows, by version, as recorded from its source."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from kvplan.catalog import read_text
from kvplan.engine.versions import order


@functools.cache
def _recorded() -> dict[str, dict[str, Any]]:
    return msgspec.toml.decode(read_text(Path(__file__).with_name("options.toml")))


@functools.cache
def options(program: str, version: str = "") -> frozenset[str]:
    """Option names of a program at a version, the oldest recorded one where it is older still; empty when none were recorded."""
    written = _recorded().get(program)
    if written is None:
        return frozenset()
    names = set(written["options"])
    for change in written.get("changes", ()):
        if order(change["since"]) <= order(version or written["version"]):
            names = (names | set(change.get("added", ()))) - set(change.get("removed", ()))
    return frozenset(names)


def unknown_options(flags: Iterable[str], program: str, version: str = "") -> list[str]:
    """Flags that the program's parser would refuse.

    `--no-x` belongs to the switch `--x`, dots name a field of a JSON option, `-m` and `-c` are the interpreter's.
    """
    known = options(program, version)
    found = []
    for flag in flags if known else ():
        name = flag.partition(".")[0]
        if name not in ("-m", "-c") and name not in known and "--" + name.removeprefix("--no-") not in known:
            found.append(flag)
    return found
