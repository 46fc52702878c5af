"""What is varied: lists, ranges, grids, pairs; and what cannot be asked."""

from __future__ import annotations

import pytest

from kvplan.errors import InputError
from kvplan.sweep.values import axes_of, grid_points, parse_axis


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("cpu=0,8GiB", ("0", "8GiB")),
        ("cpu=1..64GiB:x4", ("1GiB", "4GiB", "16GiB", "64GiB")),
        ("cpu=0,4GiB..16GiB:x2", ("0", "4GiB", "8GiB", "16GiB")),
        ("cpu=0..5GiB:+2GiB", ("0GiB", "2GiB", "4GiB")),
        ("speedup=0.5..2:x2", ("0.5", "1", "2")),
        ("speedup=1..1.3:+0.1", ("1", "1.1", "1.2", "1.3")),  # 0.3 / 0.1 is a little below 3
        ("seed=1..3:+1,2", ("1", "2", "3")),
        ("machine.disk.read_Bps=1..4GB/s:x2", ("1GB/s", "2GB/s", "4GB/s")),
        ("trace=../a.jsonl,b/../c.jsonl", ("../a.jsonl", "b/../c.jsonl")),
    ],
)
def test_lists_and_ranges(text: str, values: tuple[str, ...]) -> None:
    assert parse_axis(text).values == values


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cpu", "PATH=V1,V2"),
        ("cpu=", "a value is missing"),
        ("cpu=1,,2", "a value is missing"),
        ("cpu=8..64GiB", "a range needs its step"),
        ("cpu=64..8GiB:x2", "the range is empty"),
        ("cpu=0..8GiB:x2", "never reaches its end"),
        ("cpu=1..8GiB:x1", "never reaches its end"),
        ("cpu=1..8GiB:+0", "never reaches its end"),
        ("cpu=1MiB..8GiB:x2", "one unit"),
        ("seed=1..1000000000:+1", "at most 100,000"),
    ],
)
def test_what_is_no_axis_is_said(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words.replace("+", r"\+")):
        parse_axis(text)


def test_a_grid_is_every_combination_and_zipped_axes_go_together() -> None:
    axes = axes_of({"cpu": [0, "8GiB"], "tp": "1,2"})
    assert [tuple(point.values()) for point in grid_points(axes)] == [("0", "1"), ("0", "2"), ("8GiB", "1"), ("8GiB", "2")]
    assert [tuple(point.values()) for point in grid_points(axes, zipped=True)] == [("0", "1"), ("8GiB", "2")]


@pytest.mark.parametrize(
    ("settings", "zipped", "words"),
    [
        (["cpu=1,2", "cpu=3"], False, "twice"),
        (["cpu=1,2", "tp=1,2,4"], True, "different numbers"),
        (["seed=1..10000:+1", "cpu=1..1000GiB:+1"], False, "10,000,000 runs: at most 100,000"),
    ],
)
def test_what_is_no_grid_is_said(settings: list[str], zipped: bool, words: str) -> None:
    with pytest.raises(InputError, match=words):
        grid_points([parse_axis(text) for text in settings], zipped=zipped)
