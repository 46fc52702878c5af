"""What a command line says whatever moves the KV."""

from __future__ import annotations

import itertools
import re

from kvplan.deploy.options import options, unknown_options
from kvplan.deploy.parallel import spread
from kvplan.deploy.reading import MOST, Reading
from kvplan.errors import did_you_mean

HIGH_FRACTION = 0.96
"""Above this share of a GPU nothing is left for what an engine does not measure at its start, assumed."""

_LIMITS = {
    "max_context_tokens": (("--max-model-len", "--context-length"), "requests of at most {} tokens"),
    "max_batch": (("--max-num-seqs", "--max-running-requests"), "at most {} sequences at once"),
    "step_tokens": (("--max-num-batched-tokens", "--chunked-prefill-size"), "steps of at most {} tokens"),
    "block_tokens": (("--block-size", "--page-size"), "blocks of {} tokens"),
}
"""Field of a placement -> the flags that set it, and what they mean."""

_NOT_KV = {
    "--cpu-offload-gb": "moves weights to host memory, not KV: every step reads them over the link",
    "--swap-space": "was for preempted sequences of older engines: it keeps no KV for reuse",
}
"""Flags that look like KV offload and are not."""


def command_line(reading: Reading) -> None:
    """What a command line says whatever moves the KV: model, limits, ranks, share of the GPU, dtype, prefix caching."""
    flags, words = reading.config.flags, reading.config.words
    for word, following in itertools.pairwise(words):
        if word in ("serve", "trtllm-serve"):
            reading.fields["model"] = following
    for name in ("--model", "--model-path"):
        reading.fields["model"] = flags.get(name) or reading.fields["model"]
    spread(reading)
    for field, (names, meaning) in _LIMITS.items():
        for name in names:
            if name in flags and (value := _whole(flags[name])):
                reading.tokens(field, name, value, meaning.format(f"{value:,}"))
    _memory(reading)
    if "--kv-cache-dtype" in flags:
        reading.dtype("--kv-cache-dtype", flags["--kv-cache-dtype"])
    for name in ("--no-enable-prefix-caching", "--disable-radix-cache"):
        if name in flags:
            sentence = f"{name} turns the prefix cache off: nothing that is offloaded is found again."
            reading.fault("no_prefix_cache", sentence, key=name)
    _strangers(reading)


def _memory(reading: Reading) -> None:
    flags = reading.config.flags
    for name in ("--gpu-memory-utilization", "--mem-fraction-static"):
        if name in flags and (share := reading.number(name, flags[name])) is not None:
            reading.fields["gpu_fraction"] = share
            reading.mean(name, flags[name], f"{share:.0%} of each GPU's memory for the engine")
            if share > HIGH_FRACTION:
                left = f"leaves {1 - share:.0%} of the GPU for all that is not measured at the start"
                sentence = f"{name} {flags[name]} {left if share <= 1 else 'is no share: the GPU has 1'}."
                hint = "0.9 to 0.95"
                reading.fault("gpu_full", sentence, key=name, hint=hint, level="error" if share > 1 else "warning")
    if (each := _whole(flags.get("--kv-cache-memory-bytes", ""))) is not None:
        reading.fields["gpu_kv_bytes"] = each * reading.pool_ranks
        reading.mean("--kv-cache-memory-bytes", each, "KV pool of each rank, whatever the share of the GPU")
    if (tokens := _whole(flags.get("--max-total-tokens", ""))) is not None:
        reading.pool_tokens = tokens
        reading.mean("--max-total-tokens", tokens, f"KV pool of at most {tokens:,} tokens")


def _strangers(reading: Reading) -> None:
    """Flags that the engine's parser would refuse, and flags that are not what they look like."""
    flags, program = reading.config.flags, "sglang" if reading.engine == "sglang" else "vllm"
    version = reading.version if program == reading.engine else ""
    for name, what in _NOT_KV.items():
        if name in flags:
            reading.fault("not_kv_offload", f"{name} {what}.", key=name, hint="--kv-offloading-size offloads KV", level="warning")
    if reading.engine == "trtllm" or not (reading.config.words or reading.fields["model"]):
        return
    own = [flag for flag in flags if not flag.startswith(("--l1-", "--l2-", "--eviction-", "--chunk-size"))]
    for flag in unknown_options(own, program, version):
        sentence = f"{flag} is not an option of {'SGLang' if program == 'sglang' else 'vLLM'}: it refuses to start."
        hint = "" if flag in _NOT_KV else did_you_mean(flag, options(program, version))
        reading.fault("unknown_option", sentence, key=flag, hint=hint)
    tokens = reading.fields.get("block_tokens")
    if program == "vllm" and isinstance(tokens, int) and tokens % 16:
        sentence = f"--block-size {tokens}: vLLM's attention kernels take multiples of 16 tokens."
        reading.fault("block_size", sentence, key="--block-size")


def _whole(text: str) -> int | None:
    """A whole number, as `4096`, `8k` (8,000) or `8K` (8,192); None for words such as `auto`."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kKmMgG]?)", text.strip())
    if not match:
        return None
    scale = {"k": 10**3, "m": 10**6, "g": 10**9, "K": 2**10, "M": 2**20, "G": 2**30}.get(match[2], 1)
    return int(min(float(match[1]) * scale, MOST))
