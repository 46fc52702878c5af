"""Every combination of several values for several settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import msgspec

from kvplan import catalog, scenario
from kvplan.errors import InputError, did_you_mean
from kvplan.scenario import Scenario

MOST = 64
"""So many combinations are compared in one call; more are a mistake on a command line."""


def combinations(given: Mapping[str, str | None]) -> list[dict[str, str | None]]:
    """One mapping for each combination of the values, which commas separate; None stays.

    Raises InputError for an empty value or more than MOST combinations.
    """
    axes = {}
    for name, text in given.items():
        axes[name] = [None] if text is None else [part.strip() for part in text.split(",")]
        if "" in axes[name]:
            raise InputError(f"--{name.replace('_', '-')} {text}: a value is missing", hint="write them as a,b")
    found = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
    if len(found) > MOST:
        raise InputError(f"{len(found)} combinations: at most {MOST} are compared at once")
    return found


def label(one: Mapping[str, str | None], all_of_them: list[dict[str, str | None]]) -> str:
    """What tells one combination from the others, in a few words; empty when there is one."""
    varying = [name for name in one if len({other[name] for other in all_of_them}) > 1]
    return " ".join(f"TP {one[name]}" if name == "tp" else str(one[name]) for name in varying)


def scenarios(
    sources: Sequence[str],
    *,
    given: Mapping[str, str | None],
    engine_version: str | None = None,
    tiers: dict[str, str | int | None] | None = None,
    run: Mapping[str, Any] | None = None,
    sets: Sequence[str] = (),
    isolated: bool = False,
) -> list[Scenario]:
    """The scenario of each source with each combination of `given` (model, machine, engine, tp, kv_dtype), named by what tells them
    apart. Raises InputError for a source that is neither a file nor a shipped scenario."""
    every = combinations(given)
    found: list[Scenario] = []
    for source in sources:
        check_source(source)
        for one in every:
            spread = {**(run or {}), "tp": ranks(one.get("tp")), "kv_dtype": one.get("kv_dtype")}
            loaded = scenario.load(
                source,
                model=one.get("model"),
                machine=one.get("machine"),
                engine=one.get("engine"),
                engine_version=engine_version,
                tiers=tiers,
                run=spread,
                sets=sets,
                isolated=isolated,
            )
            words = [loaded.name] if len(sources) > 1 or len(every) == 1 else []
            found.append(loaded.changed(name=" ".join([*words, label(one, every)]).strip()))
    return _alike(found) if len(every) > 1 and not (tiers or {}).get("gpu_kv") else found


def _alike(found: list[Scenario]) -> list[Scenario]:
    """Where some of the compared derive their GPU pool, all do."""
    if not any(one.notes for one in found):
        return found
    return [one.changed(tiers=msgspec.structs.replace(one.tiers, gpu_kv_bytes=0)) for one in found]


def ranks(text: str | None) -> int | None:
    """Tensor-parallel ranks from a word. Raises InputError."""
    if text is not None and not text.isdigit():
        raise InputError(f"--tp {text}: not a whole number")
    return None if text is None else int(text)


def check_source(source: str) -> None:
    """Raises InputError for a source that is neither a file nor a shipped scenario."""
    if source == "-" or scenario.is_scenario(source) or Path(source).expanduser().exists():
        return
    raise InputError(f"{source}: no such file, and no scenario of that name", hint=did_you_mean(source, catalog.names("scenarios")))
