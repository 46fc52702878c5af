"""The text of a /metrics page: series by name, with their labels."""

from __future__ import annotations

import re

import msgspec

_LINE = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)")
_LABEL = re.compile(r'([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"')
MAX_SERIES = 200_000
"""A page with more is cut there."""


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """One reading of /metrics. `announced` holds the names whose type the page tells, with series or without any yet."""

    moment_s: float
    series: dict[str, list[tuple[dict[str, str], float]]] = {}
    announced: frozenset[str] = frozenset()
    unread: int = 0  # lines that are no series

    def value(self, selector: str) -> float | None:
        """The sum of the series that a selector such as `name{label="value"}` matches; 0 for a counter that is announced and
        has not counted yet, None where the page does not know the name."""
        name, labels = split(selector)
        found = [value for has, value in self.series.get(name, ()) if labels.items() <= has.items()]
        if found:
            return sum(found)
        stem = name.removesuffix("_sum").removesuffix("_count").removesuffix("_total")
        return 0.0 if {name, stem, stem + "_total"} & self.announced and not labels else None

    def label(self, name: str, label: str) -> str | None:
        """A label of the first series of an information metric."""
        for has, _ in self.series.get(name, ()):
            return has.get(label)
        return None


def split(selector: str) -> tuple[str, dict[str, str]]:
    """Name and labels of a selector."""
    name, _, labels = selector.partition("{")
    return name, _labels(labels)


def parse(text: str, moment_s: float) -> Page:
    """The page of a text; lines that are no series are counted, whatever they hold."""
    series: dict[str, list[tuple[dict[str, str], float]]] = {}
    announced: set[str] = set()
    count = unread = 0
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            announced.add(line.split()[2] if len(line.split()) > 2 else "")
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.match(line)
        value = _number(match[3]) if match else None
        if match is None or value is None:
            unread += 1
            continue
        count += 1
        if count > MAX_SERIES:
            break
        series.setdefault(match[1], []).append((_labels(match[2] or ""), value))
    return Page(moment_s=moment_s, series=series, announced=frozenset(announced), unread=unread)


def _labels(text: str) -> dict[str, str]:
    return {name: value.replace('\\"', '"').replace("\\\\", "\\") for name, value in _LABEL.findall(text)}


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if value == value and abs(value) != float("inf") else None
