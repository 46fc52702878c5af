"""What the tiers below the GPU keep of a sequence, and what crosses the links when it is stored or loaded.

An engine's connector names content by keys: one for each chunk of tokens and each group of layers. vLLM's native
connector gives every key a whole row, as wide as the widest group's block over all ranks, whatever group it belongs to
(vllm/v1/kv_offload/cpu/spec.py); it stores window blocks as they fill, so that all of them lie below, and loads only
those that the window needs (vllm/distributed/kv_transfer/kv_connector/v1/offloading/scheduler.py). Connectors that keep
each layer's own bytes have no such rows.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from kvplan.deployment import Deployment
from kvplan.memory.layout import LayerType, Layout, layout


class Moved(msgspec.Struct, frozen=True, kw_only=True):
    """A transfer between the GPUs and a tier below: keys, bytes and contiguous copies on one rank's link, and bytes of
    the tier over all ranks.
    """

    keys: int = 0
    rank_bytes: int = 0
    pieces: int = 0  # on one rank
    tier_bytes: int = 0

    def __add__(self, other: Moved) -> Moved:
        return Moved(
            keys=self.keys + other.keys,
            rank_bytes=self.rank_bytes + other.rank_bytes,
            pieces=self.pieces + other.pieces,
            tier_bytes=self.tier_bytes + other.tier_bytes,
        )


class Below(msgspec.Struct, frozen=True, kw_only=True):
    """What one place below the GPU takes of sequences that an engine lays out as `layout`, in chunks of `chunk_tokens`."""

    layout: Layout
    chunk_tokens: int  # granularity of lookups and stores; 0: nothing grows with the tokens
    copies: int  # of a block: one for each rank, or one for a stage where ranks hold the same
    whole_rows: bool  # does a key of any group take as much as one of the widest
    row_multiple: int
    merged_layers: bool  # is a block of all layers of a tensor one contiguous piece
    tensors: int  # of a rank's KV, in each of which a key is a piece of its own

    @property
    def row_bytes(self) -> int:
        """Bytes of one key of one block, over all copies."""
        return self._rounded(self.layout.block_bytes * self.copies)

    def stored(self, tokens: int) -> Moved:
        """What storing the first `tokens` of a sequence moves: every whole chunk of every group, and the states at the
        ends of the engine's steps.
        """
        return self._moved(self._stored_blocks, self.whole(tokens))

    def loaded(self, tokens: int) -> Moved:
        """What bringing `tokens` of a prefix to the GPUs moves: full layers whole, of the others one window or state."""
        return self._moved(self._loaded_blocks, self.whole(tokens))

    def _moved(self, blocks: Callable[[LayerType, int], int], tokens: int) -> Moved:
        moved = [self._keys(one, blocks(one, tokens)) for one in self.layout.types]
        return moved[0] if len(moved) == 1 else sum(moved, Moved())

    def whole(self, tokens: int) -> int:
        """`tokens` down to whole chunks."""
        return tokens // self.chunk_tokens * self.chunk_tokens if self.chunk_tokens else tokens

    @property
    def token_bytes(self) -> float:
        """Bytes of the tier that one more token of a long sequence takes."""
        return self.stored(self._step_tokens).tier_bytes / self._step_tokens

    @property
    def _step_tokens(self) -> int:
        """Tokens of a full step: whole chunks, at whose ends states are kept."""
        chunk = max(1, self.chunk_tokens)
        return max(1, self.layout.step_tokens // chunk) * chunk

    def _stored_blocks(self, one: LayerType, tokens: int) -> int:
        if one.kind == "state":
            return -(-tokens // self._step_tokens)
        return 0 if one.kind == "cross" else tokens // one.block_tokens

    def _loaded_blocks(self, one: LayerType, tokens: int) -> int:
        if one.kind == "state":
            return 1 if tokens else 0
        if one.kind == "cross":  # its tokens are the encoder's
            return 0
        kept = min(tokens, one.window_tokens) if one.window_tokens else tokens
        return -(-kept // one.block_tokens)

    def _keys(self, one: LayerType, blocks: int) -> Moved:
        layout = self.layout
        keys = one.groups * blocks
        pieces = keys if self.merged_layers and len(layout.types) == 1 else keys * layout.group_layers
        if self.whole_rows:
            return Moved(keys=keys, rank_bytes=keys * layout.block_bytes, pieces=pieces, tier_bytes=keys * self.row_bytes)
        own = blocks * (one.state_bytes if one.kind == "state" else one.block_tokens * one.token_bytes)
        return Moved(keys=keys, rank_bytes=own, pieces=pieces, tier_bytes=own * self.copies)

    def _rounded(self, size: int) -> int:
        return -(-size // self.row_multiple) * self.row_multiple


def below(deployment: Deployment) -> Below:
    """What the tiers behind a deployment's connector take of its sequences."""
    made, rules = layout(deployment), deployment.engine.offload
    chunk, unit = rules.chunk_tokens, made.unit_tokens or made.block_tokens
    return Below(
        layout=made,
        chunk_tokens=-(-chunk // unit) * unit if chunk and unit else unit,
        copies=made.stages if made.latent and not rules.latent_per_rank else made.ranks,
        whole_rows=rules.whole_rows,
        row_multiple=rules.row_multiple_bytes,
        merged_layers=rules.copy_layers != "one",
        tensors=kv_tensors(deployment) // made.ranks * (2 if rules.copy_layers == "half" and not made.latent else 1),
    )


def kv_tensors(deployment: Deployment) -> int:
    """KV tensors of all ranks: one for each layer, or one for each layer of a group, which share them, or one."""
    made = layout(deployment)
    if len(made.types) > 1:
        each = made.group_layers
    else:
        each = made.layers if deployment.on_second_runner or deployment.engine.offload.copy_layers == "half" else 1
    return max(1, each) * made.ranks
