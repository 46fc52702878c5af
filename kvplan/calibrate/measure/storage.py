"""Is a path a disk, and do its bytes come from it? Each check has a code and a sentence."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from kvplan.calibrate.records import Finding, Value
from kvplan.units import format_rate

_MEMORY = ("tmpfs", "ramfs")
_INDIRECT = ("overlayfs", "9p", "fuse", "nfs", "virtiofs", "cifs", "smb2")


def _mount(path: Path) -> list[str]:
    """The mountinfo fields of the mount that holds a path: [.., type, source, options]."""
    device = os.stat(path).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    best: list[str] = []
    resolved = str(path.resolve())
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split(" ")
        if fields[2] == wanted and resolved.startswith(fields[4]) and (not best or len(fields[4]) >= len(best[4])):
            best = fields
    return best


def filesystem(path: Path) -> str:
    """The type of the file system that holds a path, from the mount table."""
    with contextlib.suppress(OSError, ValueError):
        fields = _mount(path)
        if fields:
            return fields[fields.index("-") + 1]
    return "unknown"


def check_filesystem(path: Path) -> Finding | None:
    """D01: memory, not a disk; D02: a file system through which the device cannot be seen."""
    kind = filesystem(path)
    kind = "overlayfs" if kind == "overlay" else kind
    if kind in _MEMORY:
        return Finding(code="D01", level="refuse", text=f"{path} is {kind}: it is RAM, and takes O_DIRECT all the same.")
    if kind.split(".")[0] in _INDIRECT:
        return Finding(code="D02", level="refuse", text=f"{path} is {kind}: its speed is not that of one local disk.")
    return None


def written_share(descriptor: int) -> float:
    """Share of a file's bytes that were really written, by SEEK_DATA: neither holes nor allocated-but-unwritten
    extents count.
    """
    size = os.fstat(descriptor).st_size
    at = found = 0
    while at < size:
        try:
            start = os.lseek(descriptor, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                break
            raise
        at = os.lseek(descriptor, start, os.SEEK_HOLE)
        found += at - start
    return found / size if size else 0.0


def check_written(descriptor: int, path: Path) -> Finding | None:
    """D04: the file has holes or unwritten extents, whose zeros come from no device."""
    share = written_share(descriptor)
    if share >= 0.999:
        return None
    text = f"{path}: {1 - share:.1%} of the file was never written; reading it returns zeros that come from no device."
    return Finding(code="D04", level="refuse", text=text)


def read_bytes() -> int | None:
    """Bytes that this process has caused to be read from storage (/proc/self/io); None when the kernel does not
    count.
    """
    return _process_io("read_bytes")


def _process_io(field: str) -> int | None:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/io").read_text().splitlines():
            name, _, value = line.partition(": ")
            if name == field:
                return int(value)
    return None


def check_counted(requested_bytes: int, counted_bytes: int) -> Finding | None:
    """D05: fewer bytes left the device than were read (a cache answered), or more (read-ahead, somebody else)."""
    ratio = counted_bytes / requested_bytes
    if ratio < 0.95:
        text = f"{1 - ratio:.0%} of the bytes read never left the device: a page cache answered."
        return Finding(code="D05", level="discard", text=text)
    if ratio > 1.10:
        text = f"the device moved {ratio:.2f} times the bytes that were asked for (read-ahead or other work on it)."
        return Finding(code="D05", level="warning", text=text)
    return None


def block_device(path: Path) -> str:
    """The block device under a path as the kernel names it (`nvme0n1p2`); empty when there is none."""
    device = os.stat(path).st_dev
    link = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
    return link.resolve().name if link.exists() else ""


def disk_requests(name: str) -> tuple[int, int] | None:
    """(read requests, sectors of 512 bytes read) of a block device so far; None when the kernel does not count."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/diskstats").read_text().splitlines():
            fields = line.split()
            if fields[2] == name:
                return int(fields[3]), int(fields[5])
    return None


