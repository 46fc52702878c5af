"""Steps that advance sequences, and the stops between them."""

from __future__ import annotations

from kvplan.engine.spec import EngineSpec
from kvplan.sim.replica.sequence import Sequence
from kvplan.sim.transfer.loads import StepLoad


class ScheduledStep:
    """One step: prefill chunks, decoding seqs, and who gets a token out of it."""

    __slots__ = (
        "chunks", "decodes", "sampled", "loads", "duration_s", "stall_s", "start_s", "ready_s", "launched_s", "paused", "held_s",
    )  # fmt: skip

    def __init__(self, made_s: float, ready_s: float) -> None:
        self.launched_s = made_s  # when the host has launched all of it
        self.ready_s = ready_s  # when the host has prepared it, and its inputs have reached the GPU behind the loads queued before
        self.chunks: list[tuple[Sequence, int, int]] = []  # seq, new tokens, context
        self.decodes: list[Sequence] = []
        self.sampled: list[tuple[Sequence, int]] = []  # seq and its epoch
        self.loads: list[StepLoad] = []
        self.duration_s = 0.0
        self.stall_s = 0.0  # of the duration, what the step waits for transfers
        self.held_s = 0.0  # its tokens waited so long behind stores
        self.paused = False
        self.start_s = -1.0

    @property
    def empty(self) -> bool:
        return not self.chunks and not self.decodes

    def withdraw(self, seq: Sequence) -> int:
        """Take a seq that is preempted out of a step being planned; returns the tokens it leaves free."""
        freed = sum(new for other, new, _ in self.chunks if other is seq) + self.decodes.count(seq)
        if freed:
            self.chunks = [chunk for chunk in self.chunks if chunk[0] is not seq]
            self.decodes = [other for other in self.decodes if other is not seq]
            self.sampled = [pair for pair in self.sampled if pair[0] is not seq]
            seq.computed -= freed  # full blocks of the chunk stay in the index: they are named when they are allocated, as in vLLM
        return freed


class Pauses:
    """Stops of the engine's process for its garbage collector: one per so many output tokens of the seqs it has admitted."""

    def __init__(self, engine: EngineSpec, *, offloading: bool) -> None:
        overhead = engine.overhead
        self.pause_s = overhead.pause_s
        rates = [overhead.pause_tokens, overhead.pause_offload_tokens if offloading else 0]
        self.per_token = sum(1 / tokens for tokens in rates if tokens)
        self.owed = 0.0

    def due_s(self) -> float:
        """Seconds of the stop that has come due, if one has."""
        if self.owed < 1:
            return 0.0
        self.owed -= 1
        return self.pause_s
