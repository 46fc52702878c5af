"""Which replica a request goes to. A router knows how many requests each replica has, and what it has sent where: not
what was evicted."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Protocol

from kvplan.request import Request
from kvplan.sim.clock import Clock

MATCH_SHARE = 0.5
"""A replica's cache counts when it was sent at least this share of the prompt: a system prompt that all have seen draws nobody. The first
`cache_threshold` of SGLang's router; 0.3 in later ones."""

CROWDED_REQUESTS, CROWDED_RATIO = 4, 1.5
"""A replica with so many requests more than the least loaded, and so many times as many, is passed over in spite of its cache. The ratio is
`balance_rel_threshold` of SGLang's router; its `balance_abs_threshold` of 64 (32 at first) is meant for servers with hundreds of requests
each, 4 is assumed for the traces here."""


class Router(Protocol):
    """Chooses replicas by number."""

    def choose(self, request: Request) -> int:
        """The replica for a request."""


class Fleet:
    """What a router may know: the number of replicas, requests on each, and what fits into their caches.

    `loads()` are the requests that wait or run; what a router hears is up to `stale_s` old. `cache_tokens` is what one
    replica can hold.
    """

    def __init__(
        self,
        clock: Clock,
        loads: Callable[[], Sequence[int]],
        *,
        replicas: int,
        key_tokens: int,
        cache_tokens: int,
        stale_s: float,
    ) -> None:
        self.clock, self.replicas, self.stale_s = clock, replicas, stale_s
        self.cache_keys = max(1, cache_tokens // max(1, key_tokens))
        self._sent = [0] * replicas
        self._loads, self._heard, self._heard_s = loads, list(loads()), float("-inf")

    def loads(self) -> Sequence[int]:
        """Requests on each replica as last heard, and what was sent since."""
        if not self.stale_s:
            return self._loads()
        if self.clock.now - self._heard_s >= self.stale_s:
            self._heard, self._heard_s = list(self._loads()), self.clock.now
        return self._heard

    def sent(self, replica: int) -> int:
        """Note that a request goes to a replica; returns it."""
        self._sent[replica] += 1
        if self.stale_s:
            self._heard[replica] += 1
        return replica

    def least(self) -> int:
        """The replica with the fewest requests; of equal ones the one that was sent the fewest so far."""
        loads, sent = self.loads(), self._sent
        return min(range(self.replicas), key=lambda replica: (loads[replica], sent[replica]))


class RoundRobin:
    """One after the other."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet, self._next = fleet, -1

    def choose(self, request: Request) -> int:
        self._next = (self._next + 1) % self._fleet.replicas
        return self._next


class LeastLoaded:
    """The fewest requests."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def choose(self, request: Request) -> int:
        return self._fleet.sent(self._fleet.least())


class SessionSticky:
    """The replica of the session's first request; requests without a session go where the fewest are."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._homes: dict[str, int] = {}

    def choose(self, request: Request) -> int:
        if not request.session:
            return self._fleet.sent(self._fleet.least())
        if request.session not in self._homes:
            self._homes[request.session] = self._fleet.least()
        return self._fleet.sent(self._homes[request.session])


class PrefixAware:
    """The replica that was sent the longest part of the prompt before, if that is much and it is not crowded; else the
    least loaded.

    What was sent becomes known after `stale_s` and is forgotten, least recently sent first, beyond what a replica's
    caches hold.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._holders: dict[int, int] = {}  # key -> replicas as bits
        self._sent: list[OrderedDict[int, None]] = [OrderedDict() for _ in range(fleet.replicas)]
        self._unheard: list[tuple[float, int, tuple[int, ...]]] = []
        self._read = 0

    def choose(self, request: Request) -> int:
        self._hear()
        loads = self._fleet.loads()
        chosen = least = self._fleet.least()
        matched, holders = self._longest(request.blocks)
        if holders and matched >= MATCH_SHARE * len(request.blocks):
            best = min((replica for replica in range(self._fleet.replicas) if holders >> replica & 1), key=loads.__getitem__)
            if loads[best] <= max(loads[least] + CROWDED_REQUESTS, loads[least] * CROWDED_RATIO):
                chosen = best
        self._unheard.append((self._fleet.clock.now + self._fleet.stale_s, chosen, request.blocks))
        return self._fleet.sent(chosen)

    def _longest(self, keys: tuple[int, ...]) -> tuple[int, int]:
        """Leading keys that some replica was sent, and which replicas, as bits."""
        matched, found, left = 0, 0, -1
        for key in keys:
            left &= self._holders.get(key, 0)
            if not left:
                break
            matched, found = matched + 1, left
        return matched, found

    def _hear(self) -> None:
        now = self._fleet.clock.now
        while self._read < len(self._unheard) and self._unheard[self._read][0] <= now:
            _, replica, keys = self._unheard[self._read]
            self._read += 1
            self._note(replica, keys)
        if self._read > 1024:
            del self._unheard[: self._read]
            self._read = 0

    def _note(self, replica: int, keys: tuple[int, ...]) -> None:
        sent, bit = self._sent[replica], 1 << replica
        for key in reversed(keys):
            sent[key] = sent.pop(key, None)
            self._holders[key] = self._holders.get(key, 0) | bit
        while len(sent) > self._fleet.cache_keys:
            key, _ = sent.popitem(last=False)
            left = self._holders[key] & ~bit
            if left:
                self._holders[key] = left
            else:
                del self._holders[key]


ROUTERS: dict[str, Callable[[Fleet], Router]] = {
    "round_robin": RoundRobin,
    "least_loaded": LeastLoaded,
    "prefix_aware": PrefixAware,
    "session_sticky": SessionSticky,
}
"""Router name -> its maker."""
