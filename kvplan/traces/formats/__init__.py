"""Readers of trace formats, one module a format (tables without content share one)."""

from kvplan.traces.formats import (
    bailian,
    kvcache_simulator,
    lmcache,
    mooncake,
    native,
    openai,
    servingsim,
    sharegpt,
    tables,
    weka,
)
from kvplan.traces.formats.reader import Reader
from kvplan.traces.record import dynamo, lmcache_hashes, sglang_log, vllm_log

FORMATS: dict[str, Reader] = {
    "native": native.READER,
    "lmcache-hashes": lmcache_hashes.READER,
    "dynamo": dynamo.READER,
    "weka": weka.READER,
    "bailian": bailian.READER,
    "kvcache-simulator": kvcache_simulator.READER,
    "llmservingsim": servingsim.READER,
    "sharegpt": sharegpt.READER,
    "lmcache": lmcache.READER,
    "mooncake": mooncake.READER,
    "openai": openai.READER,
    "azure": tables.AZURE,
    "burstgpt": tables.BURSTGPT,
    "vidur": tables.VIDUR,
    "sglang-log": sglang_log.READER,
    "vllm-log": vllm_log.READER,
}
"""Format name -> reader, asked in this order whether a file is theirs: the more particular first."""

__all__ = ["FORMATS", "Reader"]
