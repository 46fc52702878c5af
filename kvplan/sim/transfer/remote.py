"""A remote pool over a network: RDMA, TCP or an object store. Many clients share what it gives."""

from __future__ import annotations

from kvplan.hardware.spec import Network
from kvplan.hardware.timing import objects_s
from kvplan.scenario import Remote
from kvplan.sim.clock import Clock


class Shared:
    """What all clients of a pool have together: a rate for each direction, as a FIFO."""

    def __init__(self, Bps: float) -> None:
        self.Bps = Bps
        self.free_at = [0.0, 0.0]


class RemoteDevice:
    """One client's connection. Objects of `object_bytes` are asked for `parallel` at a time, a round trip each; the
    client's own network and the pool's share of all clients limit the rate. Reads and writes do not slow each other
    (full duplex)."""

    def __init__(self, clock: Clock, network: Network, remote: Remote, shared: Shared, *, token_bytes: float, object_tokens: int) -> None:
        self.clock, self.shared, self.token_bytes = clock, shared, token_bytes
        Bps = remote.client_Bps or network.Bps
        self.path = Network(Bps=min(Bps, shared.Bps or Bps), latency_s=remote.latency_s or network.latency_s)
        self.parallel = remote.parallel
        self.object_bytes = remote.object_bytes or object_tokens * token_bytes
        self.free_at = [0.0, 0.0]
        self.busy_s = [0.0, 0.0]

    def wait_s(self, direction: int) -> float:
        return max(0.0, max(self.free_at[direction], self.shared.free_at[direction]) - self.clock.now)

    def service_s(self, direction: int, tokens: int) -> float:
        """Undisturbed seconds: the rate of the client or of the pool, or the round trips if they take longer."""
        return objects_s(self.path, tokens * self.token_bytes, object_bytes=self.object_bytes, parallel=self.parallel)

    def send(self, direction: int, ready_s: float, tokens: int) -> float:
        """The pool serves clients in turn; a client slower than the pool leaves it free for others."""
        start_s = max(ready_s, self.free_at[direction], self.shared.free_at[direction])
        end_s = start_s + self.service_s(direction, tokens)
        if self.shared.Bps:
            self.shared.free_at[direction] = start_s + tokens * self.token_bytes / self.shared.Bps
        self.free_at[direction] = end_s
        self.busy_s[direction] += end_s - start_s
        return end_s
