"""What the host does for a step: scheduling, preparing, launching; by the engine's costs, the model's layers and the speed of the host."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from kvplan.deployment import Deployment
from kvplan.layer_work import PLAIN_LAUNCHES, launches
from kvplan.memory.below import below
from kvplan.memory.layout import layout
from kvplan.spread_time import passes

Chunk = tuple[int, int]
"""Tokens computed in this step, and tokens of the same sequence already in the cache."""


class HostTime:
    """Seconds of the host for the steps of one replica."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment, self.engine, self.overhead = deployment, deployment.engine, deployment.overhead
        self.launches = launches(deployment.model, deployment.tp)

    def step_s(self, chunks: Sequence[Chunk], decodes: int) -> float:
        """Least seconds of a step.

        Decode steps are captured in CUDA graphs, prefill up to `captured_tokens` piece by piece, larger steps not. Each stage of a pipeline
        has a process that launches its layers for every batch.
        """
        overhead, spread = self.overhead, self.deployment.parallel
        if not chunks:
            return max(overhead.step_s * min(spread.pp, max(1, decodes)), overhead.collect_s)
        tokens = decodes + sum(new for new, _ in chunks)
        if tokens <= overhead.captured_tokens:
            launch_s = self.launches.captured * overhead.launch_layer_s
        else:
            as_stored = decodes or any(context or new < self.engine.absorbed_tokens for new, context in chunks)
            kernels = self.launches.host + (self.launches.cached if as_stored else 0.0)
            launch_s = kernels / PLAIN_LAUNCHES * overhead.launch_layer_eager_s
        if spread.pp > 1:
            launch_s *= passes(spread, tokens, decodes, self.engine.step_tokens)[0] / spread.pp
        return overhead.prepare_s + launch_s + self._groups_s + (overhead.offload_step_s if self.deployment.tiers.cpu_bytes else 0.0)

    @cached_property
    def _groups_s(self) -> float:
        return self.overhead.group_s * max(0, layout(self.deployment).groups - 1)

    def schedule_s(self, admitted: int, new: int) -> float:
        """Seconds in scheduling a step: for prompts of `admitted` tokens that it admits, and `new` ones that it computes, whose keys are
        offered to a tier below.
        """
        looked_up, offered = self._keys
        overhead = self.overhead
        return admitted * (overhead.admit_token_s + overhead.admit_key_s * looked_up) + new * overhead.offer_key_s * offered

    @cached_property
    def _keys(self) -> tuple[float, float]:
        """Keys per token by which a tier below is asked for a prefix, and by which content is offered to it; none without one."""
        if not self.deployment.tiers.cpu_bytes:
            return 0.0, 0.0
        pool, step = layout(self.deployment), self.engine.step_tokens
        return pool.unit_blocks / max(1, pool.unit_tokens), below(self.deployment).stored(step).keys / step
