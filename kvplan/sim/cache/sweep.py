"""A pool that is not emptied by what comes, but now and then."""

from __future__ import annotations

from kvplan.sim.cache.tier import Tier


class Sweep:
    """Every `every_s` seconds, a pool that is at least `full` full loses a share `lost` of what it holds, the oldest first, as far as it is
    not in use. What finds no room in between finds none."""

    def __init__(self, tier: Tier, *, every_s: float, full: float, lost: float) -> None:
        self.tier, self.every_s, self.full, self.lost = tier, every_s, full, lost
        self._swept = 0
        tier.evicts = False

    def upto(self, now: float) -> None:
        """Do what was due by now. Between two looks nothing comes, so that one sweep stands for the first moment after the last look."""
        due = int(now / self.every_s)
        tier = self.tier
        while self._swept < due and tier.used_tokens >= self.full * tier.capacity_tokens:
            before = tier.used_tokens
            tier.give_up(min(tier.evictable_tokens, int(self.lost * before) // tier.grain_tokens * tier.grain_tokens))
            self._swept += 1
            if tier.used_tokens == before:
                break
        self._swept = due
