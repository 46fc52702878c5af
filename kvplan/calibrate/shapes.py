"""Shapes of dense decoders whose matrix products and attention are timed."""

from __future__ import annotations

import msgspec

from kvplan.errors import InputError, did_you_mean


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """A dense decoder as the probes need it; dimensions in elements."""

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int

    @property
    def kv_bytes_per_token_layer(self) -> int:
        """K and V of one token in one layer, bf16."""
        return 2 * self.kv_heads * self.head_dim * 2

    @property
    def weight_bytes(self) -> int:
        """Weights in bf16: layers and output head, without the input embedding."""
        return 2 * (self.layers * sum(n * k for n, k in self.layer_products().values()) + self.vocab * self.hidden)

    def layer_products(self) -> dict[str, tuple[int, int]]:
        """The matrix products of one layer: name -> (outputs, inputs)."""
        return {
            "qkv": ((self.heads + 2 * self.kv_heads) * self.head_dim, self.hidden),
            "o": (self.hidden, self.heads * self.head_dim),
            "gate_up": (2 * self.ffn, self.hidden),
            "down": (self.hidden, self.ffn),
        }

    def products(self) -> dict[str, tuple[int, int]]:
        """The products of a layer and the output head."""
        return {**self.layer_products(), "lm_head": (self.vocab, self.hidden)}


# Configuration files of the published models (Hugging Face config.json).
SHAPES: dict[str, Shape] = {
    shape.name: shape
    for shape in (
        Shape(name="llama-3.1-8b", layers=32, hidden=4096, heads=32, kv_heads=8, head_dim=128, ffn=14336, vocab=128256),
        Shape(name="llama-3.2-1b", layers=16, hidden=2048, heads=32, kv_heads=8, head_dim=64, ffn=8192, vocab=128256),
        Shape(name="qwen2.5-7b", layers=28, hidden=3584, heads=28, kv_heads=4, head_dim=128, ffn=18944, vocab=152064),
    )
}


def shape(name: str) -> Shape:
    """A shape by name. Raises InputError with the nearest names."""
    if name not in SHAPES:
        raise InputError(f"calibrate has no shape named {name!r}", hint=did_you_mean(name, SHAPES))
    return SHAPES[name]
