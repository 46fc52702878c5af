"""The end of a run names every test that was skipped, and why, and shows the scorecard."""

from __future__ import annotations

import os
from collections import defaultdict

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # no test asks the network for a model


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
