"""One replica with its tiers, links and devices, built from a scenario."""

from __future__ import annotations

from typing import Any

import msgspec

from kvplan.engine.spec import Offload
from kvplan.errors import InputError
from kvplan.hardware.spec import Link, Network
from kvplan.memory.formats import resolve_kv_dtype, stored_format
from kvplan.memory.kv import token_bytes as layer_token_bytes
from kvplan.scenario import Scenario
from kvplan.sim.cache.belady import Future
from kvplan.sim.cache.eviction import Facts
from kvplan.sim.cache.gpu_cache import GpuCache
from kvplan.sim.cache.pool import Pool
from kvplan.sim.cache.prefix import PrefixTree
from kvplan.sim.cache.tier import Tier
from kvplan.sim.cache.user_policy import maker
from kvplan.sim.clock import Clock
from kvplan.sim.cluster.dispatch import Replicas
from kvplan.sim.outcome.record import Recorder, TierRecord
from kvplan.sim.replica.replica import Replica
from kvplan.sim.transfer.handover import Delivery
from kvplan.sim.transfer.links import DiskQueue, HostLink
from kvplan.sim.transfer.loads import Loads, Tally
from kvplan.sim.transfer.lower import DiskDevice, Lower
from kvplan.sim.transfer.paths import Host
from kvplan.sim.transfer.remote import RemoteDevice, Shared
from kvplan.sim.transfer.stores import Stores
from kvplan.sim.transfer.streamed import Streamed
from kvplan.sim.transfer.transfers import Transfers
from kvplan.step_time import StepCost
from kvplan.traces.trace import Requests

DISK, REMOTE = 2, 3
"""Places of lower tiers among the hits of a request; 0 is the GPU and 1 host memory."""


class Server:
    """A replica and what belongs to it. `tiers` are in the order gpu, cpu, disk, remote; shared ones appear in every
    server."""

    __slots__ = ("replica", "tiers", "link", "disk", "remote")

    def __init__(self, replica: Replica, tiers: list[Tier], link: HostLink, disk: DiskQueue | None, remote: RemoteDevice | None) -> None:
        self.replica, self.tiers, self.link, self.disk, self.remote = replica, tiers, link, disk, remote

    def busy_s(self, name: str) -> float:
        """Seconds that the link or device between a tier and the one above was busy."""
        if name == "cpu":
            return max(self.link.busy_s)
        if name == "disk" and self.disk is not None:
            return sum(self.disk.busy_s)
        if name == "remote" and self.remote is not None:
            return max(self.remote.busy_s)
        return 0.0


