"""How often content was named: what selective rules go by."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable


class Counts:
    """Names and how often each came, of which the `tracked` named last are kept, as engines bound their trackers. With a `tick_s` each
    count falls by one every so many seconds and a name at zero is forgotten."""

    __slots__ = ("tracked", "tick_s", "_counts", "_tick")

    def __init__(self, tracked: int = 64_000, tick_s: float = 0.0) -> None:
        self.tracked, self.tick_s = tracked, tick_s
        self._counts: OrderedDict[Hashable, int] = OrderedDict()
        self._tick = 0

    def add(self, names: Iterable[Hashable], now: float = 0.0) -> None:
        """Each of these came once more."""
        if self.tick_s:
            self._fall(int(now // self.tick_s))
        counts = self._counts
        for name in names:
            counts[name] = counts.pop(name, 0) + 1
        while len(counts) > self.tracked:
            counts.popitem(last=False)

    def _fall(self, tick: int) -> None:
        passed, self._tick = tick - self._tick, tick
        if passed:
            self._counts = OrderedDict((name, count - passed) for name, count in self._counts.items() if count > passed)

    def leading(self, names: Iterable[Hashable], times: int) -> int:
        """How many of these, from the first on, came at least so often."""
        found = 0
        for name in names:
            if self._counts.get(name, 0) < times:
                break
            found += 1
        return found
