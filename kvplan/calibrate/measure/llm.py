"""Decoders with random weights: decode steps and prefill chunks as CUDA graphs, prefill for seconds on end, and the host's launches."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from kvplan.calibrate.measure.compute import rotate
from kvplan.calibrate.measure.gpu import TorchGpu
from kvplan.calibrate.measure.host import levels
from kvplan.calibrate.measure.timing import Trial
from kvplan.calibrate.records import Point, Sample
from kvplan.calibrate.shapes import Shape, shape


class Layer:
    """Weights of one decoder layer, bf16, outputs x inputs."""

    def __init__(self, gpu: TorchGpu, dims: Shape) -> None:
        products = dims.layer_products()
        self.qkv, self.o, self.gate_up, self.down = (gpu.normal(*products[name], scale=0.02) for name in products)
        self.norms = [gpu.normal(dims.hidden) for _ in range(2)]


class Decoder:
    """A Llama-like decoder: RMS norm, rotary embedding, grouped-query attention, SiLU-gated feed-forward.

    Its K and V live in `caches`, one pair for each layer or fewer pairs in turn when a pair alone outruns the L2 cache.
    """

    def __init__(self, gpu: TorchGpu, dims: Shape) -> None:
        self.gpu, self.dims, self.count = gpu, dims, dims.layers
        self.layers = [Layer(gpu, dims) for _ in range(dims.layers)]
        self.head = gpu.normal(dims.vocab, dims.hidden, scale=0.02)
        self.norm = gpu.normal(dims.hidden)

    def caches(self, batch: int, tokens: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Random K and V, batch x heads x tokens x dim. Raises RuntimeError when they do not fit."""
        dims = self.dims
        size = batch * tokens * dims.kv_bytes_per_token_layer
        pairs = min(self.count, self.gpu.copies_for(size))
        if pairs * size > 0.85 * self.gpu.free_bytes():
            raise RuntimeError(f"K and V take {pairs * size / 1e9:.0f} GB, more than is free")
        return [
            (
                self.gpu.normal(batch, tokens, dims.kv_heads, dims.head_dim).transpose(1, 2),
                self.gpu.normal(batch, tokens, dims.kv_heads, dims.head_dim).transpose(1, 2),
            )
            for _ in range(pairs)
        ]

    def forward(self, x: torch.Tensor, batch: int, cached: list[tuple[torch.Tensor, torch.Tensor]], wave: torch.Tensor) -> torch.Tensor:
        """Hidden states of `batch` x new tokens through all layers; logits of the last token of each sequence."""
        dims, (tokens, _) = self.dims, x.shape
        new = tokens // batch
        heads = dims.heads + dims.kv_heads
        for index, layer in enumerate(self.layers):
            key, value = cached[index % len(cached)]
            normed = F.rms_norm(x, (dims.hidden,), layer.norms[0], 1e-5)
            qkv = torch.mm(normed, layer.qkv.t()).view(tokens, -1, dims.head_dim)
            turned = rotate(qkv[:, :heads], wave, wave)
            grouped = turned.view(batch, new, heads, dims.head_dim).transpose(1, 2)
            key[:, :, -new:].copy_(grouped[:, dims.heads :])
            value[:, :, -new:].copy_(qkv[:, heads:].view(batch, new, dims.kv_heads, dims.head_dim).transpose(1, 2))
            seen = torch.ops.aten._scaled_dot_product_flash_attention(grouped[:, : dims.heads], key, value, 0.0, new > 1)[0]
            x = torch.addmm(x, seen.transpose(1, 2).reshape(tokens, -1), layer.o.t())
            gate, up = torch.mm(F.rms_norm(x, (dims.hidden,), layer.norms[1], 1e-5), layer.gate_up.t()).split(dims.ffn, 1)
            x = torch.addmm(x, F.silu(gate).mul_(up), layer.down.t())
        last = F.rms_norm(x.view(batch, new, -1)[:, -1], (dims.hidden,), self.norm, 1e-5)
        return torch.mm(last, self.head.t())


