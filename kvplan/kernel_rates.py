"""What kernels of an engine reach beside the rates of the machine: measured factors, each with what it rests on."""

from __future__ import annotations

import math

from kvplan.model import Layers

LATENT_SEQUENCE_Bps = 1.3e12
"""Bytes per second at which decode attention reads the latents of one sequence alone (DeepSeek-V2-Lite on one H200 with vLLM 0.24: steps
of one sequence of 1k, 16k and 65k tokens; eight sequences reach the rate of the memory). Taken for other GPUs: assumed."""

UNEVEN_SHARE = 0.27
UNEVEN_TOKENS = 1500
"""How much longer decode attention takes per token when its sequences differ, and the mean shortfall behind the longest at which it is half
of that: steps of equal lengths show nothing of it (Llama-3.1-8B shape on one H200 with vLLM 0.24, 116 requests of 1k to 60k tokens under
load: intervals of every size between tokens are 4 to 13 % longer than without). The figure rests on that load, the form is assumed."""

WIDE_HEAD = 256
WIDE_HEAD_SEQUENCE_Bps = 0.3e12
"""The same for each KV head of so many elements (Gemma-3-12B on one H200 with vLLM 0.24: steps of one sequence of 16k and 65k tokens)."""


def sequence_Bps(layer: Layers, tp: int) -> float:
    """Bytes per second at which one sequence alone is read at most, on one of `tp` ranks."""
    if layer.kind == "latent":
        return LATENT_SEQUENCE_Bps
    return WIDE_HEAD_SEQUENCE_Bps * max(1, layer.kv_heads // tp) if layer.k_dim >= WIDE_HEAD else math.inf


EXPERT_READ_RATE = 0.96
"""Of the rate at which decode attention reads the KV cache, that at which the experts' kernel reads their weights (Qwen3-30B-A3B with vLLM
0.24: decode steps of 1 to 128 sequences on one H100 and on one H200, which want 0.97 and 0.93)."""

MXFP4_READ_RATE = 0.82
MXFP4_PRODUCT_RATE = 1.34
MXFP4_TILE_ROWS = 128
"""Of what experts in bf16 reach, that at which experts in mxfp4, which a kernel of their own widens to bf16, are read and multiplied, and
the rows of its largest tiles, of the last of which each expert leaves half unused (gpt-oss-20b on one H100 with vLLM 0.24 and its Triton
kernels: decode steps of 1 to 64 sequences, cold prompts of 1k to 32k tokens)."""

FP8_READ_RATE = 0.94
FP8_ATTENTION_RATE = 1.17
"""Of the rates with a bf16 cache, what decode attention reads of an fp8 cache, and at which prefill attention multiplies in fp8
(Llama-3.1-8B shape on one H100 with vLLM 0.24: decode steps of 1k to 65k tokens, cold prompts of 8k to 65k)."""

LATENT_PAIR_SHARE = 0.89
"""Of what a score pair with keys of 192 and values of 128 costs by `pair_flops`, what it takes in prefill (DeepSeek-V2-Lite on one H200
with vLLM 0.24: cold prompts of 16k to 112k tokens)."""

STATE_CHUNK_TOKENS = 64
"""Tokens after which a chunked scan of a recurrent layer writes its state and reads it again: the usual chunk of such kernels, assumed."""