class Builder:
    """Makes servers of one scenario that share a clock, a step cost, a tally of loads, the remote pool, and host memory
    if so asked."""

    def __init__(self, clock: Clock, scenario: Scenario, trace: Requests, cost: StepCost, tally: Tally) -> None:
        self.clock, self.scenario, self.trace, self.cost, self.tally = clock, scenario, trace, cost, tally
        engine, tiers, self.ranks = scenario.engine, scenario.tiers, scenario.run.tp
        self.token_bytes = bytes_per_token(scenario)
        self.host_token_bytes = host_bytes_per_token(scenario)
        self.grain = engine.offload.chunk_tokens or engine.block_tokens
        for name, size in (("disk", tiers.disk_bytes), ("remote", tiers.remote_bytes)):
            if size and not tiers.cpu_bytes:
                raise InputError(
                    f"a {name} tier needs a CPU tier in front of it",
                    hint=f"{engine.name} promotes through host memory: add --cpu SIZE",
                )
        self._shared_host = (
            self._pool("cpu", tiers.cpu_bytes * scenario.cluster.replicas) if scenario.cluster.shared_cpu and tiers.cpu_bytes else None
        )
        self._remote = self._pool("remote", tiers.remote_bytes) if tiers.remote_bytes else None
        self._remote_rate = Shared(scenario.remote.total_Bps)

    def server(self, gpu_bytes: float, recorder: Recorder, done: Any) -> Server:
        """A replica with the scenario's tiers."""
        scenario, engine = self.scenario, self.scenario.engine
        if engine.offload.streamed_share:
            return self._streamed(gpu_bytes, recorder, done)
        gpu = self._gpu(gpu_bytes)
        cache = self._cache(gpu)
        link, tiers = HostLink(scenario.machine.link), [gpu]
        transfers, disk, remote = Transfers(engine.offload), None, None
        if scenario.tiers.cpu_bytes:
            host = self._host(link)
            disk = DiskQueue(scenario.machine.disk) if scenario.tiers.disk_bytes else None
            remote = self._remote_device() if self._remote else None
            lower = self._lower(disk, remote)
            stores = Stores(engine.offload, gpu, host, lower, block_tokens=engine.block_tokens)
            transfers = Transfers(engine.offload, stores, Loads(engine, self.cost, cache, host, lower, self.tally))
            tiers += [host.pool.tier, *(each.pool.tier for each in lower)]
        replica = Replica(self.clock, engine, self.cost, cache, transfers, recorder, jump=scenario.run.jump, done=done)
        return Server(replica, tiers, link, disk, remote)

    def behind_router(self, servers: list[Server]) -> Replicas:
        """Servers of one kind, behind the router that the scenario names."""
        return Replicas(
            self.clock,
            self.scenario.cluster,
            [server.replica for server in servers],
            key_tokens=self.trace.block_tokens,
            cache_tokens=sum(tier.capacity_tokens for tier in servers[0].tiers[:2]),
        )

    def _streamed(self, gpu_bytes: float, recorder: Recorder, done: Any) -> Server:
        """A replica whose active sequences lie partly in host memory; both together bound how many there are."""
        scenario, rules = self.scenario, self.scenario.engine.offload
        share = rules.streamed_share
        if not scenario.tiers.cpu_bytes:
            raise InputError(f"{scenario.engine.name} keeps {share:.0%} of the KV in host memory", hint="add --cpu SIZE")
        bounds = [scenario.tiers.cpu_bytes / share] + ([gpu_bytes / (1 - share)] if share < 1 else [])
        gpu, link = self._gpu(min(bounds)), HostLink(scenario.machine.link)
        cache = self._cache(gpu)
        transfers = Transfers(rules, streamed=Streamed(self.cost, link, self.tally, share=share))
        replica = Replica(self.clock, scenario.engine, self.cost, cache, transfers, recorder, jump=False, done=done)
        return Server(replica, [gpu], link, None, None)

    def decoder(self, gpu_bytes: float, recorder: Recorder, done: Any) -> Server:
        """A replica that only decodes: the KV of a prompt comes over the network from the one that computed it."""
        scenario = self.scenario
        engine = msgspec.structs.replace(scenario.engine, offload=HANDOVER)
        gpu = self._gpu(gpu_bytes)
        cache = self._cache(gpu)
        network = transfer_network(scenario)
        rate = network.Bps
        link = HostLink(Link(h2d_Bps=rate, d2h_Bps=rate, copy_s=0.0, launch_s=network.latency_s, duplex_fraction=1.0, small_copy_bytes=0))
        host = Host(
            self.clock,
            link,
            Delivery(),  # type: ignore[arg-type]
            gpu_token_bytes=self.token_bytes,
            token_bytes=self.token_bytes,
            ranks=1,
            piece_tokens=self.grain,
        )
        loads = Loads(engine, self.cost, cache, host, (), self.tally)
        replica = Replica(
            self.clock,
            engine,
            self.cost,
            cache,
            Transfers(HANDOVER, None, loads),
            recorder,
            jump=scenario.run.jump,
            done=done,
        )
        return Server(replica, [gpu], link, None, None)

    def _gpu(self, size: float) -> Tier:
        engine = self.scenario.engine
        usable = size - engine.null_blocks * engine.block_tokens * self.token_bytes
        return self._tier("gpu", usable, self.token_bytes, engine.gpu_policy, engine.block_tokens)

    def _cache(self, gpu: Tier) -> GpuCache:
        engine = self.scenario.engine
        return GpuCache(
            gpu,
            block_tokens=engine.block_tokens,
            prefix_caching=engine.prefix_caching,
            reserve_full_prompt=engine.reserve_full_prompt,
        )

    def _host(self, link: HostLink) -> Host:
        return Host(
            self.clock,
            link,
            self._shared_host or self._pool("cpu", self.scenario.tiers.cpu_bytes),
            gpu_token_bytes=self.token_bytes,
            token_bytes=self.host_token_bytes,
            ranks=self.ranks,
            piece_tokens=self.scenario.engine.block_tokens,
            piece_layers=block_pieces(self.scenario),
        )

    def _lower(self, disk: DiskQueue | None, remote: RemoteDevice | None) -> tuple[Lower, ...]:
        rules, found = self.scenario.engine.offload, list[Lower]()
        if disk is not None:
            device = DiskDevice(
                self.clock,
                disk,
                token_bytes=self.host_token_bytes,
                piece_tokens=self.scenario.engine.block_tokens,
                read_threads=rules.disk_read_threads,
                write_threads=rules.disk_write_threads,
            )
            found.append(Lower(self._pool("disk", self.scenario.tiers.disk_bytes), device, DISK))
        if remote is not None and self._remote is not None:
            found.append(Lower(self._remote, remote, REMOTE))
        return tuple(found)

    def _remote_device(self) -> RemoteDevice:
        return RemoteDevice(
            self.clock,
            _network(self.scenario),
            self.scenario.remote,
            self._remote_rate,
            token_bytes=self.host_token_bytes,
            object_tokens=self.grain,
        )

    def _pool(self, name: str, size: float) -> Pool:
        rules = self.scenario.engine.offload
        policy = rules.policy if name == "cpu" else rules.disk_policy
        return Pool(self._tier(name, size, self.host_token_bytes, policy, self.grain))

    def _tier(self, name: str, size: float, token_bytes: float, policy: str, grain: int) -> Tier:
        capacity = int(size / token_bytes)
        if capacity < grain:
            raise InputError(
                f"the {name} tier of {size:,.0f} bytes holds less than one block of {grain} tokens ({grain * token_bytes:,.0f} bytes)"
            )
        tree = PrefixTree(key_tokens=self.trace.block_tokens, grain_tokens=grain, tiers=1)
        facts = Facts(capacity, self._recompute_s)
        if policy == "belady":
            facts.next_use_s = Future(tree, self.trace, self.clock, self.scenario.run.speedup).next_use_s
        return Tier(name, 0, tree=tree, policy=maker(policy)(facts), capacity_tokens=capacity, grain_tokens=grain)

    def _recompute_s(self, start: int, end: int) -> float:
        return self.cost.prefill_s(end - start, start, self.scenario.engine.step_tokens)


