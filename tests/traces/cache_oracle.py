"""Slow, obvious caches of blocks, one block at a time."""

from __future__ import annotations

from collections import OrderedDict

Prompts = list[tuple[int, ...]]


def chains(prompts: Prompts) -> list[list[tuple[int, ...]]]:
    """Each block as the tuple of ids up to it."""
    return [[prompt[: end + 1] for end in range(len(prompt))] for prompt in prompts]


def leading(path: list, cache: object) -> int:
    hits = 0
    while hits < len(path) and path[hits] in cache:  # type: ignore[operator]
        hits += 1
    return hits


def lru(prompts: Prompts, capacity: int) -> list[int]:
    """Leading hits per request; all blocks are touched tail first, then the oldest leave."""
    cache: OrderedDict = OrderedDict()
    hits = []
    for path in chains(prompts):
        hits.append(leading(path, cache))
        for block in reversed(path):
            cache[block] = None
            cache.move_to_end(block)
        while len(cache) > capacity:
            cache.popitem(last=False)
    return hits


def fifo(prompts: Prompts, capacity: int) -> list[int]:
    """Leading hits per request; missing blocks enter head first, the oldest entry leaves for each."""
    cache: OrderedDict = OrderedDict()
    hits = []
    for path in chains(prompts):
        hits.append(leading(path, cache))
        for block in path:
            if block not in cache:
                if len(cache) >= capacity:
                    cache.popitem(last=False)
                cache[block] = None
    return hits


def opt(prompts: Prompts, capacity: int) -> list[int]:
    """Leading hits per request; those stay that are needed soonest, the shallower of equals."""
    paths = chains(prompts)
    cache: set = set()
    hits = []
    for now, path in enumerate(paths):
        hits.append(leading(path, cache))

        def needed(block: tuple[int, ...], now: int = now) -> tuple[int, int]:
            return next((t for t in range(now + 1, len(paths)) if block in paths[t]), len(paths)), len(block)

        cache = set(sorted(cache | set(path), key=needed)[:capacity])
    return hits
