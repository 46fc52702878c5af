"""Inference engines: what each one does, by version, as data."""

from kvplan.engine.spec import EngineSpec, KvFormat, Memory, Offload, Overhead

__all__ = ["EngineSpec", "KvFormat", "Memory", "Offload", "Overhead"]
