"""The end of a run names every test that was skipped, and why, and shows the scorecard."""

from __future__ import annotations

import os
import sys
from collections import defaultdict

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # no test asks the network for a model
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # each of the many commands that tests run would compile the package anew
sys.dont_write_bytecode = False
if os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1") != "1":
    os.environ["LOKY_MAX_CPU_COUNT"] = "1"  # each core has a worker of pytest: a plan starts no processes beside it

LONG = ("tests/plan/", "tests/fidelity/", "tests/calibrate/")
"""Where files take long. They come first: then no worker is left with one at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: next((at for at, room in enumerate(LONG) if item.nodeid.startswith(room)), len(LONG)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    _skipped(terminalreporter)
    for report in (*terminalreporter.stats.get("passed", []), *terminalreporter.stats.get("failed", [])):
        for name, value in getattr(report, "user_properties", ()):
            if name == "scorecard":
                terminalreporter.section("scorecard")
                for line in value:
                    terminalreporter.line(line)


def _skipped(terminalreporter: pytest.TerminalReporter) -> None:
    skipped: dict[str, set[str]] = defaultdict(set)
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        skipped[reason.removeprefix("Skipped: ")].add(report.nodeid)
    if skipped:
        terminalreporter.section("skipped, and why")
    for reason, tests in sorted(skipped.items()):
        terminalreporter.line(f"{reason}:")
        for test in sorted(tests):
            terminalreporter.line(f"    {test}")
