"""Closed-form sizes: KV of a sequence, weights, the engine's pool, what fits, and what offload frees."""
