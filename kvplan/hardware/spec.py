"""A server as kvplan sees it: GPU, host link, host memory, disk, networks; every number with where it comes from."""

from __future__ import annotations

import msgspec

from kvplan.provenance import Source


class Gpu(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One GPU: datasheet peaks, and the fraction of each that real kernels reach.

    A GEMM of F FLOPs and B bytes takes `gemm_overhead_s + ((F/P)^q + (B/W)^q)^(1/q)` with P = flops x gemm_efficiency,
    W = hbm_Bps x weight_read_efficiency and q = gemm_knee. Attention of n new tokens after c cached ones counts
    n*c + n*(n+1)/2 + n*attention_n0_tokens score pairs (the last for the ragged edge of the causal tiles) at flops x
    attention_efficiency. Decode attention reads KV at hbm_Bps x kv_read_efficiency and takes at least
    attention_overhead_s per layer.
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

    One contiguous copy of s bytes takes `copy_s + s/Bps`; a direction is a FIFO. While both directions are busy each
    runs at `duplex_fraction` of its rate. Copies smaller than `small_copy_bytes` take `max(small_copy_s, s/Bps)` each instead
    (descriptor cliff). All copies of one transfer are launched together, in `launch_s`.
    """

    h2d_Bps: float
    d2h_Bps: float
    copy_s: float = 4.3e-6
    launch_s: float = 15e-6
    duplex_fraction: float = 0.82
    small_copy_bytes: int = 28672
    small_copy_s: float = 4.3e-6
    compute_slowdown: float = 0.0  # fraction by which a running copy slows kernels


class Host(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Host memory and what pinning it costs."""

    memory_bytes: int
    pin_s_per_byte: float = 8e-11
    usable_fraction: float = 0.8
    cores: int = 32


class Disk(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A local disk or file system.

    Reads of s bytes at queue depth q reach `(a^-k + b^-k)^(-1/k)` bytes per second, with
    a = q s / (latency_s + s / stream_Bps), b = min(read_Bps, read_iops s) and k = queue_knee.
    """

    capacity_bytes: int
    read_Bps: float
    write_Bps: float
    latency_s: float = 100e-6
    stream_Bps: float = 3.0e9  # of one reader
    write_latency_s: float = 30e-6
    read_iops: float = 500e3
    queue_knee: float = 3.0
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


SOFTMAX_FLOPS = 288.0
"""What the softmax of one score costs beside its two products, in FLOPs of the tensor units (cuDNN attention on an H100: heads of 64 run at
0.73 of the rate of heads of 128)."""


def pair_flops(k_dim: int, v_dim: int) -> float:
    """FLOPs that one score pair of one head counts: 2 (k + v) at heads of 128; the softmax makes narrower heads slower."""
    return (2.0 * (k_dim + v_dim) + SOFTMAX_FLOPS) * 512 / (512 + SOFTMAX_FLOPS)
