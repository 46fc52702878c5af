"""What a command line says whatever moves the KV."""

from __future__ import annotations

import itertools

from kvplan.deploy.reading import Reading


def command_line(reading: Reading) -> None:
    """What a command line says whatever moves the KV: model, ranks, share of the GPU, dtype, block, prefix caching."""
    flags, words = reading.config.flags, reading.config.words
    for word, following in itertools.pairwise(words):
        if word in ("serve", "trtllm-serve"):
            reading.fields["model"] = following
    for name in ("--model", "--model-path"):
        reading.fields["model"] = flags.get(name) or reading.fields["model"]
    for name in ("--tensor-parallel-size", "-tp", "--tp", "--tp-size"):
        if name in flags:
            reading.ranks(name, flags[name])
    for name in ("--gpu-memory-utilization", "--mem-fraction-static"):
        if name in flags and (share := reading.number(name, flags[name])) is not None:
            reading.fields["gpu_fraction"] = share
            reading.mean(name, flags[name], f"{share:.0%} of each GPU's memory for the engine")
    if "--kv-cache-dtype" in flags:
        reading.dtype("--kv-cache-dtype", flags["--kv-cache-dtype"])
    for name in ("--block-size", "--page-size"):
        if name in flags:
            reading.tokens("block_tokens", name, flags[name], f"blocks of {flags[name]} tokens")
    for name in ("--no-enable-prefix-caching", "--disable-radix-cache"):
        if name in flags:
            sentence = f"{name} turns the prefix cache off: nothing that is offloaded is found again."
            reading.fault("no_prefix_cache", sentence, key=name)
