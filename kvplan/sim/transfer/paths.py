"""Host memory as one replica sees it: a pool of its own or a shared one, at the end of its links."""

from __future__ import annotations

from kvplan.sim.cache.pool import Pool
from kvplan.sim.clock import Clock
from kvplan.sim.transfer.links import IN, HostLink


class Host:
    """`gpu_token_bytes` is the KV of one token over all ranks as the GPUs hold it, `token_bytes` as host memory does.

    Each rank's link carries its share; a latent that is stored once still goes up to every rank. A block of `piece_tokens`
    crosses in `piece_layers` contiguous pieces: one, or as many as the model has layers with KV.
    """

    def __init__(
        self,
        clock: Clock,
        link: HostLink,
        pool: Pool,
        *,
        gpu_token_bytes: float,
        token_bytes: float,
        ranks: int,
        piece_tokens: int,
        piece_layers: int = 1,
    ) -> None:
        self.clock, self.link, self.pool = clock, link, pool
        self.gpu_token_bytes, self.token_bytes = gpu_token_bytes, token_bytes
        self.ranks, self.piece_tokens, self.piece_layers = ranks, piece_tokens, piece_layers

    def service_s(self, direction: int, tokens: int) -> float:
        """Undisturbed seconds of a transfer."""
        size = tokens * (self.gpu_token_bytes if direction == IN else self.token_bytes)
        pieces = max(1, tokens // self.piece_tokens) * self.piece_layers
        return self.link.service_s(direction, round(size / self.ranks), pieces)

    def wait_s(self, direction: int) -> float:
        """Seconds until a direction is free."""
        return max(0.0, self.link.free_at[direction] - self.clock.now)

    def send(self, direction: int, ready_s: float, tokens: int) -> tuple[float, float]:
        """Queue a transfer that can start at `ready_s`; returns when it starts and ends."""
        size = tokens * (self.gpu_token_bytes if direction == IN else self.token_bytes)
        return self.link.send(direction, ready_s, self.service_s(direction, tokens), round(size))
