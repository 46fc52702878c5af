"""One load: what bringing a prefix back from a tier takes, what computing it again takes, and from which length on loading wins.

A load pays the engine's dispatch, a lookup for each key, and the links that its bytes cross one after another. Computing n tokens takes
the prefill of n + t tokens less that of the t tokens behind them, which are computed in either case.
"""

from __future__ import annotations

import math
from functools import cached_property

import msgspec

from kvplan.deployment import Deployment, Remote
from kvplan.errors import InputError
from kvplan.hardware.spec import Network
from kvplan.hardware.timing import IN, disk_s, mapped_s, objects_s, transfer_s
from kvplan.memory.below import Moved, below
from kvplan.step_time import StepCost
from kvplan.units import first_true

WAY = {"cpu": ("cpu",), "disk": ("disk", "cpu"), "remote": ("remote", "cpu")}
"""Tier -> the links that its bytes cross on the way to the GPU: that of the tier itself, then that of host memory."""

LONGEST_TOKENS = 2**20
TAIL_TOKENS = 64
"""New tokens behind a reused prefix, when the traffic does not say."""


class Loading:
    """Loads of one deployment on a machine where nothing else goes on."""

    def __init__(self, deployment: Deployment, cost: StepCost | None = None) -> None:
        self.deployment, self.engine, self.machine = deployment, deployment.engine, deployment.machine
        self.cost = cost or StepCost(deployment)
        self.below, self.overhead = below(deployment), deployment.overhead

    @property
    def grain_tokens(self) -> int:
        """The smallest piece that is loaded."""
        return max(1, self.below.chunk_tokens)

    def engine_s(self, tokens: int) -> float:
        """Seconds of the engine's own work for a load: dispatch and completion, lookup and pointers of each key."""
        return self.overhead.load_s + self.lookup_s(tokens)

    def lookup_s(self, tokens: int) -> float:
        """Of these, what goes before the first copy: lookup and pointers, and handing over those copies that begin together."""
        keys, overhead = self.below.loaded(tokens).keys, self.overhead
        pieces_s = 0.0 if self._by_kernel else self.below.tensors * overhead.load_piece_s
        return keys * (overhead.load_block_s + pieces_s) + self._batched_s(keys)

    def submit_s(self, direction: int, keys: int) -> float:
        """Seconds in which the worker hands over a load or a store of so many keys, piece by piece; a kernel takes them all at once."""
        if direction == IN and self._by_kernel:
            return 0.0
        return keys * self.overhead.submit_piece_s * self.below.tensors

    def _batched_s(self, keys: int) -> float:
        return min(self.submit_s(IN, keys), self.engine.offload.batch_copies * self.overhead.submit_piece_s)

    @cached_property
    def _by_kernel(self) -> bool:
        """Are the pieces of a block so small that a kernel loads them."""
        return self.below.layout.block_bytes // self.below.tensors < self.engine.offload.kernel_piece_bytes

    def link_s(self, link: str, moved: Moved) -> float:
        """Seconds of a transfer to the GPUs over one link: of host memory (each rank over its own), the disk or the remote pool."""
        if link == "cpu":
            return self.host_copy_s(IN, moved)
        if link == "disk":
            buffers_s = moved.tier_bytes / self.below.layout.ranks * self.overhead.disk_byte_s
            return disk_s(self.machine.disk, IN, moved.tier_bytes, moved.keys, self.engine.offload.disk_read_threads) + buffers_s
        if self.machine.network is None and not self.deployment.remote.client_Bps:
            return math.inf
        return remote_s(self.deployment, moved.tier_bytes, self.below.row_bytes) + self.client_s(moved)

    def host_copy_s(self, direction: int, moved: Moved) -> float:
        """Seconds of one transfer between host memory and the GPUs, by what the engine's connector copies with."""
        link, overhead, rules = self.machine.link, self.overhead, self.engine.offload
        copies = rules.copies if direction == IN or not rules.store_copies else rules.store_copies
        if direction == IN and self._by_kernel:
            copies = "kernel"
        chunks = -(-moved.keys * self.below.layout.block_tokens // max(1, self.engine.offload.chunk_tokens))
        byte_s, chunk_s = (
            (overhead.load_byte_s, overhead.load_chunk_s) if direction == IN else (overhead.store_byte_s, overhead.store_chunk_s)
        )
        if copies == "engine":
            handed_s = self.submit_s(IN, moved.keys) - self._batched_s(moved.keys) if direction == IN else 0.0
            return chunks * chunk_s + max(handed_s, transfer_s(link, direction, moved.rank_bytes, moved.pieces))
        if copies == "kernel":
            ranks = self.below.layout.ranks
            share = rules.load_share if direction == IN else 1.0
            return chunks * chunk_s + mapped_s(link, self.machine.host, direction, moved.rank_bytes / share, ranks)
        return chunks * chunk_s + moved.rank_bytes * byte_s

    def client_s(self, moved: Moved) -> float:
        """Seconds that an engine's own client of a remote pool adds to the network: each rank for its share, then the host for all."""
        ranks = self.below.layout.ranks
        return moved.tier_bytes * (self.overhead.remote_byte_s / ranks + self.overhead.remote_host_byte_s)

    def path_s(self, tier: str, tokens: int, share: float = 1.0) -> float:
        """Seconds of all links between a tier and the GPUs, one after another. With a `share` below 1 only so much of the tokens lies in
        the tier, the rest in host memory.
        """
        moved = {"cpu": self.below.loaded(tokens), tier: self.below.loaded(round(tokens * share))}
        return sum(self.link_s(link, moved[link]) for link in WAY[tier])

    def load_s(self, tier: str, tokens: int, share: float = 1.0) -> float:
        """Seconds to have `tokens` of a prefix on the GPUs."""
        return self.engine_s(tokens) + self.path_s(tier, tokens, share)

    def recompute_s(self, tokens: int, tail_tokens: int = TAIL_TOKENS, context_tokens: int = 0) -> float:
        """Seconds of prefill that having `tokens` after `context_tokens` saves a request with `tail_tokens` more."""
        step = self.engine.step_tokens
        whole = self.cost.prefill_s(tokens + tail_tokens, context_tokens, step)
        return whole - self.cost.prefill_s(tail_tokens, context_tokens + tokens, step)

    def break_even_tokens(self, tier: str, tail_tokens: int = TAIL_TOKENS, share: float = 1.0) -> float:
        """The shortest prefix, in whole pieces, that loads faster than it is computed; infinity when none does.

        Found by doubling, then bisection: loading is linear, computing grows at least as fast.
        """
        grain = self.grain_tokens

        def wins(pieces: int) -> bool:
            return self.load_s(tier, pieces * grain, share) < self.recompute_s(pieces * grain, tail_tokens)

        high = 1
        while not wins(high):
            if high * grain >= LONGEST_TOKENS:
                return math.inf
            high *= 2
        return first_true(high // 2 + 1, high, wins) * grain

    def break_even_Bps(self, tokens: int, tail_tokens: int = TAIL_TOKENS) -> float:
        """Bytes per second that all links of a tier together would have to reach for a prefix to break even; infinity for never.

        The engine's own work is spent first: bytes / (computing - that work).
        """
        left_s = self.recompute_s(tokens, tail_tokens) - self.engine_s(tokens)
        return self.below.loaded(tokens).rank_bytes * self.below.layout.ranks / left_s if left_s > 0 else math.inf

    def path_Bps(self, tier: str, tokens: int) -> float:
        """Bytes per second that all links of a tier together reach."""
        return self.below.loaded(tokens).rank_bytes * self.below.layout.ranks / self.path_s(tier, tokens)


def remote_path(deployment: Deployment) -> Network:
    """The way of one client to the remote pool: its own network, and never more than the pool gives. Raises InputError without one."""
    remote, network = deployment.remote, deployment.machine.network
    if network is None and not remote.client_Bps:
        raise InputError(
            f"{deployment.machine.name} has no network", hint="--set remote.client_Bps=10GB/s (and remote.latency_s), or another machine"
        )
    network = network or Network(Bps=remote.client_Bps, latency_s=remote.latency_s or ASSUMED_LATENCY_S)
    rate = remote.client_Bps or network.Bps
    return msgspec.structs.replace(network, Bps=min(rate, remote.total_Bps or rate), latency_s=remote.latency_s or network.latency_s)


ASSUMED_LATENCY_S = 1e-3
"""Round trip to a remote pool where neither the machine nor the scenario says it: assumed, a store inside one data centre."""


def object_bytes(remote: Remote, row_bytes: float) -> float:
    """Bytes of one object of the remote pool: as the scenario says, else a key's."""
    return remote.object_bytes or row_bytes


def remote_s(deployment: Deployment, size: float, row_bytes: float) -> float:
    """Seconds of `size` bytes from or to the remote pool, nothing else going on."""
    if not size:
        return 0.0
    remote = deployment.remote
    return objects_s(remote_path(deployment), size, object_bytes=object_bytes(remote, row_bytes), parallel=remote.parallel)
