"""Links and disks by arithmetic: a direction is a FIFO, `start = max(now, free_at)`, and its busy time is known when work is queued."""

from __future__ import annotations

from kvplan.hardware.spec import Disk, Link
from kvplan.hardware.timing import IN as IN
from kvplan.hardware.timing import OUT as OUT
from kvplan.hardware.timing import both_ways_s, disk_Bps, disk_s, transfer_s


class Duplex:
    """Two directions that slow each other: while both are busy, each runs at `fraction` of its own rate."""

    def __init__(self, fraction: float) -> None:
        self.fraction = fraction
        self.free_at = [0.0, 0.0]
        self.busy_s = [0.0, 0.0]

    def send(self, direction: int, now: float, service_s: float) -> tuple[float, float]:
        """Queue `service_s` seconds of undisturbed work in a direction; returns when it starts and ends.

        What the other direction has queued slows it during their overlap, and is itself pushed back by as much.
        """
        start = max(now, self.free_at[direction])
        other = 1 - direction
        longer = both_ways_s(max(0.0, self.free_at[other] - start), service_s, self.fraction)
        end = start + service_s + longer
        if longer:
            self.free_at[other] += longer
        self.free_at[direction] = end
        self.busy_s[direction] += end - start
        return start, end


class HostLink(Duplex):
    """The link between each GPU of a replica and host memory; all ranks move their share at the same time."""

    def __init__(self, link: Link) -> None:
        super().__init__(link.duplex_fraction)
        self.link = link

    def service_s(self, direction: int, size: int, pieces: int) -> float:
        """Seconds for `size` bytes of one rank in `pieces` contiguous copies."""
        return transfer_s(self.link, direction, size, pieces)


class DiskQueue(Duplex):
    """A local disk: reads and writes share the device."""

    def __init__(self, disk: Disk) -> None:
        super().__init__(disk.duplex_fraction)
        self.disk = disk

    def service_s(self, direction: int, size: int, pieces: int, threads: int) -> float:
        """Seconds for `size` bytes in `pieces` equal reads or writes at a queue depth of at most `threads`."""
        return disk_s(self.disk, direction, size, pieces, threads)

    def share_s(self, direction: int, size: int, pieces: int, threads: int) -> float:
        """Seconds of the device that they take from others, whose pieces keep its queue full."""
        return size / disk_Bps(self.disk, direction, size / pieces, threads) if size else 0.0
