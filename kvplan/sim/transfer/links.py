"""Links and disks by arithmetic: a direction is a FIFO, `start = max(now, free_at)`, and its busy time is known when work is queued."""

from __future__ import annotations

from kvplan.hardware.spec import Disk, Link, Network


class Duplex:
    """Two directions that slow each other: while both are busy, each runs at `fraction` of its own rate."""

    def __init__(self, fraction: float) -> None:
        self.fraction = fraction
        self.free_at = [0.0, 0.0]
        self.busy_s = [0.0, 0.0]
        self.bytes = [0, 0]

    def send(self, direction: int, now: float, service_s: float, size: int) -> tuple[float, float]:
        """Queue `service_s` seconds of undisturbed work in a direction; returns when it starts and ends.

        What the other direction has queued slows it during their overlap, and is itself pushed back by as much.
        """
        start = max(now, self.free_at[direction])
        other = 1 - direction
        overlap = min(max(0.0, self.free_at[other] - start), service_s / self.fraction)
        end = start + service_s + overlap * (1 - self.fraction)
        if overlap:
            self.free_at[other] += overlap * (1 - self.fraction)
        self.free_at[direction] = end
        self.busy_s[direction] += end - start
        self.bytes[direction] += size
        return start, end


IN, OUT = 0, 1
"""Directions of a Duplex as seen from the GPU (host to device, device to host) or from the program (read, write)."""


class HostLink(Duplex):
    """The link between each GPU of a replica and host memory; all ranks move their share at the same time."""

    def __init__(self, link: Link) -> None:
        super().__init__(link.duplex_fraction)
        self.link = link

    def service_s(self, direction: int, size: int, pieces: int) -> float:
        """Seconds for `size` bytes of one rank in `pieces` contiguous copies."""
        link = self.link
        if not size:
            return 0.0
        rate = link.h2d_Bps if direction == IN else link.d2h_Bps
        if size < pieces * link.small_copy_bytes:
            return link.launch_s + max(pieces * link.small_copy_s, size / rate)
        return link.launch_s + pieces * link.copy_s + size / rate


class DiskQueue(Duplex):
    """A local disk: reads and writes share the device, half each while both are busy."""

    def __init__(self, disk: Disk) -> None:
        super().__init__(0.5)
        self.disk = disk

    def service_s(self, direction: int, size: int, pieces: int, threads: int) -> float:
        """Seconds for `size` bytes in `pieces` equal reads or writes at a queue depth of at most `threads`."""
        if not size:
            return 0.0
        depth = max(1, min(pieces, threads))
        piece = size / pieces
        return size / (self.read_Bps(piece, depth) if direction == IN else self.write_Bps(piece, depth))

    def read_Bps(self, piece: float, depth: int) -> float:
        """Bytes per second of reads of `piece` bytes at a queue depth: the p-norm of what the queue asks for and what the device gives."""
        disk, k = self.disk, self.disk.queue_knee
        asked = depth * piece / (disk.latency_s + piece / disk.stream_Bps)
        given = min(disk.read_Bps, disk.read_iops * piece)
        return (asked**-k + given**-k) ** (-1 / k)

    def write_Bps(self, piece: float, depth: int) -> float:
        """The same for writes."""
        disk, k = self.disk, self.disk.queue_knee
        asked = depth * piece / (disk.write_latency_s + piece / disk.stream_Bps)
        return (asked**-k + disk.write_Bps**-k) ** (-1 / k)


class NetworkQueue(Duplex):
    """A full-duplex network to a remote pool."""

    def __init__(self, network: Network) -> None:
        super().__init__(1.0)
        self.network = network

    def service_s(self, size: int, pieces: int) -> float:
        """Seconds for `size` bytes: one round trip, then the rate (requests are pipelined)."""
        return self.network.latency_s + size / self.network.Bps if size else 0.0
