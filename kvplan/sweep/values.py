"""What is varied: settings with their values, as lists and ranges, and the grid that they make."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import product

import msgspec

from kvplan.errors import InputError

MOST_VALUES = 100_000
MOST_RUNS = 100_000
"""So many runs fill a day; more are a search's work."""

Point = dict[str, str]
"""Setting -> value, as text: one row of a sweep."""

_NUMBER = re.compile(r"^\s*([+-]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([A-Za-z/]*)\s*$")


class Axis(msgspec.Struct, frozen=True):
    """A setting by its short name or dotted path, and the values that it takes."""

    path: str
    values: tuple[str, ...]


def parse_axis(text: str) -> Axis:
    """An axis from `path=v1,v2` or `path=1..64GiB:x2`. Raises InputError."""
    path, equals, values = (part.strip() for part in text.partition("="))
    if not equals or not path:
        raise InputError(f"--vary {text}: write PATH=V1,V2", hint="for example --vary cpu=0,8GiB,64GiB or --vary cpu=1..64GiB:x2")
    return axis_of(path, values.split(","))


def axis_of(path: str, values: Sequence[object]) -> Axis:
    """An axis from values, some of which may be ranges; equal ones count once. Raises InputError for none."""
    found: list[str] = []
    for value in values:
        text = _text(value)
        if not text:
            raise InputError(f"--vary {path}: a value is missing", hint=f"write {path}=V1,V2")
        found.extend(_range(path, text) if _is_range(text) else [text])
    if not found:
        raise InputError(f"--vary {path}: no values", hint=f"write {path}=V1,V2")
    return Axis(path, tuple(dict.fromkeys(found)))


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value).strip()


def _is_range(text: str) -> bool:
    return ".." in text and _NUMBER.match(text.partition("..")[0]) is not None


def _range(path: str, text: str) -> Iterator[str]:
    """The values of `1..64GiB:x2` or `0..8GiB:+2GiB`; a bound or step without a unit has the other bound's."""
    ends, colon, by = text.partition(":")
    low, _, high = ends.partition("..")
    if not colon or not by.strip() or by.strip()[0] not in "x+":
        raise InputError(f"--vary {path}={text}: a range needs its step", hint=f"write {ends}:x2 to double, or {ends}:+1 to add")
    (start, unit), (end, its_unit) = _number(path, low, text), _number(path, high, text)
    step, step_unit = _number(path, by.strip()[1:], text)
    unit, its_unit = unit or its_unit, its_unit or unit
    if unit != its_unit or step_unit not in ("", unit) or (step_unit and by.strip()[0] == "x"):
        raise InputError(f"--vary {path}={text}: one unit for the whole range", hint=f"for example 1..64{its_unit}:x2")
    doubling = by.strip()[0] == "x"
    if (doubling and (step <= 1 or start <= 0)) or step <= 0:
        raise InputError(
            f"--vary {path}={text}: never reaches its end", hint="x multiplies from above 0 by more than 1; + adds more than 0"
        )
    if end < start:
        raise InputError(f"--vary {path}={text}: the range is empty", hint=f"the smaller end comes first: {high}..{low}")
    count = math.log(end / start) / math.log(step) if doubling else (end - start) / step
    if count > MOST_VALUES:
        raise InputError(f"--vary {path}={text}: {count:,.0f} values, at most {MOST_VALUES:,}", hint="a larger step")
    for at in range(int(count + 1e-9) + 1):
        yield f"{start * step**at if doubling else start + at * step:.12g}{unit}"


def _number(path: str, text: str, whole: str) -> tuple[float, str]:
    match = _NUMBER.match(text)
    if not match:
        raise InputError(f"--vary {path}={whole}: {text!r} is not a number", hint="ranges are of numbers: 1..64GiB:x2")
    return float(match[1].replace("_", "")), match[2]


def grid_points(axes: Sequence[Axis], *, zipped: bool = False, most: int = MOST_RUNS) -> list[Point]:
    """All combinations of the values, the last axis the fastest; `zipped`: the first values together, then the second ones, and so on.

    Raises InputError for an axis that is named twice, axes of different length that are zipped, and more than `most` points.
    """
    paths = [axis.path for axis in axes]
    twice = next((path for path in paths if paths.count(path) > 1), None)
    if twice:
        raise InputError(f"--vary {twice} stands there twice", hint=f"write all its values in one: --vary {twice}=V1,V2,V3")
    if zipped:
        lengths = {axis.path: len(axis.values) for axis in axes}
        if len(set(lengths.values())) > 1:
            shown = ", ".join(f"{path} {length}" for path, length in lengths.items())
            raise InputError(f"--zip: the settings have different numbers of values ({shown})", hint="leave --zip out for all combinations")
        rows: Iterator[tuple[str, ...]] = zip(*(axis.values for axis in axes), strict=True)
    else:
        count = math.prod(len(axis.values) for axis in axes)
        if count > most:
            raise InputError(
                f"{count:,} runs: at most {most:,} in one grid",
                hint='ask for what you want instead of for all: --goal "min cost: ttft_p95<2s" runs a few of them',
            )
        rows = product(*(axis.values for axis in axes))
    return [dict(zip(paths, row, strict=True)) for row in rows]


def axes_of(settings: Mapping[str, object]) -> list[Axis]:
    """Axes from a table of a TOML file: a list of values, or one string as on the command line."""
    return [axis_of(path, value if isinstance(value, list) else str(value).split(",")) for path, value in settings.items()]
