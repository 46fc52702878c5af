"""Prefill and decode on different replicas: what was computed on one is loaded by the other over the network."""

from __future__ import annotations

from typing import Any


class _Counter:
    loaded_tokens = 0


class Delivery:
    """Stands for host memory on a replica that only decodes: all of a prompt is there to be loaded, and nothing is
    kept."""

    def __init__(self) -> None:
        self.tier = _Counter()

    def count(self, keys: Any) -> None:
        pass

    def look(self, keys: Any, start: int, limit: int, *, again: bool, retention: int) -> int:
        return limit

    def pin(self, keys: Any, end: int) -> None:
        pass

    def unpin(self, leaf: None, *, moved_from: int | None = None) -> None:
        pass
