"""The rates that follow from a machine's records. Each formula has its only home here (collectives: beside,
in `collectives`): step times, transfers and calibration call it.

Attention kernels and matrix products on a GPU, copies over a link, reads and writes of a disk, networks, the host; pure
functions of the records and of what is moved or computed. Times are seconds of undisturbed work; `both_ways_s` is what the other
direction adds.
"""

from __future__ import annotations

from collections.abc import Iterable

from kvplan.hardware.spec import Disk, Gpu, Host, Link, Network

IN, OUT = 0, 1
"""Directions as seen from the GPU (host to device, device to host) or from the program (read, write)."""

# -- GPU -----------------------------------------------------------------------------------------------------------------------


def roofline_s(flops: float, size: float, peak_flops: float, peak_Bps: float, knee: float) -> float:
    """((F/P)^q + (B/W)^q)^(1/q): a roofline with a rounded knee; q -> infinity is the longer of both."""
    compute, memory = flops / peak_flops, size / peak_Bps
    longer = max(compute, memory)
    return longer * (1 + (min(compute, memory) / longer) ** knee) ** (1 / knee) if longer else 0.0


def gemm_s(gpu: Gpu, flops: float, size: float, *, peak_flops: float = 0.0, kernel_share: float = 1.0) -> float:
    """Seconds of one matrix product that moves `size` bytes, launch included.

    `peak_flops` is the datasheet's for the compute dtype (0: bf16), `kernel_share` what an engine's kernels reach of the measured rate.
    """
    if not flops and not size:
        return 0.0
    rate = (peak_flops or gpu.bf16_flops) * gpu.gemm_efficiency * kernel_share
    return gpu.gemm_overhead_s + roofline_s(flops, size, rate, gpu.hbm_Bps * gpu.weight_read_efficiency, gpu.gemm_knee)


SOFTMAX_FLOPS = 288.0
"""What the softmax of one score costs beside its two products, in FLOPs of the tensor units (cuDNN attention on an H100: heads of 64 run at
0.73 of the rate of heads of 128)."""


def pair_flops(k_dim: int, v_dim: int) -> float:
    """FLOPs that one score pair of one head counts: 2 (k + v) at heads of 128; the softmax makes narrower heads slower."""
    return (2.0 * (k_dim + v_dim) + SOFTMAX_FLOPS) * 512 / (512 + SOFTMAX_FLOPS)


def score_pairs(new: int, context: int, window: int = 0) -> float:
    """Query-key pairs of `new` causal tokens after `context` cached ones, each seeing at most `window` tokens (0: all)."""
    if not window or context + new <= window:
        return new * context + new * (new + 1) / 2
    growing = max(0, window - context)  # tokens that still see their whole past
    return growing * context + growing * (growing + 1) / 2 + (new - growing) * window


def prefill_attention_s(gpu: Gpu, new: int, context: int, groups: Iterable[tuple[float, int]], *, kernel_share: float = 1.0) -> float:
    """Seconds of attention of `new` tokens of one sequence after `context` cached ones, without launches.

    `groups` are (FLOPs of one score pair over all heads and layers, window). Each new token counts `attention_n0_tokens` keys more, the
    ragged edge of the causal tiles.
    """
    edge = new * gpu.attention_n0_tokens
    flops = sum([pair * (score_pairs(new, context, window) + edge) for pair, window in groups])
    return flops / (gpu.bf16_flops * gpu.attention_efficiency * kernel_share)


def kv_read_s(gpu: Gpu, size: float) -> float:
    """Seconds in which decode attention reads `size` bytes of K and V."""
    return size / (gpu.hbm_Bps * gpu.kv_read_efficiency)


def elementwise_s(gpu: Gpu, size: float) -> float:
    """Seconds in which norms, activations and residuals move `size` bytes."""
    return size / (gpu.hbm_Bps * gpu.elementwise_Bps_efficiency)


# -- links and disks -----------------------------------------------------------------------------------------------------------


def both_ways_s(rest_s: float, service_s: float, fraction: float) -> float:
    """Seconds by which a transfer of `service_s` and what the other direction still has to do, `rest_s`, both take longer.

    While both are busy each runs at `fraction` of its rate: the shorter of the two is done in 1/fraction of its time and ends the overlap.
    """
    return min(rest_s, service_s) * (1 - fraction) / fraction


