"""What the host does for a step: scheduling, preparing, launching; by the engine's costs, the model's layers and the speed of the host."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from kvplan.deployment import Deployment
from kvplan.layer_work import PLAIN_LAUNCHES, WIDENED_EXPERTS, Launches, launches
from kvplan.memory.below import below
from kvplan.memory.layout import layout
from kvplan.memory.weights import widened
from kvplan.spread_time import passes

Chunk = tuple[int, int]
"""Tokens computed in this step, and tokens of the same sequence already in the cache."""


class HostTime:
    """Seconds of the host for the steps of one replica."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment, self.engine, self.overhead = deployment, deployment.engine, deployment.overhead
        self.launches, self._stages = launches(deployment.model, deployment.tp), deployment.parallel.pp
        if widened(deployment, "experts"):
            self.launches += Launches(host=WIDENED_EXPERTS * sum(group.count for group in deployment.model.ffn if group.experts))

    def step_s(self, chunks: Sequence[Chunk], decodes: int) -> float:
        """Least seconds of a step.

        Decode steps are captured in CUDA graphs, prefill up to `captured_tokens` piece by piece, larger steps not. Each stage of a pipeline
        has a process that launches its layers for every batch.
        """
        overhead, stages = self.overhead, self._stages
        if not chunks:
            return max(overhead.step_s * min(stages, max(1, decodes)), overhead.collect_s)
        tokens, as_stored = decodes, decodes > 0
        for new, context in chunks:
            tokens += new
            as_stored = as_stored or context > 0 or new < self.engine.absorbed_tokens
        launch_s = self._captured_s if tokens <= overhead.captured_tokens else self._eager_s[as_stored]
        if stages > 1:
            launch_s *= passes(self.deployment.parallel, tokens, decodes, self.engine.step_tokens)[0] / stages
        return overhead.prepare_s + launch_s + self._groups_s + self._offload_s

    @cached_property
    def _captured_s(self) -> float:
        """Seconds in which all layers of a captured step are launched."""
        return self.launches.captured * self.overhead.launch_layer_s

    @cached_property
    def _eager_s(self) -> tuple[float, float]:
        """The same of one that is not: without and with content that is read as it is stored."""
        each_s, host = self.overhead.launch_layer_eager_s, self.launches.host
        return host / PLAIN_LAUNCHES * each_s, (host + self.launches.cached) / PLAIN_LAUNCHES * each_s

    @cached_property
    def _offload_s(self) -> float:
        return self.overhead.offload_step_s if self.deployment.tiers.cpu_bytes else 0.0

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
