"""The short way to a command's arguments: the same as typer's, or none at all."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
import typer

from kvplan.cli.plain import arguments


def command(
    names: Annotated[list[str] | None, typer.Argument()] = None,
    tp: Annotated[int, typer.Option()] = 1,
    share: Annotated[float, typer.Option("--share", "-s")] = 0.5,
    sets: Annotated[list[str] | None, typer.Option("--set")] = None,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> int:
    return 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], {}),
        (["a", "b"], {"names": ["a", "b"]}),
        (["a", "--tp", "4", "--json"], {"names": ["a"], "tp": 4, "as_json": True}),
        (["--tp=4", "-s", ".25"], {"tp": 4, "share": 0.25}),
        (["--set", "a=1", "--set", "b=2"], {"sets": ["a=1", "b=2"]}),
        (["--tp", "four"], None),
        (["--tp"], None),
        (["--tp", "-1"], None),
        (["--help"], None),
        (["--json=yes"], None),
        (["--unknown", "1"], None),
    ],
)
def test_plain_lines_are_read_and_others_left_to_typer(words: list[str], expected: dict[str, Any] | None) -> None:
    assert arguments(command, words) == expected


def test_settings_beyond_a_type_are_left_to_typer() -> None:
    def limited(tp: Annotated[int, typer.Option(min=1)] = 1) -> int:
        return 0

    def needs_one(name: Annotated[str, typer.Argument()]) -> int:
        return 0

    limited.__annotations__["tp"] = Annotated[int, typer.Option(min=1)]
    needs_one.__annotations__["name"] = Annotated[str, typer.Argument()]
    assert arguments(limited, ["--tp", "2"]) is None
    assert arguments(needs_one, []) is None
    assert arguments(needs_one, ["a", "b"]) is None
    assert arguments(needs_one, ["a"]) == {"name": "a"}


def test_completion_is_left_to_typer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_KVPLAN_COMPLETE", "complete_bash")
    assert arguments(command, []) is None
