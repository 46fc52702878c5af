"""Steps that advance sequences, and the stops between them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from kvplan.engine.spec import Overhead
from kvplan.host_time import Chunk
from kvplan.sim.replica.sequence import Sequence
from kvplan.sim.transfer.in_step import StepLoad


class ScheduledStep:
    """What the scheduler has put into one step, and when it runs.

    made -> launched (by the host)
    ready, and the GPU is free: start -> start + duration (of it, stall: it waits for transfers)
    -> seen by the host (held: behind stores)
    """

    __slots__ = (
        "chunks", "decodes", "index", "version", "contexts", "uneven", "attention_s", "sampled", "last_tokens", "loads", "begins",
        "admitted_tokens", "drain_s", "duration_s", "stall_s", "start_s", "ready_s", "launched_s", "paused", "slowed", "held_s",
    )  # fmt: skip

    def __init__(self, made_s: float, ready_s: float) -> None:
        self.launched_s = made_s  # when the host has launched all of it
        self.ready_s = ready_s  # when the host has prepared it, and its inputs have reached the GPU behind the loads queued before
        self.chunks: list[tuple[Sequence, int, int]] = []  # sequence, new tokens, context
        self.decodes = 0  # sequences of the decode batch that get a token
        self.index = 0  # the batch's step
        self.version = 0  # of the batch
        self.contexts: list[int] = []  # tokens that the decoding sequences read, by the batch's windows
        self.uneven: list[int] = []  # by how much they fall short of being as long as the longest
        self.attention_s = 0.0  # of the decoding sequences
        self.sampled: list[Sequence] = []  # whose last chunk this is
        self.last_tokens: list[Sequence] = []  # who decodes its last token
        self.loads: list[StepLoad] = []
        self.begins: list[Callable[[], None]] = []  # loads that begin when it ends
        self.admitted_tokens = 0  # of the prompts that it schedules first
        self.duration_s = 0.0
        self.drain_s = 0.0  # after it, until a pipeline has passed on what it computed
        self.stall_s = 0.0  # of the duration, what the step waits for transfers
        self.slowed = False  # does the host take longer for it, beside the threads that handle files
        self.held_s = 0.0  # its tokens waited so long behind stores
        self.paused = False
        self.start_s = -1.0

    @property
    def empty(self) -> bool:
        return not self.chunks and not self.decodes

    def sizes(self) -> list[Chunk]:
        """New tokens and context of each chunk."""
        return [(new, context) for _, new, context in self.chunks]

    @property
    def end_s(self) -> float:
        """When the GPU has finished it, once it has started."""
        end_s = self.start_s + self.duration_s
        return end_s if end_s > self.launched_s else self.launched_s


class StepsInFlight:
    """Steps that are scheduled and whose results are not handled yet, oldest first; one of them may run on the GPU."""

    __slots__ = ("steps", "executing", "started", "handled_s", "decoded_s", "fresh")

    def __init__(self) -> None:
        self.steps: deque[ScheduledStep] = deque()
        self.executing: ScheduledStep | None = None
        self.started = 0
        self.handled_s = 0.0  # when the results of the last step were seen
        self.decoded_s = 0.0  # and of the last one in which somebody decoded
        self.fresh: list[tuple[float, int]] = []  # since then: when how many sequences got their first token

    @property
    def reported(self) -> int:
        """The last step whose reports of finished loads the scheduler knows."""
        return self.started - len(self.steps)

    def gaps(self, now: float, decodes: int) -> list[tuple[float, int]]:
        """A step is handled in which so many decode: since when how many of them wait for this token, where prompts run apart. That is the
        decode step before it, or a first token since."""
        found = []
        for first_s, count in self.fresh:
            found.append((first_s, min(count, decodes)))
            decodes -= min(count, decodes)
        found.append((self.decoded_s, decodes))
        self.decoded_s = now
        self.fresh.clear()
        return [gap for gap in found if gap[1]]

    @property
    def prompts_ran(self) -> bool:
        """Have prompts run alone since the last decode step was handled."""
        return bool(self.fresh) or self.decoded_s < self.handled_s

    def chunk_tokens(self, seq: Sequence) -> int:
        """Tokens of a prompt in steps that are not handled."""
        return sum(new for step in self.steps for other, new, _ in step.chunks if other is seq)

    def jumped(self, handled_s: float) -> None:
        """Decode steps have passed in closed form, the last of which was handled then."""
        self.handled_s = self.decoded_s = handled_s
        self.fresh.clear()

    def launched_next(self, now: float) -> int:
        """The number of the step that the host has not launched yet; it may be one that is not scheduled yet."""
        first = self.started - (self.steps.index(self.executing) if self.executing is not None else 0)
        return next((first + at for at, step in enumerate(self.steps) if step.launched_s > now), first + len(self.steps))

    def busy_until_s(self, now: float) -> float:
        """When the step in progress ends; now when none is."""
        step = self.executing
        if step is None:
            return now
        end_s = step.end_s
        return end_s if end_s > now else now

    def behind(self, step: ScheduledStep) -> ScheduledStep | None:
        """The step scheduled next after one."""
        if self.steps[-1] is step:
            return None
        index = self.steps.index(step) + 1
        return self.steps[index] if index < len(self.steps) else None


class Pauses:
    """Stops of the engine's process for its garbage collector: one per so many output tokens of the sequences it has admitted."""

    def __init__(self, overhead: Overhead, *, offloading: bool) -> None:
        self.pause_s = overhead.pause_s
        rates = [overhead.pause_tokens, overhead.pause_offload_tokens if offloading else 0]
        self._per_output = sum(1 / tokens for tokens in rates if tokens)
        self.owed = 0.0

    def admitted(self, output: int) -> None:
        """A sequence is admitted that will emit so many tokens."""
        self.owed += output * self._per_output

    def due_s(self) -> float:
        """Seconds of the stop that has come due, if one has."""
        if self.owed < 1:
            return 0.0
        self.owed -= 1
        return self.pause_s
