"""KV dtypes: bytes of a vector with the scales that belong to it."""

from __future__ import annotations

from kvplan.deployment import Deployment
from kvplan.engine.spec import EngineSpec, KvFormat
from kvplan.errors import InputError, did_you_mean
from kvplan.model import ModelSpec

LOGICAL: dict[str, KvFormat] = {
    "fp32": KvFormat(element_bits=32),
    "bf16": KvFormat(element_bits=16),
    "fp16": KvFormat(element_bits=16),
    "fp8": KvFormat(element_bits=8),
    "int8": KvFormat(element_bits=8),
    "int4": KvFormat(element_bits=4),
    "nvfp4": KvFormat(element_bits=4, block_elements=16, block_scale_bytes=1),
    "mxfp4": KvFormat(element_bits=4, block_elements=32, block_scale_bytes=1),
}
"""Scales per tensor cost nothing per token; nvfp4 has an e4m3 scale per 16 elements, mxfp4 an e8m0 scale per 32
(OCP Microscaling 1.0).
"""

ALIASES = {
    "bfloat16": "bf16",
    "float16": "fp16",
    "half": "fp16",
    "float32": "fp32",
    "float": "fp32",
    "fp8_e4m3": "fp8",
    "fp8_e5m2": "fp8",
    "e4m3": "fp8",
    "e5m2": "fp8",
    "q8_0": "int8",
    "q4_0": "int4",
    "8bit": "int8",
    "4bit": "int4",
}

DTYPE_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "fp8": 1, "int8": 1}

INDEX_SCALE_BYTES = 4
"""The sparse indexer stores its key as fp8 with one fp32 scale per token, whatever the KV dtype (vLLM
DeepSeek-V3.2: 128 + 4 bytes).
"""


def resolve_kv_dtype(name: str, model: ModelSpec, engine: EngineSpec | None = None) -> str:
    """The KV dtype behind a name. Raises InputError on an unknown one.

    `auto` is the model's own dtype, also for fp8 weights, unless the checkpoint asks for a KV dtype by name and
    the engine follows it.
    """
    known = {**LOGICAL, **(engine.kv_formats if engine else {})}
    chosen = ALIASES.get(name.lower(), name.lower())
    if chosen == "auto":
        wanted = model.quantization.kv_dtype if model.quantization else ""
        return wanted if wanted and engine and engine.memory.checkpoint_kv else model.dtype
    if chosen not in known:
        raise InputError(f"no KV dtype named {name!r}", hint=did_you_mean(chosen, ["auto", *known]))
    return chosen


def logical_format(kv_dtype: str, engine: EngineSpec | None = None) -> KvFormat:
    """The format of a dtype by itself; an engine's own dtypes (fp8_ds_mla, int8_per_token_head) are as that engine
    stores them.
    """
    return LOGICAL.get(kv_dtype) or engine.kv_formats[kv_dtype]  # type: ignore[union-attr]


def stored_kv_dtype(deployment: Deployment) -> str:
    """The KV dtype as the engine stores it: sparse latent attention keeps fp8 in rows with scales and a bf16 rotary part."""
    name = resolve_kv_dtype(deployment.kv_dtype, deployment.model, deployment.engine)
    sparse = any(layer.index_dim for layer in deployment.model.layers)
    return "fp8_ds_mla" if name == "fp8" and sparse and "fp8_ds_mla" in deployment.engine.kv_formats else name


def stored_format(deployment: Deployment) -> KvFormat:
    """The format in which a deployment's engine stores its KV dtype, with the scales that it adds."""
    name = stored_kv_dtype(deployment)
    return deployment.engine.kv_formats.get(name) or LOGICAL[name]


def vector_bytes(dim: int, fmt: KvFormat) -> int:
    """Bytes of one head's vector of `dim` elements, its block and head scales included, rounded up to whole bytes."""
    blocks = -(-dim // fmt.block_elements) if fmt.block_elements else 0
    return -(-dim * fmt.element_bits // 8) + blocks * fmt.block_scale_bytes + fmt.head_scale_bytes


def state_dtype(model: ModelSpec, engine: EngineSpec) -> str:
    """The dtype of recurrent states whose config names none: the engine's for this family, else for all; empty: the model's."""
    return engine.memory.state_dtypes.get(model.family, engine.memory.state_dtype)