def tier_records(servers: list[Server], *, gpu_token_bytes: float, host_token_bytes: float) -> list[TierRecord]:
    """Tiers by name, added up over the replicas; the busiest link counts."""
    found = []
    for name in ("gpu", "cpu", "disk", "remote"):
        tiers = {id(tier): tier for server in servers for tier in server.tiers if tier.name == name}.values()
        if not tiers:
            continue
        size = gpu_token_bytes if name == "gpu" else host_token_bytes
        found.append(
            TierRecord(
                name=name,
                capacity_bytes=round(sum(tier.capacity_tokens for tier in tiers) * size),
                peak_bytes=round(sum(tier.peak_tokens for tier in tiers) * size),
                loaded_bytes=round(sum(tier.loaded_tokens for tier in tiers) * size),
                stored_bytes=round(sum(tier.stored_tokens for tier in tiers) * size),
                evicted_bytes=round(sum(tier.evicted_tokens for tier in tiers) * size),
                busy_s=max(server.busy_s(name) for server in servers),
            )
        )
    return found


HANDOVER = Offload(load="whole_request", store_generated=False)
"""Rules of a replica that only decodes."""


def _network(scenario: Scenario) -> Network:
    if scenario.machine.network is None:
        raise InputError(f"{scenario.machine.name} has no network", hint="--set remote.client_Bps=10GB/s, or another machine")
    return scenario.machine.network


def transfer_network(scenario: Scenario) -> Network:
    """The way from a prefill to a decode replica."""
    network = _network(scenario)
    return msgspec.structs.replace(network, Bps=scenario.cluster.transfer_Bps or network.Bps)


def bytes_per_token(scenario: Scenario) -> float:
    """KV bytes of one token over all layers and ranks, as the GPUs store them."""
    model, engine, run = scenario.model, scenario.engine, scenario.run
    fmt = stored_format(resolve_kv_dtype(run.kv_dtype, model, engine), engine)
    size = sum(group.count * layer_token_bytes(group, fmt, run.tp) for group in model.layers) * run.tp
    if not size:
        raise InputError(f"{model.name} keeps no KV per token: there is nothing to offload")
    return size


def block_pieces(scenario: Scenario) -> int:
    """Contiguous pieces of one block on the host link: one, or a piece for each layer that keeps KV per token."""
    model, engine, run = scenario.model, scenario.engine, scenario.run
    if engine.offload.copy_layers == "all":
        return 1
    fmt = stored_format(resolve_kv_dtype(run.kv_dtype, model, engine), engine)
    return sum(group.count for group in model.layers if layer_token_bytes(group, fmt, run.tp))


def host_bytes_per_token(scenario: Scenario) -> float:
    """The same below the GPUs: a latent is equal on every rank, and stored once unless the engine stores each rank's
    copy."""
    model, engine, run = scenario.model, scenario.engine, scenario.run
    fmt = stored_format(resolve_kv_dtype(run.kv_dtype, model, engine), engine)
    size = 0.0
    for group in model.layers:
        copies = 1 if group.kind == "latent" and not engine.offload.latent_per_rank else run.tp
        size += group.count * layer_token_bytes(group, fmt, run.tp) * copies
    return size
