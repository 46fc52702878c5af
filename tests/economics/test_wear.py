"""Wear by hand, and a disk that does not last is not recommended."""

from __future__ import annotations

import msgspec
import pytest
from rich.console import Console

import kvplan
from kvplan import catalog
from kvplan.economics.wear import known_drives, too_short, wear
from kvplan.planning.plan import plan
from kvplan.report.plan import show

DISK = msgspec.structs.replace(catalog.machine("l4").disk, capacity_bytes=7_680_000_000_000, endurance_bytes=14.025e15)


def test_89_megabytes_a_second_write_7_68_terabytes_once_a_day() -> None:
    found = wear(DISK, share=1.0, written_Bps=7.68e12 / 86400)  # 88.9 MB/s
    assert found.drive_writes_per_day.value == pytest.approx(1.0)
    assert found.written_bytes_per_day == pytest.approx(7.68e12)
    lives = {one.title: one.years for one in found.drives}
    assert lives["TLC, read-intensive"].value == pytest.approx(5.0)
    assert lives["QLC, read-intensive"].value == pytest.approx(5 * 0.26)
    assert lives["TLC, mixed use"].low == pytest.approx(15 / known_drives().write_amplification.high)
    assert found.years is not None and found.years.value == pytest.approx(5.0, rel=1e-3)  # 14.025 PB / 7.68 TB / 365.25
    assert too_short(found) == ""


def test_half_a_drive_wears_twice_as_fast_and_three_years_are_the_least() -> None:
    found = wear(DISK, share=0.5, written_Bps=7.68e12 / 86400)
    assert found.years is not None and found.years.value == pytest.approx(2.5, rel=1e-3)
    assert "7.7 TB a day to 3.8 TB of disk" in too_short(found) and "2.5 years" in too_short(found)
    unrated = wear(msgspec.structs.replace(DISK, endurance_bytes=0.0), share=1.0, written_Bps=1e9)
    assert unrated.years is None and too_short(unrated) == ""


@pytest.mark.parametrize(("endurance", "asked", "taken"), [(1e14, False, False), (1e14, True, True)])
def test_a_disk_that_wears_out_is_recommended_only_when_asked_for(
    endurance: float, asked: bool, taken: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    one = kvplan.scenario_of(
        "chat", gpu_kv="1.5GiB", sets={"machine.disk.endurance_bytes": endurance, "machine.host.memory_bytes": "6GiB"}, limit=90
    )
    found = plan(one, allow_wear=asked)
    assert any(option.placement.disk_bytes for option in found.options)
    assert bool(found.placement.disk_bytes) == taken, found.verdict.sentence
    assert (found.costs.wear is not None) == taken
    if not taken:
        assert any("--allow-wear" in pruned.why for pruned in found.pruned)
        show(Console(width=200), found)
        told = next(line for line in capsys.readouterr().out.splitlines() if "--allow-wear" in line)
        assert told.lstrip().startswith("instead") and "disk" in told and "% less, but it writes" in told
    if asked:
        assert found.costs.wear is not None and found.costs.wear.years is not None and found.costs.wear.years.value < 3
        assert any("wears it out" in reservation for reservation in found.verdict.reservations)
