"""Which layers slide, by the rule of the family, where a config has no `layer_types`."""

from __future__ import annotations

from collections.abc import Callable

from kvplan.model.attention import FULL, SLIDING
from kvplan.model.config import Fields

Rule = Callable[[Fields, int], list[str]]


def _every(period: int, count: int) -> list[str]:
    return [FULL if (i + 1) % period == 0 else SLIDING for i in range(count)]


def all_slide(fields: Fields, count: int) -> list[str]:
    """Every layer slides where the config has a window."""
    return [SLIDING if fields.number("sliding_window") else FULL] * count


def listed(fields: Fields, count: int) -> list[str]:
    """Raises InputError: only the config's own list tells which layers slide."""
    raise fields.refuse("which of its layers slide is not clear", "layer_types")


def from_max_window_layers(fields: Fields, count: int) -> list[str]:
    """Qwen: windows only with `use_sliding_window`, and only in layers from `max_window_layers` on."""
    if not fields.get("use_sliding_window") or not fields.number("sliding_window"):
        return [FULL] * count
    first = fields.number("max_window_layers") or 0
    return [SLIDING if i >= first else FULL for i in range(count)]


def pattern(default: int) -> Rule:
    """`sliding_window_pattern` as letters or as a period; every `default`-th layer attends to everything."""

    def types(fields: Fields, count: int) -> list[str]:
        given = fields.get("sliding_window_pattern", "_sliding_window_pattern")
        if isinstance(given, str):
            return [SLIDING if given[i % len(given)] == "L" else FULL for i in range(count)]
        if not fields.number("sliding_window"):
            return [FULL] * count
        period = int(given) if isinstance(given, int | float) and given >= 1 else 0
        if given and not period:
            raise fields.refuse("the pattern of its windows is not a number of layers", "sliding_window_pattern")
        return _every(period or default, count)

    return types


def global_every(fields: Fields, count: int) -> list[str]:
    """Every `global_attn_every_n_layers`-th layer attends to everything."""
    return _every(fields.number("global_attn_every_n_layers") or 4, count)


def alternate(fields: Fields, count: int) -> list[str]:
    """A sliding layer, then one that attends to everything."""
    return [SLIDING if i % 2 == 0 else FULL for i in range(count)]


def first_of_four(fields: Fields, count: int) -> list[str]:
    """The first of each four layers attends to everything."""
    return [FULL if i % 4 == 0 else SLIDING for i in range(count)]


def period(length: int, *, last_full: bool = False) -> Rule:
    """Every `length`-th layer attends to everything, and the last one where `last_full`."""

    def types(fields: Fields, count: int) -> list[str]:
        kinds = _every(length, count)
        return [*kinds[:-1], FULL] if last_full else kinds

    return types
