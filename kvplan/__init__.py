"""kvplan: when to move KV cache out of GPU memory, where to, and how much."""

__version__ = "0.1.0"
