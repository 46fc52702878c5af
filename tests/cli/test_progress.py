"""How far a long run is, said where there is no terminal."""

from __future__ import annotations

import pytest

from kvplan.cli import progress


def test_lines_come_early_and_then_at_twice_the_time(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with progress.runs(hidden=False) as watch:
        for second in range(1, 101):
            now = float(second)
            watch(second, 200, "so far: no tier gains")
    lines = capsys.readouterr().err.splitlines()
    # after 3 s, then doubled up to every 30 s; a run a second leaves as many seconds as runs
    assert [line.split(" of ")[0] for line in lines] == [f"planning: {second}" for second in (3, 6, 12, 24, 48, 78)]
    assert lines[0] == "planning: 3 of about 200, 197 s left; so far: no tier gains"
