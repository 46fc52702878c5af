"""The ways between tiers, as one replica sees them: host memory and its GPUs, a disk or a remote pool and host memory."""

from __future__ import annotations

from typing import Protocol

from kvplan.deployment import Remote
from kvplan.engine.spec import Offload
from kvplan.hardware.spec import Network
from kvplan.hardware.timing import objects_s
from kvplan.loading import Loading
from kvplan.memory.below import Below, Moved
from kvplan.sim.cache.pool import Pool
from kvplan.sim.clock import Clock
from kvplan.sim.transfer.file_threads import FileThreads
from kvplan.sim.transfer.links import IN, OUT, DiskQueue, HostLink

CPU, DISK, REMOTE = 1, 2, 3
"""Places of the tiers among the hits of a request; 0 is the GPU."""


class Path(Protocol):
    """What moves the KV of so many tokens between a tier and the one above."""

    @property
    def busy_s(self) -> float:
        """Seconds that it was busy: of the busier direction, or of the device that both share."""

    def wait_s(self, direction: int) -> float:
        """Seconds until a transfer asked for now would start."""

    def service_s(self, direction: int, tokens: int) -> float:
        """Undisturbed seconds of a transfer."""

    def submit_s(self, direction: int, tokens: int) -> float:
        """Seconds in which the engine's worker hands over a load or a store; 0 where threads of its own do."""

    def send(self, direction: int, ready_s: float, tokens: int) -> tuple[float, float]:
        """Queue a transfer that can start at `ready_s`; returns when it starts and ends."""


class TierBelow:
    """A tier below the GPU: what it holds, the way to the tier above, and its place among the hits of a request."""

    __slots__ = ("pool", "path", "slot")

    def __init__(self, pool: Pool, path: Path, slot: int) -> None:
        self.pool, self.path, self.slot = pool, path, slot


class HostPath:
    """Host memory and the GPUs of a replica: each rank's link carries its share at the same time."""

    def __init__(self, clock: Clock, link: HostLink, loading: Loading, below: Below) -> None:
        self.clock, self.link, self.loading, self.below = clock, link, loading, below
        self._seconds: tuple[dict[int, float], dict[int, float]] = ({}, {})  # by direction, of so many tokens
        self._submit_s: tuple[dict[int, float], dict[int, float]] = ({}, {})

    @property
    def busy_s(self) -> float:
        return max(self.link.busy_s)

    def wait_s(self, direction: int) -> float:
        return max(0.0, self.link.free_at[direction] - self.clock.now)

    def service_s(self, direction: int, tokens: int) -> float:
        known = self._seconds[direction]
        seconds = known.get(tokens)
        if seconds is None:
            moved = self.below.loaded(tokens) if direction == IN else self.below.stored(tokens)
            seconds = known[tokens] = self.loading.host_copy_s(direction, moved)
        return seconds

    def submit_s(self, direction: int, tokens: int) -> float:
        known = self._submit_s[direction]
        seconds = known.get(tokens)
        if seconds is None:
            moved = self.below.loaded(tokens) if direction == IN else self.below.stored(tokens)
            seconds = known[tokens] = self.loading.submit_s(direction, moved.keys)
        return seconds

    def send(self, direction: int, ready_s: float, tokens: int) -> tuple[float, float]:
        if self.loading.engine.offload.one_copy_at_a_time:
            ready_s = max(ready_s, *self.link.free_at)
        return self.link.send(direction, ready_s, self.service_s(direction, tokens))


