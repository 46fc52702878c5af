"""Which blocks go where any may."""

from __future__ import annotations

import numpy as np

DRAWN = 1 << 13
"""Numbers that are drawn at once."""


class Draws:
    """Random sets of blocks, of which only the first block matters."""

    __slots__ = ("_bits", "_numbers", "_sizes", "_at")

    def __init__(self, seed: int) -> None:
        self._bits = np.random.default_rng(seed).bit_generator
        self._numbers = np.empty(0, np.uint64)
        self._sizes = np.empty(0, np.uint64)  # 0, 1, 2 ...
        self._at = 0

    def first(self, count: int, of: int) -> int:
        """The smallest of `count` different numbers below `of`, every set of them being as likely.

        Robert Floyd's algorithm (Bentley and Floyd, CACM 30 (9), 1987) draws a number up to each of the last `count`; where one comes
        again the last itself takes its place, which is larger: the smallest drawn is the smallest of the set. As many draws but one go by
        that would shuffle the set: these are the sets of numpy's Generator.choice.
        """
        if self._at + 2 * count > len(self._numbers):
            self._draw(2 * count)
        if of >= len(self._sizes):
            self._sizes = np.arange(2 * of, dtype=np.uint64)
        drawn = self._numbers[self._at : self._at + count] * self._sizes[of - count + 1 : of + 1]  # 32 bits behind the point
        self._at += 2 * count - 1
        return int(drawn[drawn.argmin()]) >> 32

    def _draw(self, least: int) -> None:
        left = self._numbers[self._at :]
        fresh = self._bits.random_raw(max(DRAWN, least) // 2).view(np.uint32).astype(np.uint64)
        self._numbers, self._at = np.concatenate((left, fresh)), 0