def copies_s(link: Link, direction: int, size: float, pieces: int) -> float:
    """Seconds of `size` bytes in `pieces` equal contiguous copies, one behind the other, without their launch."""
    rate = link.h2d_Bps if direction == IN else link.d2h_Bps
    if size < pieces * link.small_copy_bytes:
        return max(pieces * link.small_copy_s, size / rate)
    return pieces * link.copy_s + size / rate


def transfer_s(link: Link, direction: int, size: float, pieces: int) -> float:
    """Seconds of one transfer of `size` bytes in `pieces` contiguous copies that are launched together."""
    return link.launch_s + copies_s(link, direction, size, pieces) if size else 0.0


MAPPED_SHARE = 0.93
"""Of the copy engines' rate, what a kernel reaches on mapped host memory: 50.5 of 54.5 GB/s reading, 52 of 55.1 writing (one H100)."""


def mapped_Bps(link: Link, direction: int) -> float:
    """Bytes per second of a kernel that reads (IN) or writes mapped host memory."""
    measured, engine = (link.mapped_read_Bps, link.h2d_Bps) if direction == IN else (link.mapped_write_Bps, link.d2h_Bps)
    return measured or MAPPED_SHARE * engine


def mapped_s(link: Link, host: Host, direction: int, size: float, ranks: int) -> float:
    """Seconds in which a kernel on each of some GPUs moves `size` bytes; what host memory gives them together bounds all."""
    together_s = ranks * size / host.kernel_Bps if host.kernel_Bps else 0.0
    return max(size / mapped_Bps(link, direction), together_s)


def disk_Bps(disk: Disk, direction: int, block_bytes: float, depth: float) -> float:
    """Bytes per second of random reads or writes of one size at a queue depth.

    The p-norm of what the queue asks for and what the device gives; its power tells how sharply one passes into the other.
    """
    latency_s, given = (
        (disk.latency_s, min(disk.read_Bps, disk.read_iops * block_bytes)) if direction == IN else (disk.write_latency_s, disk.write_Bps)
    )
    asked = depth * block_bytes / (latency_s + block_bytes / disk.stream_Bps)
    lower, higher = min(asked, given), max(asked, given)
    return lower * (1 + (lower / higher) ** disk.queue_knee) ** (-1 / disk.queue_knee)


def disk_s(disk: Disk, direction: int, size: float, pieces: int, threads: int) -> float:
    """Seconds of `size` bytes in `pieces` equal reads or writes at a queue depth of at most `threads`."""
    return size / disk_Bps(disk, direction, size / pieces, max(1, min(pieces, threads))) if size else 0.0


# -- networks ------------------------------------------------------------------------------------------------------------------


def network_s(network: Network, size: float) -> float:
    """Seconds of `size` bytes: one trip, then the rate."""
    return network.latency_s + size / network.Bps if size else 0.0


def objects_s(network: Network, size: float, *, object_bytes: float, parallel: int) -> float:
    """Seconds of `size` bytes from an object store: `parallel` objects are asked for at a time, a round trip each.

    The rate bounds it, or the round trips if they take longer.
    """
    rounds = -(-size // (object_bytes * parallel))
    return network.latency_s + max(size / network.Bps, (rounds - 1) * network.latency_s + object_bytes / network.Bps)


# -- host ----------------------------------------------------------------------------------------------------------------------

ANCHOR_PYTHON_S = 2.7e-6
ANCHOR_LAUNCH_S = 396e-6
"""The host for which the engines' constants stand: medians of six runs of each probe in the slower of the two speeds between which two
virtual machines of 16 cores flipped (Intel Xeon, family 6, model 207; Python 3.12, torch 2.11; beside an H100 and an H200). In the faster
one the probes took 0.50 and 0.62 of this, and short prompts of vLLM 0.24 0.54."""


ASSUMED_FACTORS = (0.75, 0.88)
"""Of a host that was not measured: assumed, the middle of what was seen of the two hosts, which flip between their speeds (hashes sampled
638 times beside a running engine: 2.0 us on the median; short prompts on the two given machines: 1.0 and 0.76)."""


def host_factors(host: Host) -> tuple[float, float]:
    """How many seconds Python's own work, and steps and launches, take on this host for one on the anchor: an engine's host-side constants
    are multiplied by them. A step is Python and launches: the mean of both; one stands for the other where that was not measured.
    """
    if not host.python_s and not host.launch_s:
        return ASSUMED_FACTORS
    python = host.python_s / ANCHOR_PYTHON_S if host.python_s else 0.0
    launch = host.launch_s / ANCHOR_LAUNCH_S if host.launch_s else 0.0
    return python or launch, (python + launch) / 2 if python and launch else python or launch
