"""How much GPU memory an engine leaves for its KV pool, and where the rest goes."""

from __future__ import annotations

import msgspec

from kvplan.deployment import Deployment
from kvplan.engine.spec import EngineSpec
from kvplan.hardware.spec import Gpu
from kvplan.memory.formats import DTYPE_BYTES
from kvplan.memory.weights import rank_weight_bytes
from kvplan.model import Layers
from kvplan.units import format_bytes, format_count

LARGE_GPU_BYTES = 70 * 2**30


class KvPool(msgspec.Struct, frozen=True, kw_only=True):
    """GPU memory of one rank, and the KV pool of all ranks together."""

    gpu_bytes: int  # of one GPU, as the driver reports it
    usable_bytes: int  # what the engine allows itself on one GPU
    weight_bytes: int  # on the fullest rank
    activation_bytes: int
    overhead_bytes: int  # CUDA context, collectives, graphs
    rank_kv_bytes: int  # what is left on one GPU; negative when the weights do not fit
    ranks: int

    @property
    def kv_bytes(self) -> int:
        return max(0, self.rank_kv_bytes) * self.ranks


def kv_pool(deployment: Deployment) -> KvPool:
    """The KV pool that the engine makes on the GPUs of a deployment.

    GPU memory x fraction - weights - activation peak - context - graphs; the fraction is of total memory, or of
    what the weights leave free where the engine says so (TensorRT-LLM). Raises InputError when the machine has
    too few GPUs.
    """
    deployment.check_gpus()
    engine, ranks = deployment.engine, deployment.parallel.gpus
    fraction = engine.gpu_fraction
    rules, gpu = engine.memory, deployment.machine.gpu
    weights = rank_weight_bytes(deployment)
    activation = activation_bytes(deployment)
    overhead = rules.context_bytes + rules.graph_bytes + (rules.rank_bytes if ranks > 1 else 0)
    if rules.fraction_of == "free":
        left = gpu.memory_bytes - weights - activation - overhead
        kv, usable = int(fraction * left), gpu.memory_bytes
    else:
        usable = int(fraction * gpu.memory_bytes)
        kv = usable - weights - activation - overhead
    return KvPool(
        gpu_bytes=gpu.memory_bytes,
        usable_bytes=usable,
        weight_bytes=weights,
        activation_bytes=activation,
        overhead_bytes=overhead,
        rank_kv_bytes=kv,
        ranks=ranks,
    )


def beyond_gpus(deployment: Deployment, pool_bytes: int) -> str:
    """Why the GPUs cannot hold a pool of a size over all ranks, beside the weights; empty where they can, or no server is named."""
    spread = deployment.parallel
    if deployment.server is None:
        return ""
    there, weights = deployment.server.gpu.memory_bytes * spread.gpus, rank_weight_bytes(deployment) * spread.gpus
    if pool_bytes + weights <= there:
        return ""
    return (
        f"a GPU pool of {format_bytes(pool_bytes)} beside weights of {format_bytes(weights)} is more than the {format_bytes(there)} of "
        f"memory of {format_count(spread.gpus, 'GPU')} of {deployment.server.name}"
    )


def profiled_batch(engine: EngineSpec, gpu: Gpu) -> int:
    """Sequences for which an engine measures its activations at the start, where nobody tells it how many may run."""
    rules, large = engine.memory, gpu.memory_bytes >= LARGE_GPU_BYTES and gpu.fp8_flops > 0
    return (large and rules.large_profile_batch) or rules.profile_batch or engine.max_batch


def told_batch(engine: EngineSpec, max_batch: int) -> EngineSpec:
    """An engine that is told how many sequences run at once: it measures its activations with so many."""
    profiled = {"profile_batch": max_batch, "large_profile_batch": 0} if engine.memory.profile_batch else {}
    memory = msgspec.structs.replace(engine.memory, **profiled)
    return msgspec.structs.replace(engine, max_batch=max_batch, memory=memory)


def activation_bytes(deployment: Deployment) -> int:
    """Peak of activations on one rank: the sampler over a full batch, or the forward pass over a full step,
    whichever is larger.

    The sampler's peak is measured (see `Memory`); it holds logits of the whole vocabulary on every rank. The
    forward pass has rows of the hidden size and the widest feed-forward activation: gate and up together, and
    their product.
    """
    model, engine, gpu = deployment.model, deployment.engine, deployment.machine.gpu
    rules, tp = engine.memory, deployment.tp
    sampler = profiled_batch(engine, gpu) * model.vocab * rules.sampler_bytes
    width = max(
        (max(one.width * max(1, one.experts_per_token), one.shared_width) * one.matrices / tp for one in model.ffn),
        default=0,
    )
    forward = engine.step_tokens * (rules.forward_copies * model.hidden + width) * DTYPE_BYTES[model.dtype] if rules.forward_copies else 0
    return round(max(sampler, forward, _expanded_latents(deployment)))


def _expanded_latents(deployment: Deployment) -> float:
    """Peak in latent attention: rows of the hidden size, and K without its rotary part and V of as many tokens as a prefill expands at once
    (vLLM's own count, for the model's longest request). Sparse attention attends to latents as they are.
    """
    model, engine, tp = deployment.model, deployment.engine, deployment.tp
    most = engine.memory.prefill_workspace_tokens
    wide = [layer.query_heads * (layer.k_dim - layer.rotary_dim + layer.v_dim) for layer in model.layers if _expands(layer)]
    if not most or not wide:
        return 0.0
    block = engine.block_tokens
    tokens = min(max(8 * (engine.max_context_tokens or model.max_context_tokens), 4 * engine.max_batch * block), most)
    tokens = max(tokens, engine.max_batch * block)
    rows = engine.step_tokens * engine.memory.forward_copies * model.hidden
    return (rows + tokens * max(wide) / tp) * DTYPE_BYTES[model.dtype]


def _expands(layer: Layers) -> bool:
    return layer.kind == "latent" and bool(layer.up_params) and not layer.index_dim
