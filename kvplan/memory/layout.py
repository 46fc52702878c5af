"""How an engine cuts its KV pool into blocks: groups of layers, page sizes, blocks per request.

The arithmetic is vLLM V1's (`kv_cache_utils.py`): layers of one type are grouped `group_layers` at a time, every
group's block has the same bytes, and one pool of blocks serves all groups. A model with one type of layer is the
plain paged cache of arXiv 2309.06180.
"""

from __future__ import annotations

import msgspec

from kvplan.deployment import Deployment
from kvplan.engine.spec import KvFormat, Memory
from kvplan.memory import tiers
from kvplan.memory.formats import state_dtype, stored_format
from kvplan.memory.kv import state_bytes, token_bytes
from kvplan.model import Layers


class LayerType(msgspec.Struct, frozen=True, kw_only=True):
    """Layers that share block tables: how many, how many tokens a block of theirs holds, and how many groups they
    fill.
    """

    kind: str  # full, window, chunked, cross or state
    count: int
    block_tokens: int  # 0 for states
    groups: int
    window_tokens: int = 0
    token_bytes: int = 0  # of one token in all these layers on one rank, without padding
    state_bytes: int = 0  # of one state of all these layers on one rank, without padding

    @property
    def grows(self) -> bool:
        """Does every further token of a long sequence need room."""
        return self.kind == "full" or (self.kind == "cross" and not self.window_tokens)


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """The pool of one rank. A block is `block_bytes` long and holds `block_tokens` tokens of one group of layers."""

    block_bytes: int
    block_tokens: int  # the smallest of the types; 0 when nothing is kept per token
    types: tuple[LayerType, ...]
    step_tokens: int
    state_blocks: int
    printed_tokens: str
    ranks: int
    layers: int  # layers with a cache on one rank: tensors of a block
    group_layers: int  # of those, the ones of one group
    in_flight_tokens: int  # that steps which are not settled may hold
    latent: bool = False  # is every layer's content the same on all ranks of a stage
    stages: int = 1

    @property
    def groups(self) -> int:
        return sum(one.groups for one in self.types)

    @property
    def unit_tokens(self) -> int:
        """Tokens by which a sequence grows at once in all groups that keep every token; 0 when none does."""
        return max((one.block_tokens for one in self.types if one.grows), default=0)

    @property
    def unit_blocks(self) -> int:
        """Blocks that `unit_tokens` more tokens take in the groups that keep every token."""
        return sum(one.groups * self.unit_tokens // one.block_tokens for one in self.types if one.grows)

    def grown_blocks(self, context_tokens: int) -> int:
        """Blocks of `context_tokens` in the groups that keep every token."""
        return sum(one.groups * -(-context_tokens // one.block_tokens) for one in self.types if one.grows)

    def fixed_blocks(self, context_tokens: int, new_tokens: int | None = None) -> int:
        """Blocks beside those for a request of `context_tokens` of which a step computes the last `new_tokens`
        (None: as many as the engine has in flight): its windows, chunks, states.
        """
        new = self.in_flight_tokens if new_tokens is None else new_tokens
        return sum(one.groups * self._kept_blocks(one, context_tokens, new) for one in self.types if not one.grows)

    def request_blocks(self, context_tokens: int) -> int:
        """Blocks that the engine sets aside for one request of `context_tokens`, over all groups."""
        return self.grown_blocks(context_tokens) + self.fixed_blocks(context_tokens)

    def _kept_blocks(self, one: LayerType, context_tokens: int, new_tokens: int) -> int:
        if one.kind == "state":
            return self.state_blocks
        if one.kind == "window":  # one more: the window need not start at a block's edge
            return -(-min(one.window_tokens - 1 + new_tokens, context_tokens) // one.block_tokens) + 1
        if one.kind == "chunked":
            return -(-min(one.window_tokens + new_tokens, context_tokens) // one.block_tokens)
        return -(-one.window_tokens // one.block_tokens)  # of the encoder, whatever the context

    def reserved_bytes(self, context_tokens: int) -> int:
        """Bytes set aside for one request of `context_tokens`, on all ranks together."""
        return self.request_blocks(context_tokens) * self.block_bytes * self.ranks

    @property
    def growth_block_bytes(self) -> int:
        """Bytes, on all ranks together, by which `block_tokens` more tokens enlarge a long sequence: its windows
        are full, its state is fixed.
        """
        return sum(one.groups * self.block_bytes * self.block_tokens // one.block_tokens for one in self.types if one.grows) * self.ranks

    def blocks(self, pool_bytes: int) -> int:
        """Whole blocks in a pool of `pool_bytes` on all ranks together."""
        return pool_bytes // self.ranks // self.block_bytes if self.block_bytes else 0

    def concurrency(self, blocks: int, context_tokens: int) -> float:
        """Requests of `context_tokens` that `blocks` hold at once."""
        return blocks / max(1, self.request_blocks(context_tokens))

    def tokens(self, blocks: int, context_tokens: int) -> int:
        """The number of tokens that the engine prints for a pool of `blocks`, derived its own way."""
        if self.printed_tokens == "groups":
            return blocks // max(1, self.groups) * min(self.block_tokens or context_tokens, context_tokens)
        return int(self.concurrency(blocks, context_tokens) * context_tokens)


def layout(deployment: Deployment, *, block_tokens: int = 0) -> Layout:
    """The block layout of a deployment. Raises InputError when its ranks do not divide the model."""
    deployment.check_ranks()
    engine, tp, pp = deployment.engine, deployment.parallel.tp, deployment.parallel.pp
    rules, fmt = engine.memory, stored_format(deployment)
    kept = stored_layers(deployment)
    if deployment.model.family in rules.tiered_pages and (page := tiers.page_bytes(kept, pp)):
        return _tiered(deployment, kept, page)
    types = _types(kept, deployment, fmt, block_tokens or engine.block_tokens)
    group = _group_layers([one.count for one in types], rules)
    if len(types) == 1:
        group = types[0].count
    page = max(one.page_bytes for one in types) if types else 0
    made = tuple(
        LayerType(
            kind=one.kind,
            count=one.count,
            block_tokens=one.block_tokens,
            groups=-(-one.count // group),
            window_tokens=one.window_tokens,
            token_bytes=one.token_bytes,
            state_bytes=one.state_bytes,
        )
        for one in types
    )
    layers = sum(-(-layer.count // pp) for layer in kept)
    return Layout(
        block_bytes=page * group,
        block_tokens=min((one.block_tokens for one in types if one.block_tokens), default=0),
        types=made,
        step_tokens=engine.step_tokens,
        in_flight_tokens=in_flight_tokens(deployment),
        state_blocks=rules.state_blocks,
        printed_tokens=rules.printed_tokens,
        ranks=tp * pp,
        layers=layers,
        group_layers=layers if len(types) == 1 else group,
        latent=bool(kept) and all(layer.kind == "latent" for layer in kept),
        stages=pp,
    )


def in_flight_tokens(deployment: Deployment) -> int:
    """Tokens of the steps that run at once, for which windows and chunks keep blocks."""
    batches = deployment.engine.memory.batches_in_flight
    return deployment.engine.step_tokens * (max(batches, deployment.parallel.pp) if batches > 1 else 1)


def _tiered(deployment: Deployment, kept: list[Layers], page: int) -> Layout:
    """A layout whose groups are the compressed rows, the windows and the rings, each with blocks of as many bytes as the first."""
    engine, pp = deployment.engine, deployment.parallel.pp
    made = tuple(LayerType(**one) for one in tiers.groups(kept, page, pp))
    layers = sum(-(-layer.count // pp) for layer in kept)
    return Layout(
        block_bytes=page,
        block_tokens=min(one.block_tokens for one in made),
        types=made,
        step_tokens=engine.step_tokens,
        in_flight_tokens=in_flight_tokens(deployment),
        state_blocks=engine.memory.state_blocks,
        printed_tokens=engine.memory.printed_tokens,
        ranks=deployment.parallel.tp * pp,
        layers=layers,
        group_layers=max(1, layers // len(made)),
        latent=True,
        stages=pp,
    )


def stored_layers(deployment: Deployment) -> list[Layers]:
    """The layers that keep something, as the engine stores them."""
    kept = [layer for layer in deployment.model.layers if layer.kind not in ("shared", "none")]
    if deployment.model.family not in deployment.engine.memory.expanded_latents:
        return kept
    return [_expanded(layer) if layer.kind == "latent" else layer for layer in kept]


def _expanded(layer: Layers) -> Layers:
    return msgspec.structs.replace(layer, kind="full", kv_heads=layer.query_heads, v_dim=layer.k_dim)


class _Type(msgspec.Struct):
    kind: str
    count: int
    page_bytes: int  # of one layer and block
    block_tokens: int
    window_tokens: int = 0
    token_bytes: int = 0  # of all layers of the type on one rank, unpadded
    state_bytes: int = 0


def _kind(layer: Layers, rules: Memory) -> str:
    if layer.kind in ("latent", "index"):
        return "window" if layer.window_tokens and rules.hybrid_groups else "full"
    if layer.kind == "chunked" and (rules.chunked_as_full or not rules.hybrid_groups):
        return "full"
    if layer.kind == "window" and not rules.hybrid_groups:
        return "full"
    return layer.kind


def _types(kept: list[Layers], deployment: Deployment, fmt: KvFormat, block: int) -> list[_Type]:
    """One entry per type, all with the same page once there are several: smaller vectors get more tokens per block,
    states are padded.
    """
    model, rules, tp, pp = deployment.model, deployment.engine.memory, deployment.parallel.tp, deployment.parallel.pp
    states_in = state_dtype(model, deployment.engine)
    only = {_kind(layer, rules) for layer in kept}
    if only <= {"full"}:  # one group whatever the sizes: a block has a page of every layer
        total = sum(-(-layer.count // pp) * token_bytes(layer, fmt, tp) for layer in kept)
        return [_Type("full", 1, total * block, block, token_bytes=total)] if kept else []
    attending = [layer for layer in kept if layer.kind != "state"]
    states = [layer for layer in kept if layer.kind == "state"]
    state = max((state_bytes(layer, model.dtype, tp, states_in) for layer in states), default=0)
    widest = max((token_bytes(layer, fmt, tp) for layer in attending), default=0)
    if state and widest:
        block = max(block, 16 * -(-state // (16 * widest)))
    page = max(widest * block, state if not widest else 0)
    types: dict[tuple[str, int, int], _Type] = {}
    for layer in kept:
        kind, tokens, window = _kind(layer, rules), 0, 0
        if kind != "state":
            tokens = block * (widest // token_bytes(layer, fmt, tp))
            window = layer.window_tokens if kind != "full" else 0
        one = types.setdefault((kind, tokens, window), _Type(kind, 0, page, tokens, window))
        count = -(-layer.count // pp)
        one.count += count
        one.token_bytes += count * token_bytes(layer, fmt, tp)
        one.state_bytes += count * state_bytes(layer, model.dtype, tp, states_in)
    return list(types.values())


def _group_layers(counts: list[int], rules: Memory) -> int:
    if not counts:
        return 1
    small, large = min(counts), max(counts)
    return large if large < rules.group_merge_ratio * small else small
