"""A server as kvplan sees it: GPU, host link, host memory, disk, networks; every number with where it comes from."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from kvplan.provenance import Source

# Bounds keep out zeros, signs, infinities and nan, and what no machine will have; the message names the field.
Rate = Annotated[float, Meta(ge=1.0, le=1e18)]  # bytes or operations per second
Flops = Annotated[float, Meta(ge=0.0, le=1e21)]
Share = Annotated[float, Meta(ge=0.01, le=1.0)]
Seconds = Annotated[float, Meta(ge=0.0, le=1e3)]
Latency = Annotated[float, Meta(ge=1e-9, le=1e3)]
Knee = Annotated[float, Meta(ge=0.5, le=30.0)]
Bytes = Annotated[int, Meta(ge=1, le=2**60)]
Count = Annotated[int, Meta(ge=1, le=4096)]


class Gpu(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One GPU: datasheet peaks, and the fraction of each that real kernels reach.

    `kvplan.hardware.timing` turns them into seconds: products by `gemm_s`, attention over a prompt by `prefill_attention_s`, decode
    attention by `kv_read_s` and at least `attention_overhead_s` per layer.
    """

    name: str
    memory_bytes: Bytes  # as the driver reports it
    hbm_Bps: Rate
    bf16_flops: Annotated[float, Meta(ge=1.0, le=1e21)]  # dense, without sparsity
    fp8_flops: Flops = 0.0  # 0: no fp8 units
    fp4_flops: Flops = 0.0
    gemm_efficiency: Share = 0.72
    gemm_knee: Knee = 3.0
    gemm_overhead_s: Seconds = 4e-6
    weight_read_efficiency: Share = 0.85
    attention_efficiency: Share = 0.55
    attention_n0_tokens: Annotated[float, Meta(ge=0, le=1e6)] = 600.0
    attention_overhead_s: Seconds = 12e-6
    kv_read_efficiency: Share = 0.88
    layer_overhead_s: Seconds = 10e-6  # norms, activations, residuals, per layer and step
    elementwise_Bps_efficiency: Share = 0.75
    sustained_fraction: Share = 1.0  # of the rates of products and prefill attention, what lasts over seconds: clocks under power


