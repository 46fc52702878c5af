"""Data-parallel ranks that share their experts take steps together.

A rank whose batch only decodes is left alone until something happens to it: its part of a step grows by the same time from step to step, so
that the group needs no more of it than a line. A stretch in which all ranks do so is one event.
"""

from __future__ import annotations

import math
from heapq import heappop, heappush

from kvplan.sim.clock import Clock
from kvplan.sim.cluster.rank_course import Mark, RankCourse
from kvplan.sim.replica.jump import Jump
from kvplan.sim.replica.replica import Replica
from kvplan.sim.replica.step import ScheduledStep
from kvplan.spread_time import passes


class LockStep:
    """The ranks of one engine. A step of each begins when all that have work are ready, and lasts as long as the slowest's: its experts see
    the tokens of all. In CUDA graphs every rank is padded to the largest; a rank without work takes part with one token.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ranks: list[Replica] = []
        self._ready: dict[Replica, ScheduledStep] = {}
        self._taking: dict[Replica, ScheduledStep] = {}  # part in the step in progress, one by one
        self._courses: dict[Replica, RankCourse] = {}  # ranks that are left alone
        self._over: dict[RankCourse, None] = {}  # of them, those to which something happens when the last step has been handled
        self._due: list[tuple[int, int, RankCourse]] = []  # a heap: steps after which that will be so
        self._decodes = self._joined = 0  # tokens that ranks left alone get from a step; courses so far
        self.running: Jump | None = None  # the step in progress, or the stretch of them
        self._timer, self._called = 0, False
        self.passed, self.busy_s = 0, 0.0  # steps so far, and their seconds
        self.marks = [Mark(0.0, 0.0, 0.0)] * 3  # of the last steps that have ended, the last first
        self._unhandled_s: float | None = None  # between the last two ends: tokens of the last step are not recorded yet

    def join(self, replica: Replica) -> None:
        """One more rank."""
        self._ranks.append(replica)
        replica.group = self

    # -- ranks that take steps one by one ----------------------------------------------------------------------------------

    def ready(self, replica: Replica, step: ScheduledStep) -> None:
        """A rank's next step could begin."""
        self._cut()
        self._ready[replica] = step
        self.look()

    def look(self) -> None:
        """A rank is ready, or has found nothing to do: once all have had their say at this moment, the next steps may begin."""
        if (self._ready or self._courses) and self.running is None and not self._called:
            self._called = True
            self._clock.after(0.0, self._begin)

    def _begin(self) -> None:
        self._called = False
        ready, courses = self._ready, self._courses
        if self.running is not None or any(rank.inflight.steps and rank not in ready and rank not in courses for rank in self._ranks):
            return  # whoever still handles a step calls again
        if not ready:
            if courses:
                self._run(self._stretch())
            return
        self._taking, self._ready = ready, {}
        together_s = self._together_s(ready)
        start_s = max(self._clock.now, *(step.start_s for step in ready.values()))
        last_s = max(self._longest_s() + together_s, self._floor_s, *(rank.lasts_s(step, together_s) for rank, step in ready.items()))
        for step in ready.values():
            step.start_s, step.duration_s = start_s, last_s
        end_s = max(step.end_s for step in ready.values())
        for step in ready.values():
            step.duration_s = end_s - start_s
        self._run(Jump(start_s, 1, first_s=end_s - start_s))

    def _together_s(self, steps: dict[Replica, ScheduledStep]) -> float:
        """Seconds of what ranks do together, `steps` being those of the ranks that are not left alone."""
        cost, courses = self._ranks[0].cost, self._courses.values()
        found = [step.decodes + sum(new for _, new, _ in step.chunks) for step in steps.values()]
        if cost.spread.pp > 1:
            pairs = zip(found, steps.values(), strict=True)
            found = [passes(cost.spread, tokens, step.decodes, cost.engine.step_tokens)[1] for tokens, step in pairs]
        if not any(step.chunks for step in steps.values()):
            return cost.together_s(len(self._ranks) * cost.rows(max(*found, *(course.tokens for course in courses), 0)), captured=True)
        captured = all(tokens <= cost.overhead.captured_tokens for tokens, step in zip(found, steps.values(), strict=True) if step.chunks)
        idle = len(self._ranks) - len(found) - len(courses)
        return cost.together_s(sum(found) + sum(course.tokens for course in courses) + idle, captured=captured)

    def _run(self, steps: Jump) -> None:
        """A step is in progress, or many; a later one takes their place."""
        self.running = steps
        self._timer += 1
        timer = self._timer

        def ring() -> None:
            if timer == self._timer:
                self._end()

        self._clock.after(steps.begins_s(steps.steps) - self._clock.now, ring)

    def _end(self) -> None:
        run, self.running = self.running, None
        assert run is not None
        taking, self._taking = self._taking, {}
        self._pass(run, run.steps)
        for rank in taking:
            rank.executed()
        while self._due and self._due[0][0] <= self.passed:
            course = heappop(self._due)[2]
            if self._courses.get(course.replica) is course:
                self._over[course] = None
                self._clock.at(course.handled_s(course.steps), course.over)
        self.look()

    def _pass(self, run: Jump, steps: int) -> None:
        """So many steps of those in progress have ended."""
        since_s, last_s = self.marks[0].end_s, run.begins_s(steps - 1)
        self._handled()
        for step in range(max(0, steps - 3), steps):
            begins_s, busy_s = run.begins_s(step), self.busy_s + run.elapsed_s(step + 1)
            self.marks = [Mark(begins_s, run.begins_s(step + 1), busy_s), *self.marks[:2]]
        self.passed += steps
        self.busy_s = self.marks[0].busy_s
        if self._decodes:
            if steps > 1:
                self._record(run.begins_s(1) - since_s, 1)
            if steps > 2:
                self._record((last_s - run.begins_s(1)) / (steps - 2), steps - 2)
            self._unhandled_s = run.begins_s(steps) - (last_s if steps > 1 else since_s)

    # -- ranks that are left alone -----------------------------------------------------------------------------------------

    def course(self, replica: Replica, step: ScheduledStep, most: int) -> RankCourse | None:
        """A rank decodes for at most `most` steps, from a step in progress on, in which nothing can happen to it."""
        if replica not in self._taking or not self._even(replica):
            return None
        course = RankCourse(self, replica, step, most)
        if course.steps < 2:
            return None
        self._handled()
        del self._taking[replica]
        self._courses[replica] = course
        self._decodes += course.decodes
        self._joined += 1
        heappush(self._due, (self.passed + course.steps, self._joined, course))
        return course

    def _even(self, replica: Replica) -> bool:
        """Do the tokens of a rank's next step come as long after the ones before as those of all: its last step was the group's last, and
        no prompt ran between two decode steps."""
        inflight, collect_s = replica.inflight, replica.overhead.collect_s
        late_s = abs(inflight.handled_s - self.marks[0].end_s - collect_s)
        return late_s < 1e-9 and not (replica.engine.prefill_apart and inflight.prompts_ran)

    def leave(self, course: RankCourse) -> None:
        """Something happens to a rank: the step in progress is its own again."""
        self._cut()
        if self._clock.now >= self.marks[0].end_s + course.collect_s:
            self._handled()
        del self._courses[course.replica]
        self._over.pop(course, None)
        self._decodes -= course.decodes

    def goes_on(self, replica: Replica, step: ScheduledStep) -> None:
        """A rank that was left alone takes part one by one, from a step on that is in progress or next."""
        if self.running is not None:
            self._taking[replica] = step
        else:
            self.ready(replica, step)

    @property
    def _floor_s(self) -> float:
        return max((course.floor_s for course in self._courses.values()), default=0.0)

    def _longest_s(self) -> float:
        """Seconds of a step's own part on the slowest of the ranks that are left alone."""
        return max((course.own_s(self.passed) for course in self._courses.values()), default=0.0)

    def _stretch(self) -> Jump:
        """Steps until something happens to a rank, or another becomes the slowest."""
        slowest = max(self._courses.values(), key=lambda course: (course.own_s(self.passed), course.slope_s))
        while self._due and self._courses.get(self._due[0][2].replica) is not self._due[0][2]:
            heappop(self._due)
        most = 1 if self._over else self._due[0][0] - self.passed
        own_s, slope_s = slowest.own_s(self.passed), slowest.slope_s
        for course in self._courses.values():
            if course.slope_s > slope_s:
                most = min(most, math.floor((own_s - course.own_s(self.passed)) / (course.slope_s - slope_s)) + 1)
        start_s = max(self._clock.now, self.marks[0].end_s)
        return Jump(start_s, most, first_s=own_s + self._together_s({}), slope_s=slope_s, floor_s=self._floor_s)

    def _cut(self) -> None:
        """Of a stretch of steps only the one in progress goes on."""
        run = self.running
        if run is None or run.steps == 1:
            return
        passed = min(run.steps - 1, run.ended(self._clock.now))
        if passed:
            self._pass(run, passed)
        self._run(Jump(run.begins_s(passed), 1, first_s=run.step_s(passed)))

    def _handled(self) -> None:
        """The results of the last step have been handled."""
        if self._unhandled_s is not None:
            self._record(self._unhandled_s, 1)
            self._unhandled_s = None

    def _record(self, gap_s: float, steps: int) -> None:
        """Tokens that ranks left alone got from so many steps."""
        recorder, tokens = self._ranks[0].recorder, steps * self._decodes
        if not tokens:
            return
        recorder.intervals(gap_s, tokens)
        if gap_s > recorder.slow.limit_s and recorder.measuring:
            decode_s = self._longest_s() + self._together_s({})
            recorder.slow.add(gap_s, tokens, step_s=gap_s, decode_s=decode_s, held_s=0.0)
