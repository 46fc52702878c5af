"""A policy from a user's own file, `./my.py:MyPolicy`: loaded, checked, and watched while it runs.

The class is called with the tier's Facts and needs four methods: `append(entry)`, `touch(entry, again)`,
`remove(entry)` and `victim()`; `insert_after(entry, above)` (default: append) and `resized(entry, tokens)` (default:
nothing) are optional. See Policy for their meaning.
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kvplan.errors import InputError, did_you_mean
from kvplan.sim.cache.eviction.by_name import POLICIES
from kvplan.sim.cache.eviction.policy import Facts, Policy
from kvplan.sim.cache.prefix import Entry

NEEDED = {"append": 1, "touch": 2, "remove": 1, "victim": 0}
"""Method -> arguments besides self."""


def maker(name: str) -> Callable[[Facts], Policy]:
    """What makes a policy, by a name of POLICIES or by `FILE.py:CLASS`. Raises InputError when there is no such policy
    or it lacks a method."""
    if name in POLICIES:
        return POLICIES[name]
    file, colon, attribute = name.rpartition(":")
    if not colon:
        raise InputError(f"no policy named {name!r}", hint=f"{did_you_mean(name, POLICIES)} Your own: ./my.py:MyPolicy")
    kind = _load(Path(file).expanduser(), attribute, name)
    return lambda facts: Watched(name, _made(name, kind, facts))


def _load(path: Path, attribute: str, name: str) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise InputError(f"--policy {name}: {path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise InputError(f"--policy {name}: {path} cannot be loaded: {type(error).__name__}: {error}") from None
    kind = getattr(module, attribute, None)
    if not inspect.isclass(kind):
        classes = [key for key, value in vars(module).items() if inspect.isclass(value)]
        raise InputError(
            f"--policy {name}: {path} has no class {attribute}",
            hint=did_you_mean(attribute, classes) if classes else "",
        )
    for method, arguments in NEEDED.items():
        function = getattr(kind, method, None)
        if not callable(function):
            raise InputError(f"--policy {name}: {attribute} has no method {method}", hint=f"a policy needs {', '.join(NEEDED)}")
        try:
            inspect.signature(function).bind(*range(arguments + 1))
        except TypeError:
            raise InputError(f"--policy {name}: {attribute}.{method} must take {arguments} argument(s) besides self") from None
    return kind


def _made(name: str, kind: Any, facts: Facts) -> Any:
    try:
        return kind(facts)
    except TypeError as error:
        raise InputError(f"--policy {name}: {error}", hint="the class is called with one argument, the facts of its tier") from None


class Watched:
    """A user's policy behind the tier: keeps its entries marked, and stops with a sentence when it names a victim that
    it cannot have."""

    def __init__(self, name: str, policy: Any) -> None:
        self._name, self._policy = name, policy
        self._entries: set[Entry] = set()

    def append(self, entry: Entry) -> None:
        entry.order = self
        self._entries.add(entry)
        self._ask("append", entry)

    def touch(self, entry: Entry, again: bool) -> None:
        self._ask("touch", entry, again)

    def remove(self, entry: Entry) -> None:
        entry.order = None
        self._entries.discard(entry)
        self._ask("remove", entry)

    def insert_after(self, entry: Entry, above: Entry) -> None:
        above.order = self
        self._entries.add(above)
        if hasattr(self._policy, "insert_after"):
            self._ask("insert_after", entry, above)
        else:
            self._ask("append", above)

    def resized(self, entry: Entry, tokens: int) -> None:
        if hasattr(self._policy, "resized"):
            self._ask("resized", entry, tokens)

    def victim(self) -> Entry | None:
        entry = self._ask("victim")
        if entry is None and self._entries:
            raise InputError(f"--policy {self._name}: victim() returned None although {len(self._entries)} entries can be evicted")
        if entry is not None and (not isinstance(entry, Entry) or entry not in self._entries):
            raise InputError(f"--policy {self._name}: victim() returned {entry!r}, which is pinned, evicted or not an entry")
        return entry

    def _ask(self, method: str, *arguments: Any) -> Any:
        try:
            return getattr(self._policy, method)(*arguments)
        except Exception as error:
            raise InputError(f"--policy {self._name}: {method}() failed: {type(error).__name__}: {error}") from None
