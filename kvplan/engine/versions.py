"""From an engine's file to the facts of one version: what the file says, with the changes up to that version laid over it."""

from __future__ import annotations

import re
from typing import Any

Facts = dict[str, Any]


def order(version: str) -> tuple[int, ...]:
    """The numbers of a version, for comparison."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def at_version(written: Facts, version: str) -> Facts:
    """The facts of an engine at a version. Each of `changes` holds from its `since` on; a table in it replaces only the fields it names."""
    facts = {key: value for key, value in written.items() if key != "changes"}
    for change in sorted(written.get("changes", ()), key=lambda one: order(one["since"])):
        if order(change["since"]) <= order(version):
            facts = overlaid(facts, {key: value for key, value in change.items() if key != "since"})
    return {**facts, "version": version}


def overlaid(facts: Facts, changes: Facts) -> Facts:
    """`facts` with `changes` laid over them, table by table."""
    laid = dict(facts)
    for key, value in changes.items():
        laid[key] = overlaid(laid.get(key, {}), value) if isinstance(value, dict) else value
    return laid
