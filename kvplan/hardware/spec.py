"""A server as kvplan sees it: GPU, host link, host memory, disk, networks; every number with where it comes from."""

from __future__ import annotations

import msgspec

from kvplan.provenance import Source


class Gpu(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One GPU: datasheet peaks, and the fraction of each that real kernels reach.

    `kvplan.hardware.timing` turns them into seconds: products by `gemm_s`, attention over a prompt by `prefill_attention_s`, decode
    attention by `kv_read_s` and at least `attention_overhead_s` per layer.
    """

    name: str
    memory_bytes: int  # as the driver reports it
    hbm_Bps: float
    bf16_flops: float  # dense, without sparsity
    fp8_flops: float = 0.0  # 0: no fp8 units
    fp4_flops: float = 0.0
    gemm_efficiency: float = 0.72
    gemm_knee: float = 3.0
    gemm_overhead_s: float = 4e-6
    weight_read_efficiency: float = 0.85
    attention_efficiency: float = 0.55
    attention_n0_tokens: float = 600.0
    attention_overhead_s: float = 12e-6
    kv_read_efficiency: float = 0.88
    layer_overhead_s: float = 10e-6  # norms, activations, residuals, per layer and step
    elementwise_Bps_efficiency: float = 0.75


class Link(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The link between one GPU and host memory.

    A direction is a FIFO. While both are busy each runs at `duplex_fraction` of its rate. Copies smaller than `small_copy_bytes` take at
    least `small_copy_s` each (descriptor cliff). All copies of one transfer are launched together, in `launch_s`: `timing.transfer_s`.
    """

    h2d_Bps: float
    d2h_Bps: float
    copy_s: float = 4.3e-6
    launch_s: float = 15e-6
    duplex_fraction: float = 0.82
    small_copy_bytes: int = 28672
    small_copy_s: float = 4.3e-6
    compute_slowdown: float = 0.0  # fraction by which a running copy slows kernels
    mapped_read_Bps: float = 0.0  # of a kernel on mapped host memory; 0: not known
    mapped_write_Bps: float = 0.0


class Host(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Host memory and what pinning it costs."""

    memory_bytes: int
    pin_s_per_byte: float = 8e-11
    usable_fraction: float = 0.8
    cores: int = 32
    python_s: float | None = None  # pickling and hashing one block of 16 tokens in Python; None: not measured
    launch_s: float | None = None  # launching the kernels of one small layer from torch


class Disk(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A local disk or file system; its rate by block and queue depth is `timing.disk_Bps`.

    While reads and writes are both busy each runs at `duplex_fraction` of its rate.
    """

    capacity_bytes: int
    read_Bps: float
    write_Bps: float
    latency_s: float = 100e-6
    stream_Bps: float = 3.0e9  # of one reader
    write_latency_s: float = 30e-6
    read_iops: float = 500e3
    queue_knee: float = 3.0
    duplex_fraction: float = 0.5  # assumed where not measured: reads and writes share one device
    endurance_bytes: float = 0.0  # total bytes written over the drive's life; 0: unknown


class Network(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A network: between GPUs of one server (all-reduce) or to a remote pool."""

    Bps: float
    latency_s: float


class Machine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A server with `gpus` equal GPUs, each with its own host link.

    `provenance` maps the dotted path of a number (`gpu.hbm_Bps`) to where it comes from; every number has an entry.
    """

    name: str
    title: str
    gpus: int = 1
    gpu: Gpu
    link: Link
    host: Host
    disk: Disk
    interconnect: Network | None = None  # between the GPUs, per GPU and direction
    network: Network | None = None  # to a remote pool
    notes: tuple[str, ...] = ()
    provenance: dict[str, Source] = {}
    calibration: dict[str, object] = {}  # what `kvplan calibrate` adds: when, how, raw tables, quality

    def source(self, path: str) -> Source:
        """Where the number at a dotted path comes from; `assumed` when the file does not say."""
        return self.provenance.get(path, Source(kind="assumed", source="default of kvplan"))
