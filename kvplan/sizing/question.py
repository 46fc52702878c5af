"""The question that `size` answers, resolved once: a deployment and how much it holds."""

from __future__ import annotations

from functools import cached_property

import msgspec

from kvplan.deployment import Deployment
from kvplan.engine.spec import EngineSpec, KvFormat
from kvplan.errors import InputError
from kvplan.hardware.spec import Machine
from kvplan.memory.formats import logical_format, resolve_kv_dtype, state_dtype, stored_kv_dtype
from kvplan.memory.kv import sequence_bytes
from kvplan.memory.layout import Layout, layout
from kvplan.memory.pool import KvPool, kv_pool, told_batch
from kvplan.model import ModelSpec


class Question(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """How large a deployment's sequences of one length are, and whether a batch of them fits. Derived sizes are properties, so that a
    changed copy answers for itself.
    """

    deployment: Deployment
    context_tokens: int
    batch: int = 1

    @property
    def model(self) -> ModelSpec:
        return self.deployment.model

    @property
    def engine(self) -> EngineSpec:
        return self.deployment.engine

    @property
    def machine(self) -> Machine | None:
        return self.deployment.server

    @property
    def given_pool_bytes(self) -> int:
        """The pool on all ranks where the user knows it; 0: from the machine."""
        return self.deployment.tiers.gpu_kv_bytes

    @cached_property
    def kv_name(self) -> str:
        """The KV dtype by name, with `auto` resolved."""
        return resolve_kv_dtype(self.deployment.kv_dtype, self.model, self.engine)

    @cached_property
    def stored_name(self) -> str:
        """The dtype as the engine stores it."""
        return stored_kv_dtype(self.deployment)

    @cached_property
    def format(self) -> KvFormat:
        """The logical format of K and V."""
        return logical_format(self.kv_name, self.engine)

    @cached_property
    def layout(self) -> Layout:
        """The engine's blocks."""
        return layout(self.deployment)

    @cached_property
    def pool(self) -> KvPool | None:
        """Where the GPU memory goes; None without a machine."""
        return kv_pool(self.deployment) if self.machine else None

    @cached_property
    def kv_pool_bytes(self) -> int | None:
        """Bytes of the KV pool on all ranks; None when neither given nor derivable."""
        if self.given_pool_bytes:
            return self.given_pool_bytes
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
        if self.pool and not self.given_pool_bytes and self.pool.rank_kv_bytes < 0:
            have = self.pool.rank_kv_bytes * self.pool.ranks
        return 0 if self.max_sequences >= self.batch else max(1, needed - have)

    @cached_property
    def sequence_bytes(self) -> int:
        """Logical bytes of one sequence."""
        return sequence_bytes(self.model, self.context_tokens, self.format, state_dtype=state_dtype(self.model, self.engine))

    def changed(self, **changes: object) -> Question:
        """The same question with some parts changed, those of the deployment included."""
        own = {name: changes.pop(name) for name in tuple(changes) if name in self.__struct_fields__}
        engine = self.engine
        if "max_batch" in changes:
            engine = told_batch(engine, int(changes.pop("max_batch")))  # type: ignore[call-overload]
        if "gpu_fraction" in changes:
            engine = msgspec.structs.replace(engine, gpu_fraction=changes.pop("gpu_fraction"))
        changes = {"engine": engine, **changes}
        return msgspec.structs.replace(self, deployment=self.deployment.changed(**changes), **own)


def check(question: Question) -> None:
    """Raises InputError on a question without meaning."""
    if question.context_tokens < 1:
        raise InputError(f"a context of {question.context_tokens} tokens is not above zero")
    if question.batch < 1:
        raise InputError(f"--batch {question.batch} is not above zero")
    if question.batch > 10**9:
        raise InputError(f"--batch {question.batch}: more sequences than is plausible")
