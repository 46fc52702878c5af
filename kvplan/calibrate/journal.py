"""What an interrupted calibration leaves behind, and how it goes on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from kvplan.calibrate.job import Assignment
from kvplan.calibrate.profile import journal_path
from kvplan.calibrate.records import Estimate, Value
from kvplan.errors import InputError


class Journal:
    """Rows and samples on disk after each probe, so that an interrupted run can go on and a crash loses one probe."""

    def __init__(self, job: Assignment) -> None:
        self.path = journal_path(job.output) if job.output else None
        self.entries: dict[str, dict[str, Any]] = {}
        self.samples: list[dict[str, object]] = []
        if self.path and job.resume and self.path.exists():
            for line in self.path.read_bytes().splitlines():
                entry = msgspec.json.decode(line)
                self.entries[entry["probe"]] = entry
                self.samples += entry["samples"] if entry["probe"] != "server" else []
        elif self.path:
            self.path.unlink(missing_ok=True)

    def same_server(self, facts: dict[str, Value]) -> None:
        """Keep what identifies the server. Raises InputError when an earlier run was on another one."""
        earlier = self.entries.get("server")
        ours: dict[str, Any] = {name: facts[name] for name in ("uuid", "host", "disk_path") if name in facts}
        if earlier is None:
            self.add("server", [], [ours])
        elif earlier["samples"][0] != ours:
            raise InputError(f"{self.path}: the interrupted run was on another server", hint="run without --resume")

    def rows(self, name: str) -> list[Estimate] | None:
        """Rows of a probe that an earlier run finished; None when it did not."""
        entry = self.entries.get(name)
        return None if entry is None else msgspec.convert(entry["rows"], list[Estimate])

    def add(self, name: str, rows: list[Estimate], samples: Sequence[dict[str, Any]]) -> None:
        """Keep a probe's rows and samples, on disk as well when a profile is written."""
        if name != "server":
            self.samples += samples
        if self.path:
            with self.path.open("ab") as file:
                file.write(msgspec.json.encode({"probe": name, "rows": rows, "samples": samples}) + b"\n")

    def done(self) -> None:
        """Remove the journal of a finished run."""
        if self.path:
            self.path.unlink(missing_ok=True)
