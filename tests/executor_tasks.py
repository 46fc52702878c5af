"""What workers of the executor's tests run: importable by name."""

from __future__ import annotations

import os
import signal
from pathlib import Path


def square(value: int) -> int:
    return value * value


def dies_once(mark: Path, value: int) -> int:
    """Kills its process at 5, the first time."""
    if value == 5 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return value * value


def dies_on_three(value: int) -> int:
    if value == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return value * value


def fails_on_three(value: int) -> float:
    return 1 / (value - 3)
