"""Threads that read and write files in the interpreter in which an engine prepares and launches its steps."""

from __future__ import annotations

from collections.abc import Callable

from kvplan.sim.clock import Clock

LEAST_SHARE = 0.25
"""Jobs whose files take a smaller share of the interpreter leave the engine to itself: beside 640 to 1,000 files a second (a tenth to a
sixth of it) most steps of vLLM 0.24 hide the launches that grow from 1.2 to 2 or 3 ms."""


class FileThreads:
    """Jobs of many files: each file takes the interpreter `file_s`, and what the engine does meanwhile gets what is left of it."""

    def __init__(self, clock: Clock, file_s: float) -> None:
        self.clock, self.file_s, self.until_s = clock, file_s, 0.0
        self.begun: Callable[[], None] = lambda: None  # called when a job begins
        self._jobs: list[tuple[float, float, float]] = []  # start, end, seconds of the interpreter

    def handle(self, files: int, start_s: float, end_s: float) -> None:
        """A job of so many files between two moments."""
        own_s = files * self.file_s
        if own_s > LEAST_SHARE * (end_s - start_s):
            self._jobs.append((start_s, end_s, own_s))
            self.until_s = max(self.until_s, end_s)
            self.clock.at(start_s, lambda: self.begun())

    def beside_s(self, now: float, work_s: float) -> float:
        """Seconds that `work_s` of the engine's own take from `now` on: at most until the files are handled as well."""
        if self.until_s <= now:
            return work_s
        self._jobs = [job for job in self._jobs if job[1] > now]
        share = left_s = 0.0
        for start_s, end_s, own_s in self._jobs:
            if start_s <= now:
                share += own_s / (end_s - start_s)
                left_s += own_s * (end_s - now) / (end_s - start_s)
        return work_s + (min(left_s, work_s * share / (1 - share)) if share < 1 else left_s)
