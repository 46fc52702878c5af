"""Times that a fitted machine predicts for the points that were measured: the closed forms of `kvplan.hardware.spec`."""

from __future__ import annotations

from collections.abc import Callable

from kvplan.calibrate.records import Point
from kvplan.calibrate.shapes import Shape, shape
from kvplan.hardware.spec import Disk, Gpu, Link, Machine
from kvplan.hardware.timing import pair_flops


def gemm_traffic(m: int, n: int, k: int) -> tuple[float, float]:
    """(FLOPs, bytes) of an m x k by k x n product in bf16: weights, inputs and outputs move once each."""
    return 2.0 * m * n * k, 2.0 * (n * k + m * k + m * n)


def roofline_s(flops: float, size: float, peak_flops: float, peak_Bps: float, knee: float) -> float:
    """((F/P)^q + (B/W)^q)^(1/q): a roofline with a rounded knee; q -> infinity is the maximum of both."""
    longer, shorter = max(flops / peak_flops, size / peak_Bps), min(flops / peak_flops, size / peak_Bps)
    return longer * (1 + (shorter / longer) ** knee) ** (1 / knee)


def gemm_s(gpu: Gpu, m: int, n: int, k: int) -> float:
    """Seconds of one product; see `kvplan.hardware.spec.Gpu`."""
    flops, size = gemm_traffic(m, n, k)
    peak = gpu.bf16_flops * gpu.gemm_efficiency
    return gpu.gemm_overhead_s + roofline_s(flops, size, peak, gpu.hbm_Bps * gpu.weight_read_efficiency, gpu.gemm_knee)


def prefill_attention_flops(heads: int, dim: int, new: int, context: int, edge_tokens: float = 0.0) -> float:
    """FLOPs of n c + n (n+1)/2 score pairs, and of `edge_tokens` more keys per new token; see `kvplan.hardware.spec.Gpu`."""
    return heads * pair_flops(dim, dim) * (new * context + new * (new + 1) / 2 + new * edge_tokens)


def prefill_attention_s(gpu: Gpu, heads: int, dim: int, new: int, context: int) -> float:
    """Seconds of one layer's attention over `new` tokens after `context`."""
    flops = prefill_attention_flops(heads, dim, new, context, gpu.attention_n0_tokens)
    return gpu.attention_overhead_s + flops / (gpu.bf16_flops * gpu.attention_efficiency)


def decode_attention_s(gpu: Gpu, size: float) -> float:
    """Seconds of one layer's attention that reads `size` bytes of K and V."""
    return gpu.attention_overhead_s + size / (gpu.hbm_Bps * gpu.kv_read_efficiency)


def layer_extra_s(gpu: Gpu, dims: Shape, tokens: int) -> float:
    """Seconds of what is neither product nor attention, per layer: fused kernels that read and write once."""
    size = 2.0 * tokens * (11.5 * dims.hidden + 3 * dims.ffn)
    return gpu.layer_overhead_s + size / (gpu.hbm_Bps * gpu.elementwise_Bps_efficiency)


def _products_s(gpu: Gpu, dims: Shape, tokens: int) -> float:
    return sum(gemm_s(gpu, tokens, n, k) for n, k in dims.layer_products().values())


def model_of(point: Point) -> tuple[Shape, int]:
    """The shape and number of layers that a point names: `llama-3.1-8b/1` is one layer of it."""
    base, _, layers = point.text("model").partition("/")
    dims = shape(base)
    return dims, int(layers or dims.layers)


def decode_step_s(gpu: Gpu, dims: Shape, layers: int, batch: int, context: int) -> float:
    """Seconds of one decode step of `batch` sequences of `context` tokens."""
    attention = decode_attention_s(gpu, batch * (context + 1) * dims.kv_bytes_per_token_layer)
    return layers * (_products_s(gpu, dims, batch) + attention + layer_extra_s(gpu, dims, batch)) + gemm_s(
        gpu, batch, dims.vocab, dims.hidden
    )


def prefill_step_s(gpu: Gpu, dims: Shape, layers: int, new: int, context: int) -> float:
    """Seconds of one prefill chunk of one sequence; only its last token reaches the output head."""
    attention = prefill_attention_s(gpu, dims.heads, dims.head_dim, new, context)
    return layers * (_products_s(gpu, dims, new) + attention + layer_extra_s(gpu, dims, new)) + gemm_s(gpu, 1, dims.vocab, dims.hidden)


def copy_s(link: Link, direction: str, size: float) -> float:
    """Seconds of one contiguous pinned copy in a row of copies."""
    return link.copy_s + size / (link.h2d_Bps if direction == "h2d" else link.d2h_Bps)


def disk_read_Bps(disk: Disk, block_bytes: float, depth: float) -> float:
    """Bytes per second of random reads; see `kvplan.hardware.spec.Disk`."""
    offered = depth * block_bytes / (disk.latency_s + block_bytes / disk.stream_Bps)
    ceiling = min(disk.read_Bps, disk.read_iops * block_bytes)
    return float((offered**-disk.queue_knee + ceiling**-disk.queue_knee) ** (-1 / disk.queue_knee))


def _decode_bytes(p: Point) -> float:
    return 4.0 * p.number("batch") * p.number("context") * p.number("kv_heads") * p.number("dim")


PREDICT: dict[str, Callable[[Machine, Point], float]] = {
    "copy": lambda m, p: copy_s(m.link, p.text("direction"), p.number("bytes")),
    "gemm": lambda m, p: gemm_s(m.gpu, p.number("m"), p.number("n"), p.number("k")),
    "attention_prefill": lambda m, p: prefill_attention_s(m.gpu, p.number("heads"), p.number("dim"), p.number("new"), p.number("context")),
    "attention_decode": lambda m, p: decode_attention_s(m.gpu, _decode_bytes(p)),
    "decode_step": lambda m, p: decode_step_s(m.gpu, *model_of(p), p.number("batch"), p.number("context")),
    "prefill_step": lambda m, p: prefill_step_s(m.gpu, *model_of(p), p.number("new"), p.number("context")),
    "disk_read": lambda m, p: p.number("bytes") / disk_read_Bps(m.disk, p.number("bytes"), p.number("threads")),
}
"""Operation of a point -> seconds that a machine predicts for it."""
