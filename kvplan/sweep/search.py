"""The best point of a grid in few runs: what is worse than a known answer, or weaker than one that misses, is not run.

Assumed monotone: with larger tiers and more replicas no limit is missed that was met with less, and none with slower arrivals.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

import msgspec

from kvplan.results.sweep import LeftOut, SweepRow
from kvplan.sweep.points import SHORT, Resolved

STRENGTH = {
    "tiers.gpu_kv_bytes": 1,
    "tiers.cpu_bytes": 1,
    "tiers.disk_bytes": 1,
    "tiers.remote_bytes": 1,
    "cluster.replicas": 1,
    "run.speedup": -1,
}
"""Setting -> does more of it help (1) or hurt (-1) to meet limits; other settings are not comparable."""

AT_ONCE = 8
"""Groups of comparable points that are looked at side by side; fixed, so that runs do not hang on the number of cores."""

Run = Callable[[Sequence[Resolved]], list[SweepRow]]


class Candidate(msgspec.Struct, frozen=True):
    """A point with its place in the grid, what it would be worth (smaller is better), and its strength by setting."""

    at: int
    worth: float
    group: Hashable
    strength: tuple[float, ...]

    @property
    def rank(self) -> tuple[float, int]:
        return self.worth, self.at

    def weaker(self, other: Candidate) -> bool:
        """Is this nowhere stronger than another one of its group."""
        return self.group == other.group and all(mine <= its for mine, its in zip(self.strength, other.strength, strict=True))


def candidate(at: int, one: Resolved, worth: float) -> Candidate:
    """The candidate of a point."""
    assert one.scenario is not None
    ordered = {path: whole for path in one.point if (whole := SHORT.get(path, path)) in STRENGTH}
    group = tuple(value for path, value in one.point.items() if path not in ordered)
    strength = []
    for whole in ordered.values():
        section, _, field = whole.partition(".")
        strength.append(STRENGTH[whole] * float(getattr(getattr(one.scenario, section), field)))
    return Candidate(at, worth, group, tuple(strength))


class Search:
    """Finds the best candidate that meets the limits."""

    def __init__(
        self, candidates: Iterable[Candidate], wanted: Sequence[Resolved], run: Run, meets: Callable[[int, SweepRow], bool]
    ) -> None:
        self._left = {one.at: one for one in sorted(candidates, key=lambda one: one.rank)}
        self._wanted, self._run, self._meets = wanted, run, meets
        self._probed: set[Hashable] = set()
        self.rows: dict[int, SweepRow] = {}
        self.best: Candidate | None = None
        self._weaker = self._dearer = 0

    def run(self) -> None:
        """Probe until no candidate is left that could be the best."""
        while probes := self._next():
            rows = self._run([self._wanted[one.at] for one in probes])
            for one in probes:
                del self._left[one.at]
            for one, row in zip(probes, rows, strict=True):
                self._learn(one, row)

    def _next(self) -> list[Candidate]:
        """One candidate of each of the most promising groups: first its strongest, then the middle of what is left."""
        groups: dict[Hashable, list[Candidate]] = {}
        for one in self._left.values():
            groups.setdefault(one.group, []).append(one)
        probes = []
        for group, members in list(groups.items())[:AT_ONCE]:
            if group in self._probed:
                probes.append(members[len(members) // 2])
            else:
                probes.append(next(one for one in reversed(members) if not any(one.weaker(other) for other in members if other is not one)))
                self._probed.add(group)
        return probes

    def _learn(self, probe: Candidate, row: SweepRow) -> None:
        self.rows[probe.at] = row
        if self._meets(probe.at, row):
            if self.best is None or probe.rank < self.best.rank:
                self.best = probe
            dropped = [at for at, one in self._left.items() if one.rank > self.best.rank]
            self._dearer += len(dropped)
        elif row.error:
            return
        else:
            dropped = [at for at, one in self._left.items() if one.weaker(probe)]
            self._weaker += len(dropped)
        for at in dropped:
            del self._left[at]

    def left_out(self) -> list[LeftOut]:
        """What was not run, and why."""
        found = []
        if self._dearer:
            found.append(LeftOut(points=self._dearer, why="not better than an answer that meets the limits"))
        if self._weaker:
            found.append(LeftOut(points=self._weaker, why="smaller than one that misses a limit, all else equal"))
        return found


def front(rows: Mapping[int, SweepRow], figures: Callable[[SweepRow], tuple[float, ...]]) -> tuple[int, ...]:
    """Places of the rows that no other row beats in one figure without losing in another; of equal ones the first."""
    values = {at: figures(row) for at, row in sorted(rows.items()) if row.result and row.result.requests.completed}
    found: list[int] = []
    for at, mine in values.items():
        beaten = any(
            all(its <= own for its, own in zip(other, mine, strict=True)) and (other != mine or place < at)
            for place, other in values.items()
            if place != at
        )
        if not beaten:
            found.append(at)
    return tuple(found)
