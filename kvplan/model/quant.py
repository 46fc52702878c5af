"""How a checkpoint stores its weights: bits per weight, with scales, of each part of the model."""

from __future__ import annotations

import fnmatch
import re
from typing import Any

from kvplan.model.config import Fields
from kvplan.model.spec import Quantization

_SAMPLES = {
    "attention": (
        "model.layers.7.self_attn.o_proj",
        "model.layers.7.self_attn",
        "model.layers.7.mixer.in_proj",
        "model.layers.7.linear_attn.in_proj_qkv",
        "layers.7.attn.wo_b",
    ),
    "dense": ("model.layers.0.mlp.down_proj", "model.layers.7.mlp.down_proj"),
    "experts": ("model.layers.7.mlp.experts.3.down_proj", "model.layers.7.mlp.experts"),
    "shared_experts": (
        "model.layers.7.mlp.shared_experts.down_proj",
        "model.layers.7.mlp.shared_experts",
        "layers.7.ffn.shared_experts.w1",
    ),
    "head": ("lm_head",),
}
"""Module names as checkpoints have them: a part is excluded when a pattern matches one of them."""


def quantization(fields: Fields, *, expert_model: bool) -> Quantization | None:
    """The weight format of a config's `quantization_config`; None when the weights are in the model's dtype."""
    raw = next(
        (c["quantization_config"] for c in (fields.own, fields.outer) if isinstance(c.get("quantization_config"), dict)),
        None,
    )
    if not raw:
        return None
    method = str(raw.get("quant_method") or raw.get("quant_algo") or "").lower()
    bits = _bits(raw, method)
    kv_dtype = _kv_dtype(raw)
    if bits is None:
        raise fields.refuse(f"its quantisation {method or 'method'!r} is not known", "quantization_config")
    if bits == 0:
        return Quantization(method=method, bits={}, kv_dtype=kv_dtype)
    kept = _exclusions(raw)
    parts = {part: bits for part in _SAMPLES if part != "head" and not _excluded(_SAMPLES[part], kept)}
    if method == "mxfp4":
        parts = {"experts": bits}
    if fields.get("expert_dtype") == "fp4" and method == "fp8":  # DeepSeek-V4: experts in blocks of 32 with an 8-bit scale
        parts["experts"] = 4.5 if raw.get("moe_quant_algo") == "NVFP4" else 4.25
    if not expert_model:
        parts = {part: value for part, value in parts.items() if "experts" not in part}
    return Quantization(method=method, bits=parts, compute=_compute(raw, method), kv_dtype=kv_dtype)


def _bits(raw: dict[str, Any], method: str) -> float | None:
    """Bits per weight with scales; 0: not quantised; None: unknown."""
    algorithm = str(raw.get("quant_algo") or "").upper()
    if method in ("gptq", "awq", "gptq_marlin", "awq_marlin", "auto-round", "autoround"):
        bits, group = (
            int(raw.get("bits") or raw.get("w_bit") or 4),
            int(raw.get("group_size") or raw.get("q_group_size") or 128),
        )
        return bits + ((16 + bits) / group if group > 0 else 0)  # an fp16 scale and a packed zero point per group
    if method == "mxfp4":
        return 4 + 8 / 32
    if method in ("fp8", "fbgemm_fp8"):
        block = raw.get("weight_block_size")
        return 8 + (32 / (block[0] * block[1]) if block else 0)
    if method == "bitsandbytes":
        return 4 + 8 / 64 + 32 / (64 * 256) if raw.get("load_in_4bit") else 8
    if method in ("modelopt", "modelopt_fp4", "modelopt_mixed"):
        if "NVFP4" in algorithm or "MIXED" in algorithm:
            return 4 + 8 / 16
        return 8 if "FP8" in algorithm else (0 if not algorithm else None)
    if method == "compressed-tensors":
        return _compressed(raw)
    return None


def _compute(raw: dict[str, Any], method: str) -> str:
    """The dtype of the products: narrow only where activations are quantised as well; 4-bit weights alone (GPTQ, AWQ, bitsandbytes) are
    widened before they are multiplied.
    """
    if method in ("fp8", "fbgemm_fp8", "mxfp4"):
        return "fp8"  # mxfp4 weights meet fp8 activations on GPUs with fp4 units, bf16 ones elsewhere
    if method.startswith("modelopt"):
        algorithm = str(raw.get("quant_algo") or "").upper()
        return "fp4" if "NVFP4" in algorithm or "MIXED" in algorithm else "fp8" if "FP8" in algorithm else ""
    if method != "compressed-tensors":
        return ""
    groups = (raw.get("config_groups") or {}).values()
    inputs = next((group.get("input_activations") for group in groups if group.get("weights")), None)
    if inputs:
        return "fp4" if inputs.get("num_bits") == 4 else "fp8" if inputs.get("type") == "float" else "int8"
    return {"float-quantized": "fp8", "int-quantized": "int8", "nvfp4-pack-quantized": "fp4"}.get(str(raw.get("format")), "")


def _compressed(raw: dict[str, Any]) -> float | None:
    groups = raw.get("config_groups") or {}
    weights = next((group.get("weights") for group in groups.values() if group.get("weights")), None)
    if not weights:
        return {
            "float-quantized": 8.0,
            "int-quantized": 8.0,
            "nvfp4-pack-quantized": 4.5,
            "mxfp4-pack-quantized": 4.25,
        }.get(str(raw.get("format")))
    bits, group = int(weights.get("num_bits") or 8), int(weights.get("group_size") or 0)
    scale = 8 if weights.get("type") == "float" and bits == 4 else 16
    return bits + (scale / group if group > 0 else 0)


def _kv_dtype(raw: dict[str, Any]) -> str:
    scheme = raw.get("kv_cache_scheme")
    if isinstance(scheme, dict) and scheme.get("num_bits") == 8:
        return "fp8" if scheme.get("type") == "float" else "int8"
    named = str(raw.get("kv_cache_quant_algo") or "").upper()
    return {"FP8": "fp8", "NVFP4": "nvfp4", "INT8": "int8"}.get(named, "")


def _exclusions(raw: dict[str, Any]) -> list[str]:
    patterns: list[str] = []
    for key in ("modules_to_not_convert", "ignored_layers", "ignore", "exclude_modules"):
        patterns += [str(one) for one in raw.get(key) or ()]
    return patterns


def _excluded(names: tuple[str, ...], patterns: list[str]) -> bool:
    for pattern in patterns:
        text = pattern.removeprefix("re:")
        for name in names:
            if pattern.startswith("re:"):
                if re.match(text, name):
                    return True
            elif fnmatch.fnmatch(name, text) or fnmatch.fnmatch(name, re.sub(r"\.\d+\.", ".7.", text)):
                return True
    return False
