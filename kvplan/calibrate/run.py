"""One calibration from probes to profile: measure, journal, check, fit, predict what was held out."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from kvplan.calibrate import checks
from kvplan.calibrate.datasheet import peaks
from kvplan.calibrate.findings import Findings
from kvplan.calibrate.fits import fit_all
from kvplan.calibrate.holdout import errors, points
from kvplan.calibrate.job import Assignment
from kvplan.calibrate.journal import Journal, JournalEntry
from kvplan.calibrate.machine import build, figures
from kvplan.calibrate.probes import PROBES, Probe, parts_of
from kvplan.calibrate.profile import Saved, save
from kvplan.calibrate.records import Estimate, Finding, Instrument, Point, Progress, Value
from kvplan.calibrate.sample import Plan, measure
from kvplan.hardware.spec import Gpu, Machine
from kvplan.results.calibrate import CalibrateResult, ProbeOutcome, Quality, Remark
from kvplan.units import format_count, format_seconds

HOLDOUT = Plan(blocks=3, max_blocks=3, samples=3, tolerance=0.05, budget_s=20.0)
TWO_SPEEDS = 1.5  # between the ends of what was seen of a host's speed, from which it is said
ACCEPT_ERROR = 0.10  # median error on held-out points above which a profile is marked as not accepted


class Calibration:
    """State of one calibration."""

    def __init__(self, job: Assignment, instruments: dict[str, Instrument], progress: Progress, clock: Callable[[], float]) -> None:
        self.job, self.instruments, self.progress, self.clock = job, instruments, progress, clock
        self.began = clock()
        self.rows: list[Estimate] = []
        self.outcomes: list[ProbeOutcome] = []
        self.findings: list[Finding] = []
        self.facts: dict[str, Value] = {}
        for instrument in dict.fromkeys(instruments.values()):
            self.facts |= instrument.facts()
        self.journal = Journal(job, self.facts, progress)

    def instrument(self, point: Point) -> Instrument | None:
        """The instrument of a point's operation: by its name, or by its first word (`disk_read` -> `disk`), or the
        GPU.
        """
        for name in (point.op, point.op.split("_")[0], "gpu"):
            if name in self.instruments:
                return self.instruments[name]
        return None

    def probe(self, number: int, probe: Probe) -> None:
        """One probe: resumed, waived, failed or done."""
        began = self.clock()
        label = f"[{number:>2}/{len(self.job.probes)}] {probe.title}"
        earlier = self.journal.entry(probe.name)
        if earlier is not None:
            self.findings += earlier.findings
            self.rows += self._possible(earlier.rows)
            self.outcomes.append(ProbeOutcome(name=probe.name, status="done", reason="resumed", points=len(earlier.rows)))
            self.progress(f"{label}: resumed, {format_count(len(earlier.rows), 'point')}")
            return
        self.progress(f"{label} ...")
        open_points, reasons = self._runnable(probe)
        if not open_points:
            reason = "; ".join(dict.fromkeys(reasons)) or "nothing to measure on this server"
            self.outcomes.append(ProbeOutcome(name=probe.name, status="waived", reason=reason))
            self.progress(f"{label}: waived, {reason}")
            return
        found, samples, failures = self._measure(self._plan(probe), open_points)
        seen = [f for i in dict.fromkeys(self.instruments.values()) for f in i.findings()]
        seen += checks.unconverged(found, probe.tolerance, probe.title)
        if found:
            self.journal.add(JournalEntry(probe=probe.name, rows=found, samples=samples, findings=seen))
        self.findings += seen
        self.rows += self._possible(found)
        spent = self.clock() - began
        reason = "; ".join(dict.fromkeys([*reasons, *failures.values()]))
        status: Literal["done", "failed"] = "done" if found else "failed"
        self.outcomes.append(ProbeOutcome(name=probe.name, status=status, reason=reason, points=len(found), seconds=spent))
        self.progress(f"{label}: {format_count(len(found), 'point')} in {spent:.1f} s" + (f" ({reason})" if reason else ""))

    def _plan(self, probe: Probe) -> Plan:
        """The probe's plan; one block only once the mode's time is over."""
        plan = probe.plan(self.job.context.mode)
        late = self.clock() - self.began > self.job.context.mode.limit_s
        return msgspec.structs.replace(plan, budget_s=0.0) if late else plan

    def _runnable(self, probe: Probe) -> tuple[list[Point], list[str]]:
        chosen, reasons = [], []
        for point in probe.points(self.job.context):
            instrument = self.instrument(point)
            reason = "needs torch and a GPU" if instrument is None else instrument.waived(point)
            if reason:
                reasons.append(reason)
            else:
                chosen.append(point)
        return chosen, reasons

    def _measure(self, plan: Plan, points: list[Point]) -> tuple[list[Estimate], list[dict[str, object]], dict[str, str]]:
        rows: list[Estimate] = []
        samples: list[dict[str, object]] = []
        failures: dict[str, str] = {}
        by: dict[int, tuple[Instrument, list[Point]]] = {}
        for point in points:
            instrument = self.instrument(point)
            if instrument is not None:
                by.setdefault(id(instrument), (instrument, []))[1].append(point)
        for instrument, mine in by.values():
            found = measure(instrument, mine, plan, seed=self.job.seed, clock=self.clock)
            rows += found.rows
            samples += found.raw
            failures |= found.failures
        return rows, samples, failures

    def _possible(self, rows: list[Estimate]) -> list[Estimate]:
        kept, impossible = checks.possible(rows, self.facts, self.job.known)
        self.findings += impossible
        return kept

    def fit(self) -> tuple[Findings, Gpu, dict[str, str]]:
        """Fitted numbers on the datasheet's peaks."""
        gpu, sources = peaks(self.job.known, self.facts, self.rows)
        return fit_all(self.rows, gpu), gpu, sources

    def holdout(self, machine: Machine, kept: dict[str, float]) -> Quality:
        """Fresh points that no grid holds, predicted by the fitted machine."""
        families = {probe.family for probe in PROBES} - {probe.family for probe in PROBES if probe not in self.job.probes}
        chosen = [p for p in points(self.job.context, families, random.Random(self.job.seed)) if self._can(p)]
        self.progress(f"holding out {len(chosen)} points ...")
        rows, samples, _ = self._measure(HOLDOUT, chosen)
        self.journal.samples += samples
        found = errors(machine, kept, rows)
        everything = [e for family in found.values() for e in family]
        middle = statistics.median(everything) if everything else math.nan
        return Quality(
            points=len(everything),
            errors={family: statistics.median(e) for family, e in found.items()},
            median_error=middle if everything else 1.0,
            accepted=bool(everything) and middle <= ACCEPT_ERROR,
        )

    def _can(self, point: Point) -> bool:
        instrument = self.instrument(point)
        return instrument is not None and not instrument.waived(point)


