"""One server for all tests of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.live.server import running


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    with running() as address:
        yield address