class DiskPath:
    """A local disk, shared by the ranks of a replica: a file for each chunk of `chunk_tokens`, read and written by the engine's threads.

    A request alone takes as long as the depth of its own pieces makes it, and keeps others from the device only for its share of a full
    queue: small requests add their depths up.
    """

    def __init__(
        self,
        clock: Clock,
        queue: DiskQueue,
        below: Below,
        *,
        chunk_tokens: int,
        rules: Offload,
        byte_s: float = 0.0,
        files: FileThreads | None = None,
    ) -> None:
        self.clock, self.queue, self.below, self.chunk_tokens, self.files = clock, queue, below, chunk_tokens, files
        self.byte_s = byte_s / below.layout.ranks  # beside the device, for each byte of all ranks
        self.writers = below.layout.ranks if rules.disk_per_rank else 1  # processes with files and threads of their own
        self.threads = (rules.disk_read_threads * self.writers, rules.disk_write_threads * self.writers)
        self.depth = (rules.disk_request_reads * self.writers or self.threads[IN], self.threads[OUT])
        self._seconds: tuple[dict[int, tuple[float, float]], dict[int, tuple[float, float]]] = ({}, {})

    @property
    def busy_s(self) -> float:
        return sum(self.queue.busy_s)

    def wait_s(self, direction: int) -> float:
        return max(0.0, self.queue.free_at[direction] - self.clock.now)

    def service_s(self, direction: int, tokens: int) -> float:
        return self._alone_and_share_s(direction, tokens)[0]

    def submit_s(self, direction: int, tokens: int) -> float:
        return 0.0

    def send(self, direction: int, ready_s: float, tokens: int) -> tuple[float, float]:
        alone_s, share_s = self._alone_and_share_s(direction, tokens)
        start_s, free_s = self.queue.send(direction, ready_s, share_s)
        end_s = max(free_s, start_s + alone_s)
        if self.files is not None:
            self.files.handle(self._pieces(direction, tokens)[1], start_s, end_s)
        return start_s, end_s

    def _alone_and_share_s(self, direction: int, tokens: int) -> tuple[float, float]:
        known = self._seconds[direction]
        found = known.get(tokens)
        if found is None:
            size, pieces = self._pieces(direction, tokens)
            alone_s = self.queue.service_s(direction, size, pieces, self.depth[direction]) + size * self.byte_s
            share_s = self.queue.share_s(direction, size, pieces, self.threads[direction])
            if self.threads[direction] == self.writers:  # one file after the other: the next request waits for all of this one
                share_s = alone_s
            least_s = pieces * self.files.file_s if self.files is not None else 0.0
            found = known[tokens] = max(alone_s, least_s), max(share_s, least_s)
        return found

    def _pieces(self, direction: int, tokens: int) -> tuple[int, int]:
        moved = self.below.loaded(tokens) if direction == IN else self.below.stored(tokens)
        return moved.tier_bytes, max(1, -(-moved.keys * self.below.chunk_tokens // self.chunk_tokens)) * self.writers


class PoolRate:
    """What all clients of a remote pool have together: a rate for each direction, as a FIFO."""

    def __init__(self, Bps: float) -> None:
        self.Bps = Bps
        self.free_at = [0.0, 0.0]


class RemotePath:
    """One client's connection to a remote pool: RDMA, TCP or an object store.

    Objects are asked for `parallel` at a time, a round trip each; the client's own network and the pool's share of all clients limit the
    rate. Requests are pipelined: one waits for the bytes of those before it, or for a place among the `parallel`, not for their round
    trips. Reads and writes do not slow each other (full duplex).
    """

    def __init__(
        self, clock: Clock, network: Network, remote: Remote, rate: PoolRate, loading: Loading, below: Below, *, chunk_tokens: int
    ) -> None:
        self.clock, self.network, self.rate, self.loading, self.below = clock, network, rate, loading, below
        self.parallel = remote.parallel
        self.object_bytes = remote.object_bytes or round(chunk_tokens * below.token_bytes)
        self.free_at = [0.0, 0.0]
        self.taken_s = [0.0, 0.0]

    @property
    def busy_s(self) -> float:
        return max(self.taken_s)

    def wait_s(self, direction: int) -> float:
        return max(0.0, max(self.free_at[direction], self.rate.free_at[direction]) - self.clock.now)

    def service_s(self, direction: int, tokens: int) -> float:
        moved = self._moved(direction, tokens)
        network_s = objects_s(self.network, moved.tier_bytes, object_bytes=self.object_bytes, parallel=self.parallel)
        return network_s + self.loading.client_s(moved)

    def submit_s(self, direction: int, tokens: int) -> float:
        return 0.0

    def send(self, direction: int, ready_s: float, tokens: int) -> tuple[float, float]:
        moved = self._moved(direction, tokens)
        size = moved.tier_bytes
        start_s = max(ready_s, self.free_at[direction], self.rate.free_at[direction])
        if self.rate.Bps:  # the pool serves clients in turn; one slower than the pool leaves it free for others
            self.rate.free_at[direction] = start_s + size / self.rate.Bps
        taken_s = max(size / self.network.Bps, -(-size // self.object_bytes) * self.network.latency_s / self.parallel)
        taken_s += self.loading.client_s(moved)
        self.free_at[direction] = start_s + taken_s
        self.taken_s[direction] += taken_s
        return start_s, start_s + max(taken_s, self.service_s(direction, tokens))

    def _moved(self, direction: int, tokens: int) -> Moved:
        return self.below.loaded(tokens) if direction == IN else self.below.stored(tokens)


__all__ = ["CPU", "DISK", "IN", "OUT", "REMOTE", "DiskPath", "HostPath", "Path", "PoolRate", "RemotePath", "TierBelow"]
