"""What one layer launches on a GPU beside the bytes and products that it is about: counts of kernels, from the kind of the layer.

The counts are those of a fused decoder (vLLM 0.24): norms with the residual added in, rotary embedding, the write of K and V, the gate of
the feed-forward part. Small kernels all take about as long (on one H100 and one H200 calibrated layers of Llama's shape take 11 us for
their five); steps of Qwen3-30B-A3B on the one, of Gemma-3-12B and DeepSeek-V2-Lite on the other are explained by these counts to 2 %.
"""

from __future__ import annotations

from collections.abc import Container
from typing import NamedTuple

from kvplan.model import Ffn, Layers, ModelSpec

QK_NORM = ("qwen3", "gemma3", "gemma4", "olmo2", "olmoe", "step3", "minimax_m2")
"""Families (how their names begin) that normalise each head's queries and keys: two kernels more a layer."""

SANDWICH = ("gemma2", "gemma3", "gemma4", "glm4")
"""Families that normalise what attention and feed-forward give as well: two norms more a layer, none of them fused with the residual."""

PLAIN_SMALL = 5
"""Small kernels of a plain layer: two norms, rotary, the KV write, the gate. The machine's `layer_overhead_s` is what these take."""

PLAIN_LAUNCHES = 10
"""With four products and attention: what `launch_layer_eager_s` of an engine launches."""

TRITON_LAUNCH = 2
"""Launches of the framework's own that one Triton kernel costs on the host (12.9 to 20 us against 8 to 11 us on two hosts)."""


LATENT_CACHED = 8
"""The same that a step of latent attention launches more, in a layer, when it also decodes or meets a cached prefix, whose latents are
gathered, expanded and merged (DeepSeek-V2-Lite on one H200 with vLLM 0.24: its calls take 91 ms in 150 steps of a replay of chats, 66 in
cold prompts of 1k to 4k tokens)."""

WIDENED_EXPERTS = 17
"""The same that experts in mxfp4, widened by a kernel of their own, launch more in a layer: their routing is six Triton kernels, and their
two products prepare much on the host (gpt-oss-20b with vLLM 0.24 on one H100: launching a step beyond its CUDA graphs takes 2.1 ms a layer
at the faster speed of the host, 2.9 on the average)."""

ALL_REDUCE_LAUNCHES = 0.3
"""The same that one eager all-reduce costs on the host: 23 to 26 us for 128 KiB in vLLM on H100 and H200 servers, of which the GPU takes 4
to 6 (operator tables of AISimulate 0.13), where a launch of the engine's eager layer takes 91 us on the slower host of its measurements."""


class Launches(NamedTuple):
    """Kernels of one layer, or of a part of it."""

    small: float = 0.0  # that read and write little
    host: float = 0.0  # all, in launches of the framework; norms more are compiled into their neighbours
    cached: float = 0.0  # of these, more in a step that also attends content as it is stored
    captured: float = 0.0  # calls of attention or of a state beside captured pieces

    def __add__(self, other: Launches) -> Launches:  # type: ignore[override]
        return Launches(*(one + more for one, more in zip(self, other, strict=True)))

    def __mul__(self, times: float) -> Launches:  # type: ignore[override]
        return Launches(*(one * times for one in self))


def mixer_launches(layer: Layers, family: str, hidden: int) -> Launches:
    """Kernels of one token mixer: attention, a latent attention's way through its compressed vectors, a recurrent state."""
    if not layer.params:
        return Launches()
    if layer.kind == "state":  # norm, convolution, gates, state update, gated norm; two products
        return Launches(small=5, host=7 + 2 * (TRITON_LAUNCH - 1), captured=1)
    extra = 2 * family.startswith(QK_NORM)
    if layer.kind == "latent":  # norm of the latent and one rearrangement more; products for the latent and up from it
        low = compressed_queries(layer, hidden)  # and a norm and a product of the queries
        return Launches(small=5 + low, host=5 + 4 + 2 + 2 * low, cached=LATENT_CACHED, captured=1)
    return Launches(small=3 + extra, host=6, captured=1)


def compressed_queries(layer: Layers, hidden: int) -> bool:
    """Are the queries of a latent layer projected down first, beside the latent: then more than the latent's projection is replicated."""
    return layer.kind == "latent" and layer.up_params > 0 and layer.replicated_params > layer.latent_dim * hidden


def narrowed_inputs(model: ModelSpec, parts: Container[str]) -> float:
    """Kernels of all layers that round the inputs of products to fp8 or fp4, one for each input of the parts of the model that are
    multiplied so (DeepSeek-V3 on two H100 with vLLM 0.24: seven a layer).
    """
    total = 0.0
    for layer in model.layers:
        if layer.params and "attention" in parts and layer.kind != "state":
            total += layer.count * (2 + compressed_queries(layer, model.hidden))
    for group in model.ffn:
        total += group.count * 2 * (("experts" if group.experts else "dense") in parts)
        total += group.count * 2 * (bool(group.shared_width) and "shared_experts" in parts)
    return total


def ffn_launches(group: Ffn) -> Launches:
    """Kernels of one feed-forward part. Experts: norm, router, choice, sorting of tokens by expert (3), two grouped products, gate, sum."""
    if not group.experts:
        return Launches(small=2, host=4)
    shared = Launches(small=1, host=3) if group.shared_width else Launches()
    return Launches(small=7, host=7 + 1 + 2 * TRITON_LAUNCH) + shared


def launches(model: ModelSpec, tp: int = 1) -> Launches:
    """Kernels of all layers on one of `tp` ranks; what collectives take on the GPU is counted by their bytes."""
    total = sum((mixer_launches(layer, model.family, model.hidden) * layer.count for layer in model.layers), Launches())
    total = sum((ffn_launches(group) * group.count for group in model.ffn), total)
    sandwich = 4.0 * model.depth if model.family.startswith(SANDWICH) else 0.0
    collectives = 2.0 * model.depth * ALL_REDUCE_LAUNCHES if tp > 1 else 0.0
    return total + Launches(small=sandwich, host=collectives)


def elementwise_bytes(model: ModelSpec, tp: int, activation_bytes: int) -> float:
    """Bytes per token that norms, residuals, rotary and gates move in all layers on one rank, each kernel reading and writing once.

    Two fused add-and-norms of four hidden rows each, rotary on Q and K and the KV write of about three and a half, the gate of
    two inputs and one output of the feed-forward width, and what the experts of a token give, added up.
    """
    hidden_rows = 8.0 + 3.5 / tp
    if model.family.startswith(SANDWICH):
        hidden_rows += 4.0  # two norms more, each reads and writes a row
    gates = sum(group.count * 3 * (group.width * max(1, group.experts_per_token) + group.shared_width) for group in model.ffn)
    sums = sum(group.count * (group.experts_per_token + 2) * (group.inner_hidden or model.hidden) for group in model.ffn if group.experts)
    return (model.depth * hidden_rows * model.hidden + sums + gates / tp) * activation_bytes
