"""Parameters of a model and the bytes of its weights, whole and per rank."""

from __future__ import annotations

import msgspec

from kvplan.deployment import Deployment
from kvplan.engine.spec import EngineSpec
from kvplan.errors import InputError, did_you_mean
from kvplan.memory.formats import DTYPE_BYTES
from kvplan.model import Ffn, ModelSpec, Part


class Parameters(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of a model by part; the embedding and the head are counted apart because prefill does not multiply
    by the embedding.
    """

    embedding: int
    head: int  # 0 when tied
    attention: int
    attention_replicated: int  # of `attention`, what every tensor-parallel rank holds
    dense: int
    router: int
    experts: int
    shared_experts: int
    other: int
    active_experts: int  # of `experts`, what one token visits

    @property
    def total(self) -> int:
        return self.embedding + self.head + self.attention + self.dense + self.router + self.experts + self.shared_experts + self.other

    @property
    def active(self) -> int:
        """Parameters that one token visits, the embedding table and the head included."""
        return self.total - self.experts + self.active_experts


def parameters(model: ModelSpec) -> Parameters:
    """Parameters by part from the layer shapes. What the maker counts beyond them (norms, biases, towers) is
    `other`.
    """
    hidden = model.hidden
    table = model.vocab * hidden
    parts = {
        "embedding": table,
        "head": 0 if model.tied_embeddings else table,
        "attention": sum(layer.count * layer.params for layer in model.layers),
        "dense": sum(one.count * hidden * one.width * one.matrices for one in model.ffn if not one.experts),
        "router": sum(one.count * hidden * one.experts for one in model.ffn),
        "experts": sum(one.count * one.experts * _expert(one, hidden) for one in model.ffn),
        "shared_experts": sum(one.count * (hidden * one.shared_width * one.matrices + 2 * hidden * one.inner_hidden) for one in model.ffn),
    }
    norms = (2 * model.depth + 1) * hidden
    known = sum(parts.values()) + norms
    other = max(model.other_params, model.declared_params - known if _plausible(model.declared_params, known) else 0)
    return Parameters(
        **parts,
        other=norms + other,
        attention_replicated=sum(layer.count * layer.replicated_params for layer in model.layers),
        active_experts=sum(one.count * one.experts_per_token * _expert(one, hidden) for one in model.ffn),
    )


def _plausible(declared: int, known: int) -> bool:
    return known < declared < 1.5 * known  # twice: stored wider than the config says


def _expert(one: Ffn, hidden: int) -> int:
    return (one.inner_hidden or hidden) * one.width * one.matrices if one.experts else 0


WEIGHT_BITS = {
    "fp32": 32.0,
    "bf16": 16.0,
    "fp16": 16.0,
    "fp8": 8.0,
    "int8": 8.0,
    "int4": 4 + 16 / 128,
    "awq": 4 + 20 / 128,
    "gptq": 4 + 20 / 128,
    "nvfp4": 4.5,
    "mxfp4": 4.25,
}
"""Bits per weight of `--dtype`, scales included: int4, awq and gptq with groups of 128, nvfp4 of 16, mxfp4 of 32."""

_ALIASES = {"bfloat16": "bf16", "float16": "fp16", "half": "fp16", "float32": "fp32", "auto": ""}
_LINEAR = ("attention", "dense", "experts", "shared_experts")


def part_bits(model: ModelSpec, dtype: str = "") -> dict[str, float]:
    """Bits per weight of each part: of the checkpoint, or with `dtype` instead. Raises InputError on an unknown
    dtype.
    """
    chosen = _ALIASES.get(dtype.lower(), dtype.lower())
    if chosen and chosen not in WEIGHT_BITS:
        raise InputError(f"no weight dtype named {dtype!r}", hint=did_you_mean(chosen, WEIGHT_BITS))
    base = 8.0 * DTYPE_BYTES[chosen if chosen in ("bf16", "fp16", "fp32") else model.dtype]
    bits = dict.fromkeys(("embedding", "head", "attention", "dense", "router", "experts", "shared_experts", "other"), base)
    if chosen and chosen not in ("bf16", "fp16", "fp32"):
        bits |= dict.fromkeys(_LINEAR, WEIGHT_BITS[chosen])
    elif not chosen and model.quantization:
        bits |= model.quantization.bits
    return bits


COMPUTE = {"fp8": "fp8", "int8": "int8", "nvfp4": "fp4", "mxfp4": "fp8"}
"""Weight dtype of `--dtype` -> dtype of its products where the GPU has units for it; others are multiplied in the model's dtype."""


def peak_flops(deployment: Deployment, part: Part) -> float:
    """The datasheet rate at which a part's matrices are multiplied: that of a narrow dtype only where activations are narrow too and the
    GPU has units for it. mxfp4 experts are widened to bf16 on GPUs without fp4 units.
    """
    gpu, (_, compute) = deployment.machine.gpu, _method(deployment, part)
    if compute == "fp4" and gpu.fp4_flops:
        return gpu.fp4_flops
    wide = not compute or compute == "fp4" or widened(deployment, part)
    return gpu.bf16_flops if wide else gpu.fp8_flops or gpu.bf16_flops


def widened(deployment: Deployment, part: Part) -> bool:
    """Are a part's matrices stored in mxfp4, and multiplied in bf16 by a kernel that widens them."""
    method, compute = _method(deployment, part)
    return method == "mxfp4" and bool(compute) and not deployment.machine.gpu.fp4_flops


def _method(deployment: Deployment, part: Part) -> tuple[str, str]:
    """How a part's matrices are stored, and the dtype that they are multiplied in, empty for the model's."""
    chosen, stored = _ALIASES.get(deployment.dtype.lower(), deployment.dtype.lower()), deployment.model.quantization
    if chosen:
        return chosen, COMPUTE.get(chosen, "") if part in _LINEAR else ""
    return (stored.method, stored.compute if part in stored.bits else "") if stored else ("", "")


def weight_bytes(model: ModelSpec, dtype: str = "") -> int:
    """Bytes of the whole model's weights."""
    params, bits = parameters(model), part_bits(model, dtype)
    return round(sum(getattr(params, part) * width / 8 for part, width in bits.items()))


def rank_weight_bytes(deployment: Deployment) -> int:
    """Bytes of weights on the fullest rank. Experts lie on all tensor- and data-parallel ranks of a stage, all else on the
    tensor-parallel ones.

    Embedding, head and matrices are split; routers, norms and the latent down-projections are held whole; KV
    heads beyond `tp` are replicated. A latent model's up-projection is kept a second time in the model's dtype
    where the engine absorbs it into the queries.
    """
    model, engine, spread = deployment.model, deployment.engine, deployment.parallel
    tp, pp, holders = spread.tp, spread.pp, spread.tp * spread.dp
    params, bits = parameters(model), part_bits(model, deployment.dtype)
    stage = 1 / pp if pp == 1 else -(-model.depth // pp) / model.depth
    split = params.attention - params.attention_replicated
    attention = split / tp + params.attention_replicated + _replicated_heads(model, tp)
    experts = params.experts * _padding(model, engine, 1 if spread.ep else holders)
    if spread.redundant_experts:
        experts *= 1 + spread.redundant_experts / max(one.experts for one in model.ffn)
    held = {
        "embedding": params.embedding / tp,
        "head": params.head / tp,
        "attention": attention * stage,
        "dense": params.dense / tp * stage,
        "router": params.router * stage,
        "experts": experts / holders * stage,
        "shared_experts": params.shared_experts / tp * stage,
        "other": params.other / tp * stage,
    }
    total = sum(held[part] * width / 8 for part, width in bits.items())
    return round(total + (_absorbed(model) / tp * stage * DTYPE_BYTES[model.dtype] if engine.memory.absorbs_latent else 0))


def _padding(model: ModelSpec, engine: EngineSpec, tp: int) -> float:
    """How much larger mxfp4 experts are on a rank whose kernels want their width padded."""
    multiple = engine.memory.mxfp4_width_multiple
    sparse = [one for one in model.ffn if one.experts]
    if not multiple or not sparse or not model.quantization or model.quantization.method != "mxfp4":
        return 1.0
    width = sparse[0].width / tp
    return -(-width // multiple) * multiple / width


def _replicated_heads(model: ModelSpec, tp: int) -> float:
    """K and V parameters that one rank holds beyond its even share because there are fewer KV heads than ranks."""
    extra = 0.0
    for layer in model.layers:
        if layer.kind not in ("latent", "state", "none") and 0 < layer.kv_heads < tp:
            head = model.hidden * (layer.k_dim + layer.v_dim)
            extra += layer.count * head * (1 - layer.kv_heads / tp)
    return extra


def _absorbed(model: ModelSpec) -> int:
    """Elements of the latent up-projections (rank x heads x (nope + v)); the rotary part is not projected."""
    total = 0
    for layer in model.layers:
        if layer.kind == "latent":
            total += layer.count * layer.up_params
    return total
