"""What a running sequence takes of the GPU pool beside the blocks of the layers that keep every token: windows and states.

Sizes are in tokens of growth: the pool's blocks, by how many tokens the layers that keep everything would hold in them.
"""

from __future__ import annotations

from kvplan.memory.layout import Layout


class WindowBlocks:
    """Layers with one window: each `unit` of a sequence takes `weight` tokens; once the window is covered an old one goes for it."""

    __slots__ = ("weight", "window", "cover", "unit", "chunked")

    def __init__(self, weight: int, window: int, unit: int, *, chunked: bool) -> None:
        self.weight, self.window, self.unit, self.chunked = weight, window, unit, chunked
        self.cover = -(-window // unit) + 1  # units that decoding holds: the window need not start at a unit's edge

    def held(self, units: int, new_tokens: int = 1) -> int:
        """Tokens held by a sequence of so many units of which a step computes the last `new_tokens`."""
        tokens = self.window + new_tokens if self.chunked else self.window - 1 + new_tokens
        return self.weight * min(units, -(-tokens // self.unit) + (not self.chunked))


class Footprint:
    """By how many tokens at once a sequence grows (`unit`), its windows, and its states.

    Windows keep what steps of at most `in_flight_tokens` tokens compute that are not settled.
    """

    __slots__ = ("unit", "unit_blocks", "windows", "states", "plain", "slid", "in_flight_tokens")

    def __init__(
        self, unit: int, unit_blocks: int = 1, windows: tuple[WindowBlocks, ...] = (), states: int = 0, in_flight_tokens: int = 1
    ) -> None:
        self.unit, self.unit_blocks, self.windows, self.states, self.in_flight_tokens = unit, unit_blocks, windows, states, in_flight_tokens
        self.plain = not windows and not states  # do all layers keep every token
        self.slid = sum(each.weight for each in windows)  # tokens of all windows together for one unit

    def held(self, units: int, new_tokens: int = 1) -> int:
        """Tokens that a sequence holds beside its growth, after so many units; see WindowBlocks."""
        return self.states + sum(each.held(units, new_tokens) for each in self.windows)

    def request(self, tokens: int) -> int:
        """The most that a request of so many tokens takes at any time."""
        units = -(-tokens // self.unit)
        return units * self.unit + self.held(units, self.in_flight_tokens)


def footprint(layout: Layout) -> Footprint:
    """The footprint of a block layout. A model whose layers all have windows is charged as if they kept every token."""
    unit, blocks = layout.unit_tokens, layout.unit_blocks
    if not unit:
        return Footprint(layout.block_tokens, layout.groups)
    weights: dict[tuple[int, bool], int] = {}
    states = 0
    for one in layout.types:
        if one.kind == "state":
            states += one.groups * layout.state_blocks
        elif one.kind in ("window", "chunked"):
            kind = one.window_tokens, one.kind == "chunked"
            weights[kind] = weights.get(kind, 0) + one.groups * unit // one.block_tokens
        elif not one.grows:
            states += one.groups * -(-one.window_tokens // one.block_tokens)  # of an encoder, whatever the context
    windows = tuple(WindowBlocks(-(-count * unit // blocks), window, unit, chunked=chunked) for (window, chunked), count in weights.items())
    return Footprint(unit, blocks, windows, -(-states * unit // blocks), layout.in_flight_tokens)