def check_split(block_bytes: int, request_bytes: float) -> Finding | None:
    """D11: the kernel cuts reads into smaller requests."""
    if request_bytes >= 0.7 * block_bytes:
        return None
    text = (
        f"reads of {block_bytes >> 10} KiB reach the device as requests of {request_bytes / 1024:.0f} KiB: "
        "buffers on 2 MiB pages or smaller blocks avoid the split."
    )
    return Finding(code="D11", level="note", text=text)


def _control_group(controller: str) -> Path | None:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, names, group = line.split(":", 2)
            if not names and not controller:
                return Path("/sys/fs/cgroup") / group.lstrip("/")
            if controller and controller in names.split(","):
                return Path("/sys/fs/cgroup") / controller / group.lstrip("/")
    return None


def read_limit_Bps(path: Path) -> float:
    """The control group's limit on reads from the device under a path; 0 when there is none."""
    device = os.stat(path).st_dev
    wanted = {f"{os.major(device)}:{os.minor(device)}", f"{os.major(device)}:{os.minor(device) & ~0xF}"}
    limits = []
    for group, name in ((_control_group(""), "io.max"), (_control_group("blkio"), "blkio.throttle.read_bps_device")):
        if group is None or not (group / name).exists():
            continue
        for line in (group / name).read_text().splitlines():
            key, _, rest = line.partition(" ")
            if key in wanted:
                limits += [float(word.removeprefix("rbps=")) for word in rest.split() if word.removeprefix("rbps=").isdigit()]
    return min(limits, default=0.0)


def check_limit(path: Path) -> Finding | None:
    """D08: a control group limits reads, so the profile describes the container."""
    limit = read_limit_Bps(path)
    if not limit:
        return None
    text = f"a control group limits reads to {format_rate(limit)}: the profile describes the container, not the drive."
    return Finding(code="D08", level="warning", text=text)


def check_reread(first_Bps: float, again_Bps: float) -> Finding | None:
    """D09: reading the same span again is much faster than reading afresh, although O_DIRECT passes the page cache."""
    if again_Bps <= 1.3 * first_Bps:
        return None
    text = (
        f"reading a span again is {again_Bps / first_Bps:.1f} times as fast as the first time: "
        "the hypervisor or the drive's controller caches; cold figures are first reads."
    )
    return Finding(code="D09", level="warning", text=text)


def check_sustained(slices_Bps: list[float], slice_s: float) -> Finding | None:
    """D10: the rate steps down by more than a fifth within the run (burst credits, a write cache running full)."""
    if len(slices_Bps) < 8:
        return None
    quarter = len(slices_Bps) // 4
    burst = sorted(slices_Bps[:quarter])[quarter // 2]
    sustained = sorted(slices_Bps[-quarter:])[quarter // 2]
    if sustained >= 0.8 * burst:
        return None
    knee = next(i for i, rate in enumerate(slices_Bps) if rate < (burst + sustained) / 2)
    text = (
        f"the disk slows down under load: {format_rate(burst)} at first, {format_rate(sustained)} sustained, "
        f"after {sum(slices_Bps[:knee]) * slice_s / 1e9:.0f} GB."
    )
    return Finding(code="D10", level="warning", text=text)


def direct_alignment(path: Path) -> int:
    """Alignment in bytes that O_DIRECT needs for offset, length and memory: the file system's block size is always
    enough.
    """
    return max(512, os.statvfs(path).f_bsize if os.statvfs(path).f_bsize <= 65536 else 4096)


def facts(path: Path) -> dict[str, Value]:
    """What is known of the storage behind a path."""
    space = os.statvfs(path)
    name = block_device(path)
    queue = Path(f"/sys/class/block/{name}/queue") if name else Path("/nonexistent")
    rotational = queue / "rotational"
    return {
        "disk_path": str(path),
        "disk_fs": filesystem(path),
        "disk_device": name or "none",
        "disk_virtual": int(name.startswith(("vd", "xvd", "sd"))),
        "disk_rotational": rotational.read_text().strip() if rotational.exists() else "unknown",
        "disk_capacity_bytes": space.f_blocks * space.f_frsize,
        "disk_free_bytes": space.f_bavail * space.f_frsize,
        "disk_alignment_bytes": direct_alignment(path),
    }
