"""Tiers behind host memory: a local disk, a remote pool. Content reaches them from host memory and comes back
into it."""

from __future__ import annotations

from typing import Protocol

from kvplan.sim.cache.pool import Pool
from kvplan.sim.clock import Clock
from kvplan.sim.transfer.links import IN, DiskQueue


class Device(Protocol):
    """What moves bytes between host memory and a lower tier."""

    def wait_s(self, direction: int) -> float:
        """Seconds until a transfer asked for now would start."""

    def service_s(self, direction: int, tokens: int) -> float:
        """Undisturbed seconds of a transfer."""

    def send(self, direction: int, ready_s: float, tokens: int) -> float:
        """Queue a transfer; returns when it ends."""


class Lower:
    """One such tier: what it holds, what moves its bytes, and its place among the hits of a request (2 disk,
    3 remote)."""

    __slots__ = ("pool", "device", "slot")

    def __init__(self, pool: Pool, device: Device, slot: int) -> None:
        self.pool, self.device, self.slot = pool, device, slot


class DiskDevice:
    """A local disk, shared by the ranks of a replica, read and written in pieces."""

    def __init__(
        self,
        clock: Clock,
        queue: DiskQueue,
        *,
        token_bytes: float,
        piece_tokens: int,
        read_threads: int,
        write_threads: int,
    ) -> None:
        self.clock, self.queue, self.token_bytes, self.piece_tokens = clock, queue, token_bytes, piece_tokens
        self.threads = (read_threads, write_threads)

    def wait_s(self, direction: int) -> float:
        return max(0.0, self.queue.free_at[direction] - self.clock.now)

    def service_s(self, direction: int, tokens: int) -> float:
        pieces = max(1, tokens // self.piece_tokens)
        return self.queue.service_s(direction, round(tokens * self.token_bytes), pieces, self.threads[0 if direction == IN else 1])

    def send(self, direction: int, ready_s: float, tokens: int) -> float:
        return self.queue.send(direction, ready_s, self.service_s(direction, tokens), round(tokens * self.token_bytes))[1]