class Link(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The link between one GPU and host memory.

    A direction is a FIFO. While both are busy each runs at `duplex_fraction` of its rate. Copies smaller than `small_copy_bytes` take at
    least `small_copy_s` each (descriptor cliff). All copies of one transfer are launched together, in `launch_s`: `timing.transfer_s`.
    """

    h2d_Bps: Rate
    d2h_Bps: Rate
    copy_s: Seconds = 4.3e-6
    launch_s: Seconds = 15e-6
    duplex_fraction: Share = 0.82
    small_copy_bytes: Annotated[int, Meta(ge=0, le=2**40)] = 28672
    small_copy_s: Seconds = 4.3e-6
    mapped_read_Bps: Annotated[float, Meta(ge=0.0, le=1e18)] = 0.0  # of a kernel on mapped host memory; 0: not known
    mapped_write_Bps: Annotated[float, Meta(ge=0.0, le=1e18)] = 0.0


class Host(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Host memory and what pinning it costs; and how long two pieces of work take on one of its cores: `timing.host_factors`."""

    memory_bytes: Bytes
    pin_s_per_byte: Annotated[float, Meta(ge=0.0, le=1e-3)] = 8e-11
    usable_fraction: Share = 0.8
    cores: Annotated[int, Meta(ge=1, le=65536)] = 32
    kernel_Bps: Annotated[float, Meta(ge=0.0, le=1e18)] = 0.0  # of mapped host memory under the kernels of all GPUs; 0: not a bound
    python_s: Latency | None = None  # pickling and hashing one block of 16 tokens in Python; None: not measured
    launch_s: Latency | None = None  # launching the kernels of one small layer from torch


class Disk(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A local disk or file system; its rate by block and queue depth is `timing.disk_Bps`.

    While reads and writes are both busy each runs at `duplex_fraction` of its rate.
    """

    capacity_bytes: Bytes
    read_Bps: Rate
    write_Bps: Rate
    latency_s: Latency = 100e-6
    stream_Bps: Rate = 3.0e9  # of one reader
    write_latency_s: Latency = 30e-6
    read_iops: Rate = 500e3
    queue_knee: Knee = 3.0
    duplex_fraction: Share = 0.5  # assumed where not measured: reads and writes share one device
    endurance_bytes: Annotated[float, Meta(ge=0.0, le=1e24)] = 0.0  # total bytes written over the drive's life; 0: unknown


class Network(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A network to a remote pool or between servers."""

    Bps: Rate
    latency_s: Seconds


Operation = Literal["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "dispatch", "combine", "send"]


class Curve(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Measured seconds of one collective by message size (`hardware.collectives` says what counts), sizes rising."""

    op: Operation
    gpus: Annotated[int, Meta(ge=2, le=4096)]
    library: str = "nccl"  # or `engine`: the engines' own kernels in a CUDA graph; `low_latency`, `normal`: exchanges of experts
    size_bytes: Annotated[tuple[Rate, ...], Meta(min_length=1)]
    seconds: Annotated[tuple[Latency, ...], Meta(min_length=1)]

    def __post_init__(self) -> None:
        if len(self.size_bytes) != len(self.seconds) or any(a >= b for a, b in zip(self.size_bytes, self.size_bytes[1:], strict=False)):
            raise ValueError("a curve needs as many seconds as sizes, and rising sizes")


class Interconnect(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What joins the GPUs of one server. `Bps` and `latency_s`, per GPU and direction, count where no curve is known."""

    Bps: Rate
    latency_s: Seconds
    table: str = ""  # interconnect whose measured curves hold here: a system in hardware/collectives.jsonl
    table_rate: Annotated[float, Meta(ge=0.01, le=100.0)] = 1.0  # bandwidth here for one there
    curves: tuple[Curve, ...] = ()  # of this server itself


class Machine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A server with `gpus` equal GPUs, each with its own host link.

    `provenance` maps the dotted path of a number (`gpu.hbm_Bps`) to where it comes from; every number has an entry.
    """

    name: str
    title: str
    gpus: Count = 1
    gpu: Gpu
    link: Link
    host: Host
    disk: Disk
    interconnect: Interconnect | None = None
    network: Network | None = None  # to a remote pool
    fabric: Network | None = None  # between servers, of one GPU and direction; absent: the network
    notes: tuple[str, ...] = ()
    provenance: dict[str, Source] = {}
    calibration: dict[str, object] = {}  # what `kvplan calibrate` adds: when, how, raw tables, quality

    def source(self, path: str) -> Source:
        """Where the number at a dotted path comes from; `assumed` when the file does not say."""
        return self.provenance.get(path, Source(kind="assumed", source="default of kvplan"))


RETIRED = ("link.compute_slowdown",)
"""Fields of earlier machine files that nothing reads any more: what copies by the copy engines take from matrix products was below 1 % on
an H100 and an H200."""


def machine_of(document: dict[str, Any]) -> Machine:
    """A machine from the tables of its file; retired fields are left out, and a note says so. Raises msgspec.ValidationError."""
    document = dict(document)
    found = []
    for path in RETIRED:
        part, _, name = path.partition(".")
        table = document.get(part)
        if isinstance(table, dict) and name in table:
            document[part] = {key: value for key, value in table.items() if key != name}
            found.append(path)
    machine = msgspec.convert(document, Machine)
    if not found:
        return machine
    note = f"{machine.name}: {', '.join(found)} in its file is no longer used, and was ignored"
    sources = {path: source for path, source in machine.provenance.items() if path not in found}
    return msgspec.structs.replace(machine, notes=(*machine.notes, note), provenance=sources)
