"""How much GPU memory an engine leaves for its KV pool, and where the rest goes."""

from __future__ import annotations

import msgspec

from kvplan.engine.spec import EngineSpec
from kvplan.errors import InputError
from kvplan.hardware.spec import Gpu, Machine
from kvplan.memory.formats import DTYPE_BYTES
from kvplan.memory.weights import rank_weight_bytes
from kvplan.model import ModelSpec

LARGE_GPU_BYTES = 70 * 2**30


class Pool(msgspec.Struct, frozen=True, kw_only=True):
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


def kv_pool(
    model: ModelSpec,
    machine: Machine,
    engine: EngineSpec,
    *,
    dtype: str = "",
    tp: int = 1,
    pp: int = 1,
    ep: int = 0,
    gpu_fraction: float = 0.0,
) -> Pool:
    """The KV pool that `engine` makes for `model` on tp x pp GPUs of `machine`.

    GPU memory x fraction - weights - activation peak - context - graphs; the fraction is of total memory, or of
    what the weights leave free where the engine says so (TensorRT-LLM). Raises InputError when the machine has
    too few GPUs or the fraction is odd.
    """
    fraction = gpu_fraction or engine.gpu_fraction
    if not 0 < fraction <= 1:
        raise InputError(f"the GPU memory fraction {fraction:g} must lie above 0 and at most at 1")
    if tp * pp > machine.gpus:
        raise InputError(f"{machine.name} has {machine.gpus} GPUs; --tp {tp} x --pp {pp} needs {tp * pp}")
    rules, gpu = engine.memory_rules, machine.gpu
    weights = rank_weight_bytes(model, engine, dtype, tp=tp, pp=pp, ep=ep)
    activation = activation_bytes(model, engine, gpu, tp)
    overhead = rules.context_bytes + rules.graph_bytes + (rules.rank_bytes if tp * pp > 1 else 0)
    if rules.fraction_of == "free":
        left = gpu.memory_bytes - weights - activation - overhead
        kv, usable = int(fraction * left), gpu.memory_bytes
    else:
        usable = int(fraction * gpu.memory_bytes)
        kv = usable - weights - activation - overhead
    return Pool(
        gpu_bytes=gpu.memory_bytes,
        usable_bytes=usable,
        weight_bytes=weights,
        activation_bytes=activation,
        overhead_bytes=overhead,
        rank_kv_bytes=kv,
        ranks=tp * pp,
    )


def activation_bytes(model: ModelSpec, engine: EngineSpec, gpu: Gpu, tp: int = 1) -> int:
    """Peak of activations on one rank: the sampler over a full batch, or the forward pass over a full step,
    whichever is larger.

    The sampler's peak is measured (see `Memory`); it holds logits of the whole vocabulary on every rank. The
    forward pass has rows of the hidden size and the widest feed-forward activation: gate and up together, and
    their product.
    """
    rules = engine.memory_rules
    large = gpu.memory_bytes >= LARGE_GPU_BYTES and gpu.fp8_flops > 0
    batch = (large and rules.large_profile_batch) or rules.profile_batch or engine.max_batch
    sampler = batch * model.vocab * rules.sampler_bytes
    width = max(
        (max(one.width * max(1, one.experts_per_token), one.shared_width) * one.matrices / tp for one in model.ffn),
        default=0,
    )
    forward = engine.step_tokens * (rules.forward_copies * model.hidden + width) * DTYPE_BYTES[model.dtype] if rules.forward_copies else 0
    return round(max(sampler, forward))
