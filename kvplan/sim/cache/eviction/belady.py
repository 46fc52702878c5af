"""What the trace will ask for: knowledge that no engine has, for the bound."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_right
from collections.abc import Iterable

from kvplan.errors import InputError
from kvplan.request import Request
from kvplan.sim.cache.prefix import Node, PrefixTree, span
from kvplan.sim.clock import Clock


class Future:
    """When each run is asked for. Makes all runs of the trace in the index beforehand and keeps them, so that none is
    split later."""

    def __init__(self, tree: PrefixTree, requests: Iterable[Request], clock: Clock, speedup: float = 1.0) -> None:
        tree.permanent = True
        self._clock = clock
        self._uses: dict[Node, array[float]] = {}
        asked = []
        for request in requests:
            if request.think_s >= 0:
                raise InputError("the policy belady needs to know when requests arrive; in this trace turns wait for answers")
            tree.path(request.blocks, request.prompt_tokens)
            asked.append((request.arrival_s / speedup, request.blocks, request.prompt_tokens))
        for arrival, blocks, tokens in asked:
            for node in span(tree.path(blocks, tokens), 0):
                self._uses.setdefault(node, array("d")).append(arrival)

    def next_use_s(self, node: Node) -> float:
        """The first arrival after now that asks for a run; infinite when none does."""
        uses = self._uses.get(node)
        if uses is None:
            return math.inf
        index = bisect_right(uses, self._clock.now)
        return uses[index] if index < len(uses) else math.inf
