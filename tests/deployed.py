"""Deployments for tests, from names."""

from __future__ import annotations

import msgspec

from kvplan import catalog
from kvplan.deployment import Deployment, Parallel
from kvplan.engine.spec import EngineSpec
from kvplan.hardware.spec import Machine
from kvplan.model import ModelSpec


def deployed(
    model: str | ModelSpec,
    engine: str | EngineSpec = "vllm",
    machine: str | Machine | None = None,
    *,
    tp: int = 1,
    pp: int = 1,
    dp: int = 1,
    ep: int = 0,
    kv_dtype: str = "auto",
    dtype: str = "",
    **offload: object,
) -> Deployment:
    """A model in an engine on a machine or none; what is left of the names replaces rules of the engine's offload."""
    serving = catalog.engine(engine) if isinstance(engine, str) else engine
    return Deployment(
        model=catalog.model(model) if isinstance(model, str) else model,
        engine=msgspec.structs.replace(serving, offload=msgspec.structs.replace(serving.offload, **offload)),
        server=catalog.machine(machine) if isinstance(machine, str) else machine,
        parallel=Parallel(tp=tp, pp=pp, dp=dp, ep=ep),
        kv_dtype=kv_dtype,
        dtype=dtype,
    )
