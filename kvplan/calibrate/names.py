"""What the numbers of a machine are called, and in which unit they are shown."""

from __future__ import annotations

UNITS = {"Bps": "B/s", "bytes": "B", "s": "s", "byte": "s/GiB", "flops": "FLOP/s", "tokens": "tokens", "iops": "/s"}
"""Last word of a field -> unit."""

SHOWN: dict[str, tuple[str, str]] = {
    "link.h2d_Bps": ("link", "to the GPU"),
    "link.d2h_Bps": ("link", "from the GPU"),
    "link.duplex_fraction": ("link", "share left when both ways are busy"),
    "link.copy_s": ("link", "one piece of many"),
    "link.small_copy_s": ("link", "one scattered piece"),
    "link.mapped_read_Bps": ("link", "reads by a kernel"),
    "link.mapped_write_Bps": ("link", "writes by a kernel"),
    "interconnect.Bps": ("link", "from GPU to GPU"),
    "host.pin_s_per_byte": ("host", "pinning, per GiB"),
    "host.python_s": ("host", "hashing one block in Python"),
    "host.launch_s": ("host", "launching one small layer"),
    "gpu.gemm_efficiency": ("compute", "matrix products, share of peak"),
    "gpu.weight_read_efficiency": ("compute", "weight reads, share of peak"),
    "gpu.attention_efficiency": ("compute", "prefill attention, share of peak"),
    "gpu.kv_read_efficiency": ("compute", "KV reads, share of peak"),
    "gpu.sustained_fraction": ("compute", "share that lasts under load"),
    "disk.read_Bps": ("disk", "reads"),
    "disk.write_Bps": ("disk", "writes"),
    "disk.duplex_fraction": ("disk", "share left when both ways are busy"),
    "disk.latency_s": ("disk", "latency of one read"),
}
"""Dotted place -> part of the table and name, in the order of the closing table."""


def unit(path: str) -> str:
    """The unit of the number at a dotted place; empty for a share."""
    return UNITS.get(path.replace(".", "_").rpartition("_")[2], "")


def name(path: str) -> str:
    """The number at a dotted place in words."""
    part, words = SHOWN.get(path, ("", ""))
    if words:
        return f"{part}: {words}"
    stem, _, last = path.rpartition("_")
    room, _, rest = (stem if last in UNITS else path).partition(".")
    return f"{ROOMS.get(room, room)}: {rest.replace('_', ' ')}"


ROOMS = {"gpu": "compute"}
"""Part of a machine -> what the tables call it."""
