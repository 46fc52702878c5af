"""Compute that a step is made of: matrix products, attention over new and old tokens, elementwise work."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from kvplan.calibrate.measure.gpu import TorchGpu
from kvplan.calibrate.measure.timing import Trial
from kvplan.calibrate.records import CheckError, Point
from kvplan.calibrate.shapes import shape


def gemm(gpu: TorchGpu, point: Point) -> Trial:
    """y = x W^T in bf16 with as many weights in turn as outrun the L2 cache."""
    m, n, k = point.number("m"), point.number("n"), point.number("k")
    weights = [gpu.normal(n, k, scale=0.02) for _ in range(gpu.copies_for(2 * n * k))]
    inputs = [gpu.normal(m, k) for _ in range(2)]
    output = torch.empty(m, n, dtype=torch.bfloat16, device=gpu.device)
    count = len(weights)

    def check() -> None:
        torch.mm(inputs[0], weights[0].t(), out=output)
        expected = inputs[0][:1].float() @ weights[0][:64].float().t()
        _near(output[:1, :64].float(), expected, point.key)

    return Trial(lambda i: torch.mm(inputs[i % 2], weights[i % count].t(), out=output), clock="graph", check=check)


def _near(found: torch.Tensor, expected: torch.Tensor, what: str) -> None:
    error = float((found - expected).norm() / expected.norm())
    if not error < 2e-2:
        raise CheckError(f"{what}: result is {error:.2g} off its float32 reference")


def _cache(gpu: TorchGpu, elements: int) -> torch.Tensor:
    """One arena of random bf16 for K and V, as large as the largest asked for in this block."""
    arena = gpu.kept.get("kv arena")
    if arena is None or arena.numel() < elements:
        gpu.kept.pop("kv arena", None)
        arena = gpu.keep("kv arena", lambda: gpu.normal(max(elements, 4 * gpu.l2_bytes)))
    return arena


def attention_prefill(gpu: TorchGpu, point: Point) -> Trial:
    """Attention of `new` tokens over `context` cached ones and themselves, causal, one sequence.

    `flash` is torch's FlashAttention-2 with the causal mask aligned to the lower right; `cudnn` is cuDNN's kernel,
    which has no such mask: new over old without a mask and new over new with one are timed together, which does the
    same work.
    """
    new, before = point.number("new"), point.number("context")
    heads, kv_heads, dim = point.number("heads"), point.number("kv_heads"), point.number("dim")
    query = gpu.normal(1, new, heads, dim).transpose(1, 2)
    key, value = (gpu.normal(1, before + new, kv_heads, dim).transpose(1, 2) for _ in range(2))
    if point.text("path") == "flash":

        def flash(_: int) -> torch.Tensor:
            return torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, 0.0, True)[0]

        return Trial(flash, limit=64, clock="graph", check=lambda: _check_prefill(flash(0), query, key, value, point))
    return Trial(_cudnn_prefill(query, key, value, before, heads // kv_heads), limit=64, clock="graph")


def _cudnn_prefill(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, before: int, group: int) -> Callable[[int], None]:
    parts = [(key[:, :, before:], value[:, :, before:], True)]
    if before:
        parts.append((key[:, :, :before], value[:, :, :before], False))

    def cudnn(_: int) -> None:
        with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
            for keys, values, causal in parts:
                gqa = keys.shape[1] != query.shape[1]
                F.scaled_dot_product_attention(query, keys, values, is_causal=causal, enable_gqa=gqa)

    try:
        cudnn(0)
    except RuntimeError:  # this build has no grouped-query kernel: repeat K and V, which takes the same products
        parts[:] = [(keys.repeat_interleave(group, 1), values.repeat_interleave(group, 1), c) for keys, values, c in parts]
    return cudnn


def _check_prefill(found: torch.Tensor, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, point: Point) -> None:
    """The last token sees everything, the first sees the context and itself: compare both, first head, in float32."""
    before, dim = point.number("context"), point.number("dim")
    for row, seen in ((-1, key.shape[2]), (0, before + 1)):
        scores = (key[0, 0, :seen].float() @ query[0, 0, row].float()) / dim**0.5
        _near(found[0, 0, row].float(), scores.softmax(0) @ value[0, 0, :seen].float(), point.key)


def attention_decode(gpu: TorchGpu, point: Point) -> Trial:
    """One new token for each of `batch` sequences over `context` cached ones, K and V contiguous.

    `flash` is FlashAttention-2 with the work split over the keys (heads that share K and V are folded into rows);
    `matmul` is two batched products.
    """
    batch, seen = point.number("batch"), point.number("context")
    heads, kv_heads, dim = point.number("heads"), point.number("kv_heads"), point.number("dim")
    group = heads // kv_heads
    elements = batch * kv_heads * seen * dim
    if 4 * elements > 0.8 * gpu.free_bytes() + 2 * _kept_elements(gpu):
        raise RuntimeError(f"K and V take {4 * elements / 1e9:.0f} GB, more than is free")
    copies = min(gpu.copies_for(4 * elements), 16) if 4 * elements < 4 * gpu.l2_bytes else 1
    arena = _cache(gpu, 2 * elements * copies)
    parts = [arena[i * elements : (i + 1) * elements] for i in range(2 * copies)]
    query = gpu.normal(batch, heads, 1, dim)
    if point.text("path") == "flash":
        caches = [part.view(batch, seen, kv_heads, dim).transpose(1, 2) for part in parts]

        def flash(index: int) -> torch.Tensor:
            pair = 2 * (index % copies)
            return torch.ops.aten._scaled_dot_product_flash_attention(query, caches[pair], caches[pair + 1])[0]

        return Trial(flash, clock="graph", check=lambda: _check_decode(flash(0), query, caches[0], caches[1], point))
    rows = query.view(batch * kv_heads, group, dim)
    blocks = [part.view(batch * kv_heads, seen, dim) for part in parts]

    def matmul(index: int) -> torch.Tensor:
        pair = 2 * (index % copies)
        return torch.bmm((torch.bmm(rows, blocks[pair].transpose(1, 2)) * dim**-0.5).softmax(-1), blocks[pair + 1])

    return Trial(matmul, clock="graph")


def _kept_elements(gpu: TorchGpu) -> int:
    arena = gpu.kept.get("kv arena")
    return 0 if arena is None else arena.numel()


def _check_decode(found: torch.Tensor, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, point: Point) -> None:
    scores = (key[-1, -1].float() @ query[-1, -1, 0].float()) / point.number("dim") ** 0.5
    _near(found[-1, -1, 0].float(), scores.softmax(0) @ value[-1, -1].float(), point.key)


def elementwise(gpu: TorchGpu, point: Point) -> Trial:
    """One of the memory-bound operations of a layer on `m` tokens, as single torch kernels."""
    hidden, m = shape(point.text("model")).hidden, point.number("m")
    x, y, weight = gpu.normal(m, hidden), gpu.normal(m, hidden), gpu.normal(hidden)
    if point.text("what") == "rms_norm":
        return Trial(lambda _: F.rms_norm(x, (hidden,), weight, 1e-5), clock="graph", limit=128)
    return Trial(lambda _: torch.add(x, y, out=y), clock="graph", limit=128)


def rotate(x: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    """Rotary position embedding (arXiv 2104.09864), half-split layout; x is tokens x heads x dim."""
    left, right = x.chunk(2, dim=-1)
    return torch.addcmul(x * cosine, torch.cat((-right, left), dim=-1), sine)


TRIALS: dict[str, Callable[[TorchGpu, Point], Trial]] = {
    "gemm": gemm,
    "attention_prefill": attention_prefill,
    "attention_decode": attention_decode,
    "elementwise": elementwise,
}