def run(
    job: Assignment,
    instruments: dict[str, Instrument],
    *,
    progress: Progress,
    clock: Callable[[], float],
    noticed: Sequence[Finding] = (),
) -> CalibrateResult:
    """Calibrate.

    Writes the profile and its samples when the job names a file; a failing probe is recorded and the others go on.
    `instruments` maps the first word of an operation (`disk`, `host`), or `gpu` for all others, to what measures it.
    """
    began = clock()
    state = Calibration(job, instruments, progress, clock)
    state.findings += noticed
    for number, probe in enumerate(job.probes, 1):
        state.probe(number, probe)
    found, gpu, sources = state.fit()
    machine = build(job, state.facts, found, gpu, sources, state.rows)
    quality = state.holdout(machine, found.kept)
    remarks = _remarks(job, state.findings, found, quality)
    calibration: dict[str, object] = {
        **machine.calibration,
        "quality": msgspec.to_builtins(quality),
        "warnings": [f"{r.code}: {r.text}" for r in remarks],
        "probes": {o.name: o.status + (f": {o.reason}" if o.reason else "") for o in state.outcomes},
    }
    machine = msgspec.structs.replace(machine, calibration=calibration)
    saved = save(job.output, machine, state.journal.samples) if job.output else Saved()
    if saved.path:
        state.journal.done()
    return CalibrateResult(
        machine=machine,
        mode=job.context.mode.name,
        figures=figures(job.known, found, state.facts),
        probes=tuple(state.outcomes),
        quality=quality,
        warnings=remarks,
        duration_s=clock() - began,
        profile=saved.path,
        replaced=saved.replaced,
        problem=saved.problem,
    )


def _remarks(job: Assignment, findings: list[Finding], found: Findings, quality: Quality) -> tuple[Remark, ...]:
    remarks = [Remark(code=f.code, level=f.level, text=f.text) for f in dict.fromkeys(findings)]
    for name, fitted in found.fits.items():
        if fitted.p90_error > 0.15:
            off = f"more than {fitted.p90_error:.0%} off the closed form (median {fitted.median_error:.0%})"
            text = f"{name}: a tenth of the points is {off}."
            remarks.append(Remark(code="S02", level="note", text=text))
    for path in ("host.python_s", "host.launch_s"):
        speed = found.values.get(path)
        if speed and speed.hi > TWO_SPEEDS * speed.lo:
            seen = f"{format_seconds(speed.lo)} to {format_seconds(speed.hi)} for {speed.source}"
            text = f"the host's speed changed while it was measured ({seen}): other work shares its cores; the median is taken."
            remarks.append(Remark(code="H01", level="warning", text=text))
    if quality.points and not quality.accepted:
        off = f"{quality.median_error:.0%} off in the median"
        text = f"predictions of held-out points are {off}: take the profile with care."
        remarks.append(Remark(code="S03", level="warning", text=text))
    if job.base and job.stand_in:
        text = f"only {parts_of(job.probes)} was measured: all else in this profile is {job.base.name}'s."
        remarks.append(Remark(code="B01", level="warning", text=text + " --merge FILE takes it from a machine of yours."))
    return tuple(remarks)
