"""All sequences of a batch that decode: one object that advances them together.

A step of the batch gives each member one token. What a member has computed, planned, emitted and allocated follows from when it joined
and how many steps there were since, so that a step costs what changes (a finish, a block boundary, a window that fills), not how many run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import heappop, heappush

from kvplan.sim.cache.footprint import Footprint, WindowBlocks
from kvplan.sim.replica.sequence import NEVER, Sequence
from kvplan.units import first_true


class Events:
    """Members by the step at which something happens to them; the earliest step is known."""

    __slots__ = ("_by_step", "_steps", "next")

    def __init__(self) -> None:
        self._by_step: dict[int, dict[Sequence, None]] = {}
        self._steps: list[int] = []  # a heap; steps without members are left in it until they come up
        self.next = NEVER

    def add(self, step: int, seq: Sequence) -> None:
        due = self._by_step.get(step)
        if due is None:
            due = self._by_step[step] = {}
            heappush(self._steps, step)
        due[seq] = None
        if step < self.next:
            self.next = step

    def discard(self, step: int, seq: Sequence) -> None:
        due = self._by_step.get(step)
        if due is not None and seq in due:
            del due[seq]
            if not due:
                self.pop(step)

    def pop(self, step: int) -> list[Sequence]:
        """The members due at a step, in the order in which they joined; they are forgotten."""
        due = self._by_step.pop(step, {})
        if step == self.next:
            while self._steps and self._steps[0] not in self._by_step:
                heappop(self._steps)
            self.next = self._steps[0] if self._steps else NEVER
        return list(due)


class WindowSum:
    """Sum over the members of min(context, window); `window` 0: of their contexts."""

    __slots__ = ("window", "growing", "total", "fills", "filled", "_starts", "_starts_sum", "_members", "_first")

    def __init__(self, window: int) -> None:
        self.window = window
        self._starts: dict[int, int] = {}  # members by the step at which their context was empty
        self._starts_sum = self._members = 0
        self._first: int | None = None  # the earliest of these: of the longest member; None: to be looked up
        self.growing = 0  # members whose window is not full
        self.total = 0
        self.fills = Events()
        self.filled = 0  # the last step that filled the window of a member

    @property
    def uneven(self) -> int:
        """By how many tokens the members fall short of all being as long as the longest; steps do not change it. 0 for windows."""
        if self.window or not self._starts:
            return 0
        if self._first is None:
            self._first = min(self._starts)
        return self._starts_sum - self._first * self._members

    def join(self, seq: Sequence, context: int, step: int) -> None:
        if not self.window:
            start = step - context
            self._starts[start] = self._starts.get(start, 0) + 1
            self._starts_sum += start
            self._members += 1
            self._first = None if self._first is None else min(self._first, start)
        if not self.window or context < self.window:
            self.growing += 1
            self.total += context
            if self.window:
                self.fills.add(step + self.window - context, seq)
        else:
            self.total += self.window

    def leave(self, seq: Sequence, context: int, step: int) -> None:
        if not self.window:
            start = step - context
            self._starts[start] -= 1
            self._starts_sum -= start
            self._members -= 1
            if not self._starts[start]:
                del self._starts[start]
                if start == self._first:
                    self._first = None
        if not self.window or context < self.window:
            self.growing -= 1
            self.total -= context
            if self.window:
                self.fills.discard(step + self.window - context, seq)
        else:
            self.total -= self.window

    def advance(self, steps: int, step: int) -> None:
        """`steps` more tokens for every member, up to `step`; no window fills before that."""
        self.total += steps * self.growing
        if self.fills.next <= step:
            self.growing -= len(self.fills.pop(step))
            self.filled = step


class WindowGrowth:
    """Members whose blocks do not cover a window yet: by the step, modulo a unit, at which they take one more."""

    __slots__ = ("rule", "crossings", "fills", "_boundaries")

    def __init__(self, rule: WindowBlocks) -> None:
        self.rule = rule
        self.crossings = [0] * rule.unit
        self.fills = Events()
        self._boundaries: dict[Sequence, int] = {}

    def join(self, seq: Sequence, context: int, step: int, boundary: int) -> None:
        covered = (self.rule.cover - 1) * self.rule.unit + 1
        if context < covered:
            self.crossings[boundary] += 1
            self._boundaries[seq] = boundary
            self.fills.add(step + covered - context, seq)

    def leave(self, seq: Sequence, context: int, step: int) -> None:
        boundary = self._boundaries.pop(seq, None)
        if boundary is not None:
            self.crossings[boundary] -= 1
            self.fills.discard(step + (self.rule.cover - 1) * self.rule.unit + 1 - context, seq)

    def advance(self, step: int) -> None:
        if self.fills.next <= step:
            for seq in self.fills.pop(step):
                self.crossings[self._boundaries.pop(seq)] -= 1


class DecodeBatch:
    """The decoding sequences of one batch in flight. `windows` are those of the model's layers that keep KV, 0 for full attention."""

    __slots__ = (
        "block",
        "steps",
        "handled",
        "granted",
        "version",
        "sums",
        "ends",
        "_footprint",
        "_growth",
        "_members",
        "_boundaries",
    )

    def __init__(self, windows: list[int], footprint: Footprint) -> None:
        self.block, self._footprint = footprint.unit, footprint
        self._growth = [WindowGrowth(rule) for rule in footprint.windows]
        self.steps = 0  # scheduled so far
        self.handled = 0  # of them, those whose results have been handled
        self.granted = 0  # the step that all members have blocks for
        self.version = 0  # changes with the members
        self.sums = [WindowSum(window) for window in windows]
        self.ends = Events()  # by the step that gives the last token
        self._members: dict[Sequence, None] = {}
        self._boundaries: list[dict[Sequence, None]] = [{} for _ in range(footprint.unit)]  # by the step, modulo a block

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, seq: Sequence) -> bool:
        return seq in self._members

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._members)

    # -- members -----------------------------------------------------------------------------------------------------------

    def join(self, seq: Sequence) -> None:
        """A sequence whose context is computed decodes from the next step on."""
        seq.joined, seq.left = self.steps, NEVER
        self.version += 1
        self._members[seq] = None
        self.ends.add(self.steps + seq.output - seq.planned, seq)
        boundary = self._boundary(seq)
        self._boundaries[boundary][seq] = None
        for each in self.sums:
            each.join(seq, seq.computed, self.steps)
        for growth in self._growth:
            growth.join(seq, seq.computed, self.steps, boundary)

    def leave(self, seq: Sequence) -> None:
        """A sequence decodes no longer; its own numbers are brought up to date, but for what is not handled yet."""
        self.version += 1
        del self._members[seq]
        self.ends.discard(seq.joined + seq.output - seq.planned, seq)
        boundary = self._boundary(seq)
        del self._boundaries[boundary][seq]
        context = seq.computed + self.steps - seq.joined
        for each in self.sums:
            each.leave(seq, context, self.steps)
        for growth in self._growth:
            growth.leave(seq, context, self.steps)
        seq.planned += self.steps - seq.joined
        seq.computed = context
        seq.blocks = max(seq.blocks, -(-context // self.block))
        if self.granted > self.steps and self.granted % self.block == boundary:
            seq.blocks += 1
        if not self._footprint.plain:
            seq.beside = self._footprint.held(seq.blocks)
        seq.left = self.steps

    def _boundary(self, seq: Sequence) -> int:
        """The step, modulo a block, whose token is the first of a block."""
        return (seq.joined + 1 - seq.computed % self.block) % self.block

    def emitted(self, seq: Sequence) -> int:
        """Tokens of a sequence that have been handled, those of decode steps included."""
        return seq.emitted + max(0, min(self.handled, seq.left) - seq.joined)

    def context(self, seq: Sequence) -> int:
        """Tokens of a member whose KV is on the GPU once scheduled steps have run."""
        return seq.computed + self.steps - seq.joined

    def count(self, seq: Sequence) -> None:
        """Bring up to date what a member holds."""
        seq.blocks = -(-self.context(seq) // self.block)
        seq.beside = self._footprint.held(seq.blocks)

    def settle(self, seq: Sequence) -> None:
        """Count the tokens of handled steps as the sequence's own, after it has left."""
        seq.emitted = self.emitted(seq)
        seq.joined = seq.left = NEVER

    # -- steps -------------------------------------------------------------------------------------------------------------

    def crossing(self) -> list[Sequence]:
        """Members that need a block for the token of the next step."""
        return list(self._boundaries[(self.steps + 1) % self.block])

    def advance(self, steps: int) -> None:
        """Schedule so many steps, none of which but the last ends a member or fills a window."""
        self.steps += steps
        for each in self.sums:
            each.advance(steps, self.steps)
        for growth in self._growth:
            growth.advance(self.steps)

    def ended(self) -> list[Sequence]:
        """Members that get their last token from the step scheduled last: they leave."""
        if self.ends.next > self.steps:
            return []
        found = self.ends.pop(self.steps)
        for seq in found:
            self.leave(seq)
        return found

    def needs(self, steps: int) -> tuple[int, int]:
        """Tokens of the pool that the next `steps` steps take, in which no window is covered, and those that leave windows."""
        if steps == 1 and not self._growth:
            return len(self._boundaries[(self.steps + 1) % self.block]) * self.block, 0
        rounds, rest = divmod(steps, self.block)
        residues = [(self.steps + 1 + at) % self.block for at in range(rest)]
        units = rounds * len(self._members) + sum(len(self._boundaries[at]) for at in residues)
        taken, slid = units * self.block, 0
        for growth in self._growth:
            weight, growing = growth.rule.weight, rounds * sum(growth.crossings) + sum(growth.crossings[at] for at in residues)
            taken += weight * units
            slid += weight * (units - growing)
        return taken, slid

    def steps_within(self, fits: Callable[[int, int], bool], most: int) -> int:
        """The largest number of steps, at most `most`, in which no window is covered and whose needs fit."""
        for growth in self._growth:
            most = min(most, growth.fills.next - self.steps)

        def lacks(steps: int) -> bool:
            return not fits(*self.needs(steps))

        return most if not lacks(most) else first_true(1, most, lacks) - 1
