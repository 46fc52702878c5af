"""Content of host memory that stays because the GPU has it too."""

from __future__ import annotations

from kvplan.sim.cache.pool import Keys, Pin, Pool, keys_of
from kvplan.sim.cache.prefix import Node, span
from kvplan.sim.cache.tier import Tier


class Mirror:
    """Keeps what host memory has of the GPU's runs until the GPU gives them up. A run that is split meanwhile is held by its last part."""

    def __init__(self, gpu: Tier, host: Pool) -> None:
        self.gpu, self.host = gpu, host
        self._held: dict[Node, tuple[Pin, int, int]] = {}  # by the GPU's run: the pin, and its first and last token
        gpu.reused = self._given_up

    def hold(self, leaf: Node, keys: Keys, upto: int) -> None:
        """Host memory has the first `upto` tokens of the content of a run of the GPU."""
        for node in span(leaf, 0):
            if node.start >= upto:
                break
            end = min(node.end, upto)
            held = self._held.get(node)
            if held is None or held[2] < end:
                self._pin(node, keys, node.start if held is None else held[1], end)

    def _pin(self, node: Node, keys: Keys, start: int, end: int) -> None:
        before = self._held.pop(node, None)
        self._held[node] = self.host.pin_part(keys, start, end), start, end
        if before is not None:
            before[0].release()

    def _given_up(self, node: Node, start: int, end: int) -> None:
        """The GPU gives up tokens [start, end) of a run: what host memory has of them may go, and ranks as used now."""
        held = self._held.pop(node, None)
        if held is None:
            return
        pin, first, last = held
        owner = node if start > node.start else node.parent
        if first < min(start, last) and owner is not None and owner not in self._held:
            keys = keys_of(node, self.gpu.tree.key_tokens)
            self._held[owner] = self.host.pin_part(keys, first, min(start, last)), first, min(start, last)
        pin.release()
