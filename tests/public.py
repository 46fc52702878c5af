"""Public data that is too large for this repository: real traces, collected engine logs and published figures.

They are looked for in the folder that KVPLAN_PUBLIC_DATA names: `traces/` holds Mooncake's and Azure's request traces and WEKA's agent
sessions under their publishers' names, `facts/` collected figures as JSON lines. Tests that need an absent one skip, and the end of the run
names them.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

FOLDER = Path(os.environ.get("KVPLAN_PUBLIC_DATA", "public-data-is-not-at-hand"))


def public(name: str) -> Path:
    """The path of a public file, at hand or not."""
    return FOLDER / name


def needs(name: str) -> pytest.MarkDecorator:
    """Skips tests where a public file is not at hand."""
    return pytest.mark.skipif(not public(name).exists(), reason=f"{name} is not in KVPLAN_PUBLIC_DATA")
