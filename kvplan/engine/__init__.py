"""Inference engines: what each one does, by version, as data."""

from kvplan.engine.spec import EngineSpec, HostPool, KvFormat, Memory, Offload, Overhead

__all__ = ["EngineSpec", "HostPool", "KvFormat", "Memory", "Offload", "Overhead"]
