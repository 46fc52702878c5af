"""What an interrupted calibration leaves behind, and how it goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from kvplan.calibrate.job import Assignment
from kvplan.calibrate.profile import journal_path
from kvplan.calibrate.records import Estimate, Finding, Progress, Value
from kvplan.errors import InputError, from_os

IDENTITY = ("uuid", "host", "disk_path")
"""Facts in which a resumed run must agree with the interrupted one."""


class JournalEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one probe left, or in the first line of a journal which run it belongs to."""

    probe: str
    rows: list[Estimate] = []
    samples: list[dict[str, Any]] = []
    findings: list[Finding] = []
    run: dict[str, Value] = {}


class Journal:
    """Rows, samples and findings on disk after each probe, so that an interrupted run can go on and a crash loses one probe.

    Lines that cannot be read (the last one is cut short by a kill or a full disk) are left out, and said: their probes run again. A disk
    that is full on the way costs the journal, not the run. Raises InputError or MissingError where no journal can be begun.
    """

    def __init__(self, job: Assignment, facts: dict[str, Value], progress: Progress) -> None:
        self.path, self.progress = journal_path(job.output) if job.output else None, progress
        self.entries: dict[str, JournalEntry] = {}
        self.samples: list[dict[str, Any]] = []
        own: dict[str, Value] = {name: facts[name] for name in IDENTITY if name in facts}
        own |= {"mode": job.context.mode.name, "model": job.context.model.name}
        if self.path and job.resume:
            self._read(self.path, own)
        if self.path:
            try:
                self.path.write_bytes(b"".join(_line(entry) for entry in (JournalEntry(probe="", run=own), *self.entries.values())))
            except OSError as error:
                raise from_os(error, self.path) from None

    def _read(self, path: Path, own: dict[str, Value]) -> None:
        try:
            lines = path.read_bytes().splitlines() if path.exists() else []
        except OSError as error:
            raise from_os(error, path) from None
        found: list[JournalEntry] = []
        for line in lines:
            try:
                found.append(msgspec.json.decode(line, type=JournalEntry))
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                continue
        if len(found) < len(lines):
            self.progress(f"{path}: {len(lines) - len(found)} of {len(lines)} lines cannot be read: what they held is measured again")
        if not found or found[0].probe:
            if lines:
                self.progress(f"{path}: it does not say which server and mode it is of: everything is measured again")
            return
        other = [name for name, value in found[0].run.items() if own.get(name) != value]
        if other:
            was = ", ".join(f"{name} {found[0].run[name]}" for name in other)
            raise InputError(f"{path}: the interrupted run was another one ({was})", hint="run it as it was, or without --resume")
        self.entries = {entry.probe: entry for entry in found if entry.probe}
        self.samples = [sample for entry in self.entries.values() for sample in entry.samples]

    def entry(self, name: str) -> JournalEntry | None:
        """What a probe that an earlier run finished left; None when it did not."""
        return self.entries.get(name)

    def add(self, entry: JournalEntry) -> None:
        """Keep what a probe left, on disk as well when a profile is written."""
        self.samples += entry.samples
        if not self.path:
            return
        try:
            with self.path.open("ab") as file:
                file.write(_line(entry))
        except OSError as error:
            self.progress(f"{self.path}: {error.strerror}: an interrupted run could not go on; this one does")
            self.path = None

    def done(self) -> None:
        """Remove the journal of a finished run."""
        if self.path:
            self.path.unlink(missing_ok=True)


def _line(entry: JournalEntry) -> bytes:
    return msgspec.json.encode(entry) + b"\n"
