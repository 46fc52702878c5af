"""Pages of DeepSeek-V4's compressed tiers as vLLM 0.33 cuts them: one group for all compressed rows and index keys, groups of as many bytes
for the windows, and one for each kind of ring.
"""

from __future__ import annotations

from typing import Any

from kvplan.memory.formats import INDEX_SCALE_BYTES
from kvplan.model import Layers

BLOCK_TOKENS = 256
WINDOW_BLOCK_TOKENS = 64
ALIGN_BYTES = 576
RINGS = {4: (8, 4), 128: (128, 8)}
"""Tokens that a compressed row stands for -> rows of its ring, and tokens of a block of it."""


def page_bytes(kept: list[Layers], pp: int) -> int:
    """Bytes of 256 tokens in all compressed rows and keys of one rank; 0 where the layers are not such tiers."""
    rows = [layer for layer in kept if layer.kind in ("latent", "index") and layer.row_tokens > 1]
    if not rows or {layer.row_tokens for layer in rows if layer.kind == "latent"} - set(RINGS):
        return 0
    return sum(-(-layer.count // pp) * _aligned(BLOCK_TOKENS // layer.row_tokens * _row(layer)) for layer in rows)


def groups(kept: list[Layers], page: int, pp: int) -> list[dict[str, Any]]:
    """The groups as fields of LayerType. Rings hold nothing that a tier below would keep."""
    rows = [layer for layer in kept if layer.kind in ("latent", "index") and layer.row_tokens > 1]
    windows = [layer for layer in kept if layer.kind == "latent" and layer.window_tokens]
    tokens = sum(-(-layer.count // pp) * _row(layer) / layer.row_tokens for layer in rows)
    found = [{"kind": "full", "count": len(rows), "block_tokens": BLOCK_TOKENS, "groups": 1, "token_bytes": round(tokens)}]
    for layer in windows:
        count = -(-layer.count // pp)
        needed = -(-count * _aligned(WINDOW_BLOCK_TOKENS * _row(layer)) // page)
        one = {"kind": "window", "count": count, "block_tokens": WINDOW_BLOCK_TOKENS, "groups": needed}
        found.append({**one, "window_tokens": layer.window_tokens, "token_bytes": count * _row(layer)})
    for ratio in sorted({layer.row_tokens for layer in rows if layer.kind == "latent"}):
        kept_rows, block = RINGS[ratio]
        found.append({"kind": "window", "count": 1, "block_tokens": block, "groups": 1, "window_tokens": kept_rows})
    return found


def _row(layer: Layers) -> int:
    return layer.index_dim + INDEX_SCALE_BYTES if layer.kind == "index" else layer.fp8_row_bytes


def _aligned(size: int) -> int:
    return -(-size // ALIGN_BYTES) * ALIGN_BYTES
