"""A sweep's question, from options or from a TOML file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from kvplan import catalog
from kvplan.economics.prices import PriceSource
from kvplan.errors import InputError, misfit
from kvplan.sweep.goal import parse_front, parse_goal
from kvplan.sweep.points import NAMED, Common
from kvplan.sweep.sweep import SweepQuestion
from kvplan.sweep.values import axes_of, axis_of, parse_axis


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line gives; a name with commas is varied."""

    vary: tuple[str, ...] = ()
    zipped: bool = False
    named: dict[str, str | None] = {}
    sets: tuple[str, ...] = ()
    isolated: bool = False
    goal: str = ""
    front_of: str = ""
    prices: PriceSource | None = None


class _SweepFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A sweep as a file."""

    scenario: str  # or a trace; relative to the file
    vary: dict[str, Any]
    zip: bool = False
    set: dict[str, Any] = {}
    goal: str = ""
    pareto: str = ""


def question_of(source: str, options: Options, *, fleet: bool = False) -> SweepQuestion:
    """The question. Options come on top of what a file says; a `fleet` varies by itself. Raises InputError when nothing is varied."""
    written = _read(source)
    axes = axes_of(written.vary) if written else []
    axes = [axis for axis in axes if axis.path not in {text.partition("=")[0].strip() for text in options.vary}]
    axes += [parse_axis(text) for text in options.vary]
    several = {name: value.split(",") for name, value in options.named.items() if value and "," in value}
    axes += [axis_of(name, values) for name, values in several.items()]
    if not axes and not fleet:
        raise InputError("what is to be varied?", hint="for example --vary cpu=0,8GiB,64GiB; `kvplan simulate` runs a single point")
    named = {name: None if name in several else options.named.get(name) for name in NAMED}
    goal, front_of = options.goal or (written.goal if written else ""), options.front_of or (written.pareto if written else "")
    sought = parse_goal(goal) if goal else None
    limits = (f"run.target={sought.limits}",) if sought and sought.limits else ()
    fixed = tuple(f"{path}={value}" for path, value in written.set.items()) if written else ()
    common = Common(
        source=_beside(source, written.scenario) if written else source,
        named=named,
        sets=(*fixed, *options.sets, *limits),
        isolated=options.isolated,
    )
    return SweepQuestion(
        common=common,
        axes=tuple(axes),
        zipped=options.zipped or bool(written and written.zip),
        goal=sought,
        front_of=parse_front(front_of) if front_of else (),
        prices=options.prices,
    )


def _read(source: str) -> _SweepFile | None:
    """The sweep that a file describes; None when it is a scenario or a trace."""
    path = Path(source).expanduser()
    if not source.endswith(".toml") or not path.is_file():
        return None
    text = catalog.read_text(path)
    try:
        if "vary" not in msgspec.toml.decode(text):
            return None
        return msgspec.toml.decode(text, type=_SweepFile)
    except msgspec.ValidationError as error:
        raise misfit(error, path, _SweepFile.__struct_fields__) from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise InputError(f"{path}: not valid TOML: {error}") from None


def _beside(file: str, name: str) -> str:
    """A scenario's name as it is, a path from the file's folder."""
    beside = Path(file).expanduser().parent / name
    return str(beside) if beside.is_file() else name
