"""The traces that come with kvplan, by the names of their scenarios."""

from __future__ import annotations

from pathlib import Path

from kvplan import scenario


def shipped(name: str) -> str:
    """The trace of a shipped scenario's name, or of a scenario file; anything else is a path and stays."""
    if Path(name).exists() and not name.endswith(".toml"):
        return name
    return scenario.trace_of(name) if scenario.is_scenario(name) else name
