"""The question that `size` answers, resolved once: model, engine, machine, dtypes and ranks together."""

from __future__ import annotations

from functools import cached_property

import msgspec

from kvplan.engine.spec import EngineSpec, KvFormat
from kvplan.errors import InputError
from kvplan.hardware.spec import Machine
from kvplan.memory.formats import logical_format, resolve_kv_dtype
from kvplan.memory.kv import sequence_bytes
from kvplan.memory.layout import Layout, layout
from kvplan.memory.pool import Pool, kv_pool
from kvplan.model import ModelSpec


class Question(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """One model in one engine, on one machine or none. Derived sizes are properties, so that a changed copy answers
    for itself.
    """

    model: ModelSpec
    engine: EngineSpec
    machine: Machine | None = None
    context_tokens: int
    batch: int = 1
    kv_dtype: str = "auto"
    dtype: str = ""
    tp: int = 1
    pp: int = 1
    ep: int = 0
    gpu_fraction: float = 0.0
    pool_bytes: int = 0  # on all ranks, where it is known; 0: from the machine

    @cached_property
    def kv_name(self) -> str:
        """The KV dtype by name, with `auto` resolved."""
        return resolve_kv_dtype(self.kv_dtype, self.model, self.engine)

    @cached_property
    def stored_name(self) -> str:
        """The dtype as the engine stores it: sparse latent attention on GPUs before Blackwell keeps fp8 in rows
        with scales and bf16 rotary parts.
        """
        sparse = any(layer.index_dim for layer in self.model.layers)
        hopper = self.machine is not None and not self.machine.gpu.fp4_flops
        rows = self.kv_name == "fp8" and sparse and hopper and "fp8_ds_mla" in self.engine.kv_formats
        return "fp8_ds_mla" if rows else self.kv_name

    @cached_property
    def format(self) -> KvFormat:
        """The logical format of K and V."""
        return logical_format(self.kv_name, self.engine)

    @cached_property
    def layout(self) -> Layout:
        """The engine's blocks."""
        return layout(self.model, self.engine, self.stored_name, tp=self.tp, pp=self.pp)

    @cached_property
    def pool(self) -> Pool | None:
        """Where the GPU memory goes; None without a machine."""
        if self.machine is None:
            return None
        return kv_pool(
            self.model,
            self.machine,
            self.engine,
            dtype=self.dtype,
            tp=self.tp,
            pp=self.pp,
            ep=self.ep,
            gpu_fraction=self.gpu_fraction,
        )

    @cached_property
    def kv_pool_bytes(self) -> int | None:
        """Bytes of the KV pool on all ranks; None when neither given nor derivable."""
        if self.pool_bytes:
            return self.pool_bytes
        return self.pool.kv_bytes if self.pool else None

    @cached_property
    def blocks(self) -> int:
        """Blocks in the pool; 0 without one."""
        return self.layout.blocks(self.kv_pool_bytes or 0)

    @cached_property
    def max_sequences(self) -> int:
        """Most sequences of the context that the pool holds at once."""
        return self.blocks // max(1, self.layout.request_blocks(self.context_tokens))

    @cached_property
    def missing_bytes(self) -> int:
        """Bytes, on all ranks, that the pool is too small by for the batch; 0 when it fits. A negative pool counts."""
        needed = self.batch * self.layout.reserved_bytes(self.context_tokens)
        have = self.kv_pool_bytes or 0
        if self.pool and not self.pool_bytes and self.pool.rank_kv_bytes < 0:
            have = self.pool.rank_kv_bytes * self.pool.ranks
        return 0 if self.max_sequences >= self.batch else max(1, needed - have)

    @cached_property
    def sequence_bytes(self) -> int:
        """Logical bytes of one sequence."""
        return sequence_bytes(self.model, self.context_tokens, self.format, state_dtype=self.engine.memory_rules.state_dtype)

    def changed(self, **changes: object) -> Question:
        """The same question with some fields changed."""
        return msgspec.structs.replace(self, **changes)


def check(question: Question) -> None:
    """Raises InputError on a question without meaning."""
    if question.context_tokens < 1:
        raise InputError(f"a context of {question.context_tokens} tokens is not above zero")
    for name in ("batch", "tp", "pp"):
        if getattr(question, name) < 1:
            raise InputError(f"--{name} {getattr(question, name)} is not above zero")
    if question.ep < 0:
        raise InputError(f"--ep {question.ep} is negative")
    if not 0 <= question.gpu_fraction <= 1:
        raise InputError(f"--gpu-fraction {question.gpu_fraction:g} must lie above 0 and at most at 1")
