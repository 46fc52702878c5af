"""TensorRT-LLM with its host cache."""

from __future__ import annotations

import shlex

from kvplan.deploy.command_line import command_line
from kvplan.deploy.dialect import Dialect, SizeUnit, plain_number
from kvplan.deploy.reading import Reading
from kvplan.deploy.serving import Serving
from kvplan.deploy.write import Line, Written, shell, yaml

DIALECT = Dialect(
    title="TensorRT-LLM",
    unit=SizeUnit(word="bytes", scale_bytes=1, per_rank=True, source="host_cache_size, allocated by each rank (PR 16106)"),
    dtypes={"auto": "auto", "bf16": "bfloat16", "fp8": "fp8", "fp8_e4m3": "fp8", "nvfp4": "nvfp4"},
    stores={"on_evict": ""},
    policies={"lru": ""},
)


STEP_TOKENS = 8192
"""max_num_tokens where none is given (TensorRT-LLM 1.3, llm_args.py)."""


def write(serving: Serving) -> Written:
    placement = serving.placement
    number, total = DIALECT.size(placement.cpu_bytes, placement.ranks)
    limits: list[tuple[int, Line]] = [
        (placement.max_context_tokens, (f"max_seq_len: {placement.max_context_tokens}", ["tokens of the longest request"])),
        (placement.max_batch, (f"max_batch_size: {placement.max_batch}", ["sequences at once, as simulated"])),
        (placement.step_tokens, (f"max_num_tokens: {placement.step_tokens}", ["tokens of a step, as simulated"])),
    ]
    lines: list[Line] = [
        (f"tensor_parallel_size: {placement.tp}", ["ranks of the replica"]),
        *(line for limit, line in limits if limit),
        ("enable_chunked_prefill: true", ["prompts longer than a step are computed in parts, as simulated; without it they are refused"]),
        ("kv_cache_config:", []),
        ("  enable_block_reuse: true", ["prefix cache"]),
        (f"  free_gpu_memory_fraction: {plain_number(placement.gpu_fraction)}", ["share of what the weights leave free"]),
        (f"  dtype: {DIALECT.dtypes[placement.kv_dtype]}", ["KV dtype"]),
        (f"  host_cache_size: {int(float(number))}", [f"CPU tier in bytes in each rank: {total}"]),
    ]
    if placement.gpu_kv_bytes and serving.pool_tokens:
        lines.append((f"  max_tokens: {serving.pool_tokens}", ["tokens of the KV pool, at most"]))
    if placement.block_tokens:
        lines.append((f"  tokens_per_block: {placement.block_tokens}", ["tokens of a block"]))
    arguments: list[Line] = [("--config trtllm.yaml", ["the settings of the other file"])]
    script = shell(DIALECT, serving.version, f"trtllm-serve {shlex.quote(placement.model)}", arguments, [])
    return [yaml(DIALECT, serving.version, "trtllm.yaml", lines), script], []


_LIMITS = (
    ("max_seq_len", "max_context_tokens", "requests of at most {} tokens"),
    ("max_batch_size", "max_batch", "at most {} sequences at once"),
    ("max_num_tokens", "step_tokens", "steps of at most {} tokens"),
)


def read(reading: Reading) -> None:
    command_line(reading)
    document = reading.config.document
    if "tensor_parallel_size" in document:
        reading.ranks("tensor_parallel_size", document["tensor_parallel_size"])
    if "pipeline_parallel_size" in document:
        reading.ranks("pipeline_parallel_size", document["pipeline_parallel_size"], "pp")
    for key, field, meaning in _LIMITS:
        if key in document:
            reading.tokens(field, key, document[key], meaning.format(document[key]))
    step, longest = document.get("max_num_tokens", STEP_TOKENS), document.get("max_seq_len")
    if not document.get("enable_chunked_prefill", False) and isinstance(step, int) and (not isinstance(longest, int) or longest > step):
        sentence = f"enable_chunked_prefill is not set: prompts of more than {step:,} tokens (max_num_tokens) are refused."
        reading.fault("long_prompts_refused", sentence, key="enable_chunked_prefill", level="warning")
    cache = reading.mapping("kv_cache_config", document)
    reading.unknown(cache, "kv_cache_config")
    reading.fields["store"] = "on_evict"
    if "free_gpu_memory_fraction" in cache:
        share = reading.number("free_gpu_memory_fraction", cache["free_gpu_memory_fraction"])
        if share is not None:
            reading.fields["gpu_fraction"] = share
            reading.mean("free_gpu_memory_fraction", share, f"{share:.0%} of what the weights leave free on each GPU is for KV")
    if "dtype" in cache:
        reading.dtype("dtype", str(cache["dtype"]))
    if "tokens_per_block" in cache:
        tokens = cache["tokens_per_block"]
        reading.tokens("block_tokens", "tokens_per_block", tokens, f"blocks of {tokens} tokens")
    if "max_tokens" in cache and (tokens := reading.whole("max_tokens", cache["max_tokens"])):
        reading.pool_tokens = tokens
        reading.mean("max_tokens", tokens, f"KV pool of at most {tokens:,} tokens")
    if "host_cache_size" in cache:
        reading.tier("cpu", "host_cache_size", cache["host_cache_size"])
        reading.mean("(always)", "", "a block is copied to the host when it is evicted from the GPU, and back before reuse")
        if cache.get("enable_block_reuse", True) is False and reading.fields.get("cpu_bytes"):
            sentence = "enable_block_reuse: false turns reuse off: nothing that is offloaded is found again."
            reading.fault("no_prefix_cache", sentence, key="enable_block_reuse")
