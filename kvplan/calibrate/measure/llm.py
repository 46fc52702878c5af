"""Whole decoders with random weights: decode steps and prefill chunks, in eager mode and as CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from kvplan.calibrate.measure.compute import rotate
from kvplan.calibrate.measure.gpu import Gpu
from kvplan.calibrate.measure.timing import Trial
from kvplan.calibrate.records import Point
from kvplan.calibrate.shapes import Shape, shape


class Layer:
    """Weights of one decoder layer, bf16, outputs x inputs."""

    def __init__(self, gpu: Gpu, dims: Shape) -> None:
        products = dims.layer_products()
        self.qkv, self.o, self.gate_up, self.down = (gpu.normal(*products[name], scale=0.02) for name in products)
        self.norms = [gpu.normal(dims.hidden) for _ in range(2)]


class Decoder:
    """A Llama-like decoder: RMS norm, rotary embedding, grouped-query attention, SiLU-gated feed-forward.

    Its K and V live in `caches`, one pair for each layer or fewer pairs in turn when a pair alone outruns the L2 cache.
    """

    def __init__(self, gpu: Gpu, dims: Shape, layers: int) -> None:
        self.gpu, self.dims, self.count = gpu, dims, layers
        self.layers = [Layer(gpu, dims) for _ in range(layers)]
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


def _decoder(gpu: Gpu, name: str) -> Decoder:
    """The model of a name; `llama-3.1-8b/1` is one layer of it. Weights stay for the block."""
    base, _, layers = name.partition("/")
    dims = shape(base)
    count = int(layers or dims.layers)
    size = dims.weight_bytes * count // dims.layers
    if f"decoder {name}" not in gpu.kept and size > 0.85 * gpu.free_bytes():
        raise RuntimeError(f"the weights take {size / 1e9:.0f} GB, more than is free")
    return gpu.keep(f"decoder {name}", lambda: Decoder(gpu, dims, count))


def _trial(gpu: Gpu, point: Point, batch: int, new: int, context: int) -> Trial:
    decoder = _decoder(gpu, point.text("model"))
    cached = decoder.caches(batch, context + new)
    x = gpu.normal(batch * new, decoder.dims.hidden)
    wave = gpu.normal(batch * new, 1, decoder.dims.head_dim, scale=0.5)
    clock = "graph" if point.text("run") == "graph" else "wall"
    return Trial(lambda _: decoder.forward(x, batch, cached, wave), clock=clock, limit=4)


def decode_step(gpu: Gpu, point: Point) -> Trial:
    """One token for each of `batch` sequences of `context` tokens."""
    return _trial(gpu, point, point.number("batch"), 1, point.number("context"))


def prefill_step(gpu: Gpu, point: Point) -> Trial:
    """`new` tokens of one sequence after `context` cached ones."""
    return _trial(gpu, point, 1, point.number("new"), point.number("context"))


TRIALS: dict[str, Callable[[Gpu, Point], Trial]] = {"decode_step": decode_step, "prefill_step": prefill_step}
