"""What can be configured: each target with its words, its writer, its reader and what it cannot tell the engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from kvplan.deploy.dialect import Dialect
from kvplan.deploy.dialects import dynamo, lmcache, lmcache_server, sglang, trtllm, vllm
from kvplan.deploy.kubernetes import dynamo_graph, kserve, llm_d, lmcache_operator, production_stack
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
    "lmcache-mp": Target("lmcache-mp", lmcache_server.DIALECT, lmcache_server.write, lmcache_server.read),
    "sglang": Target("sglang", sglang.DIALECT, sglang.write, sglang.read),
    "trtllm": Target("trtllm", trtllm.DIALECT, trtllm.write, trtllm.read),
    "dynamo": Target("dynamo", dynamo.DIALECT, dynamo.write, dynamo.read),
    "kserve": Target("vllm", kserve.DIALECT, kserve.write, vllm.read, kserve.ABILITIES, {"shared": "always"}),
    "llm-d": Target("vllm", llm_d.DIALECT, llm_d.write, vllm.read),
    "dynamo-k8s": Target("dynamo", dynamo_graph.DIALECT, dynamo_graph.write, dynamo.read),
    "lmcache-operator": Target("lmcache-mp", lmcache_operator.DIALECT, lmcache_operator.write, lmcache_server.read),
    "production-stack": Target("lmcache", production_stack.DIALECT, production_stack.write, lmcache.read, production_stack.ABILITIES),
}
"""Name that the user types -> what is configured."""

NOT_CONFIGURED: dict[str, str] = {
    "aibrix": "its offloading connector runs in AIBrix's own builds of vLLM (0.10.2 in its images of November 2025), whose rules and "
    "timing are not known here, so that the plan would be of another engine; and the fields of its KVCache objects differ between releases",
    "gpustack": "its cache pools are stores of Mooncake, whose sizes and rules are not known here",
}
"""Targets that people ask for -> why none is written."""
