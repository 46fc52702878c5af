"""What can be configured: each target with its words, its writer, its reader and what it cannot tell the engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from kvplan.deploy.dialect import Dialect
from kvplan.deploy.dialects import dynamo, lmcache, sglang, trtllm, vllm
from kvplan.deploy.reading import Reading
from kvplan.deploy.serving import Serving
from kvplan.deploy.write import Written


class Target(NamedTuple):
    """An engine that can be configured: its words, what writes a placement in them, and what reads them."""

    engine: str  # name of the engine's file
    dialect: Dialect
    write: Callable[[Serving], Written]
    read: Callable[[Reading], None]
    abilities: dict[str, Any] = {}  # restrictions beside the engine's own
    host_pool: dict[str, Any] = {}  # how its CPU tier is allocated, where that is not the engine's way


TARGETS: dict[str, Target] = {
    "vllm": Target("vllm", vllm.DIALECT, vllm.write, vllm.read),
    "lmcache": Target("lmcache", lmcache.DIALECT, lmcache.write, lmcache.read),
    "sglang": Target("sglang", sglang.DIALECT, sglang.write, sglang.read),
    "trtllm": Target("trtllm", trtllm.DIALECT, trtllm.write, trtllm.read),
    "dynamo": Target("dynamo", dynamo.DIALECT, dynamo.write, dynamo.read),
}
"""Name that the user types -> what is configured."""