def _decoder(gpu: TorchGpu, name: str) -> Decoder:
    """The model of a name. Weights stay for the block."""
    dims = shape(name)
    if f"decoder {name}" not in gpu.kept and dims.weight_bytes > 0.85 * gpu.free_bytes():
        raise RuntimeError(f"the weights take {dims.weight_bytes / 1e9:.0f} GB, more than is free")
    return gpu.keep(f"decoder {name}", lambda: Decoder(gpu, dims))


def _trial(gpu: TorchGpu, point: Point, batch: int, new: int, context: int) -> Trial:
    decoder = _decoder(gpu, point.text("model"))
    cached = decoder.caches(batch, context + new)
    x = gpu.normal(batch * new, decoder.dims.hidden)
    wave = gpu.normal(batch * new, 1, decoder.dims.head_dim, scale=0.5)
    return Trial(lambda _: decoder.forward(x, batch, cached, wave), clock="graph", limit=4)


def decode_step(gpu: TorchGpu, point: Point) -> Trial:
    """One token for each of `batch` sequences of `context` tokens."""
    return _trial(gpu, point, point.number("batch"), 1, point.number("context"))


def prefill_step(gpu: TorchGpu, point: Point) -> Trial:
    """`new` tokens of one sequence after `context` cached ones."""
    return _trial(gpu, point, 1, point.number("new"), point.number("context"))


def sustained(gpu: TorchGpu, point: Point) -> Sample:
    """One prefill chunk again and again for `span_s`, after a rest: seconds of one in the last half, and in the first tenth of a second."""
    work = prefill_step(gpu, point)
    work.enqueue(0)
    torch.cuda.synchronize()
    time.sleep(1.0)
    taken: list[tuple[float, float]] = []
    began = time.perf_counter()
    while (start := time.perf_counter()) < began + float(point.params["span_s"]):
        work.enqueue(0)
        torch.cuda.synchronize()
        taken.append((start - began, time.perf_counter() - start))
    first = [s for at, s in taken if at < 0.1]
    last = [s for at, s in taken if at > taken[-1][0] / 2]
    return Sample(seconds=statistics.median(last), notes={"first_s": statistics.median(first)})


LAUNCHED = Shape(name="small", layers=1, hidden=256, heads=4, kv_heads=4, head_dim=64, ffn=512, vocab=256)


def _small_layer(gpu: TorchGpu) -> Callable[[], None]:
    """One layer on one token, eager, too small to keep the GPU busy: about twenty kernels."""
    layer, one = Layer(gpu, LAUNCHED), LAUNCHED
    key, value = (gpu.normal(1, one.heads, 64, one.head_dim) for _ in range(2))
    wave, place, x = gpu.normal(1, 1, one.head_dim), torch.tensor([5], device=gpu.device), gpu.normal(1, one.hidden)

    def run() -> None:
        q, k, v = F.linear(F.rms_norm(x, (one.hidden,), layer.norms[0]), layer.qkv).view(1, 3, one.heads, one.head_dim).unbind(1)
        q, k = rotate(q, wave, wave), rotate(k, wave, wave)
        key.index_copy_(2, place, k.view(1, one.heads, 1, one.head_dim))
        value.index_copy_(2, place, v.view(1, one.heads, 1, one.head_dim))
        seen = F.scaled_dot_product_attention(q.view(1, one.heads, 1, one.head_dim), key, value).reshape(1, -1)
        y = x + F.linear(seen, layer.o)
        gate, up = F.linear(F.rms_norm(y, (one.hidden,), layer.norms[1]), layer.gate_up).chunk(2, -1)
        _ = y + F.linear(F.silu(gate) * up, layer.down)

    return run


def launch(gpu: TorchGpu, point: Point) -> Sample:
    """Seconds in which the host launches one small layer, in windows of sixteen of them."""
    layer = _small_layer(gpu)

    def window() -> float:
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(16):
            layer()
        torch.cuda.synchronize()
        return (time.perf_counter() - began) / 16

    window()
    return levels(window, float(point.params["span_s"]))


TRIALS: dict[str, Callable[[TorchGpu, Point], Trial]] = {"decode_step": decode_step, "prefill_step": prefill_step}
SAMPLERS: dict[str, Callable[[TorchGpu, Point], Sample]] = {"sustained": sustained, "launch": launch}
"""Points that take their own time and clock."""
