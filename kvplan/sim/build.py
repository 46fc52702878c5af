"""One replica with its tiers, links and devices, built from a scenario."""

from __future__ import annotations

from typing import Any

import msgspec

from kvplan.engine.spec import EngineSpec, Offload
from kvplan.errors import InputError
from kvplan.hardware.spec import Network
from kvplan.loading import Loading, remote_path
from kvplan.memory.below import Below, below
from kvplan.memory.layout import layout
from kvplan.results.simulate import UNBOUNDED_BYTES
from kvplan.scenario import Scenario
from kvplan.sim.cache.eviction.belady import Future
from kvplan.sim.cache.eviction.policy import Facts
from kvplan.sim.cache.eviction.user_policy import maker
from kvplan.sim.cache.footprint import footprint
from kvplan.sim.cache.gpu_cache import GpuCache
from kvplan.sim.cache.pool import Pool
from kvplan.sim.cache.prefix import PrefixTree
from kvplan.sim.cache.sweep import Sweep
from kvplan.sim.cache.tier import Tier
from kvplan.sim.clock import Clock
from kvplan.sim.cluster.dispatch import Replicas
from kvplan.sim.cluster.lockstep import LockStep
from kvplan.sim.outcome.history import History, WatchedPath
from kvplan.sim.outcome.record import Recorder, TierRecord
from kvplan.sim.replica.replica import Replica
from kvplan.sim.transfer.disaggregated import Deliveries, Senders
from kvplan.sim.transfer.file_threads import FileThreads
from kvplan.sim.transfer.links import DiskQueue, Duplex, HostLink
from kvplan.sim.transfer.loads import Loads
from kvplan.sim.transfer.paths import CPU, DISK, REMOTE, DiskPath, HostPath, Path, PoolRate, RemotePath, TierBelow
from kvplan.sim.transfer.stores import Stores
from kvplan.sim.transfer.streamed import Streamed
from kvplan.sim.transfer.tally import Tally
from kvplan.sim.transfer.transfers import Transfers
from kvplan.step_time import StepCost
from kvplan.traces.trace import RequestSource


class Server:
    """A replica and what belongs to it: its GPU's tier, those below (a shared one appears in every server), and its network port."""

    __slots__ = ("replica", "gpu", "below", "port")

    def __init__(self, replica: Replica, gpu: Tier, below: tuple[TierBelow, ...] = (), port: Duplex | None = None) -> None:
        self.replica, self.gpu, self.below, self.port = replica, gpu, below, port or Duplex(1.0)

    @property
    def tiers(self) -> list[Tier]:
        """From the GPU down."""
        return [self.gpu, *(one.pool.tier for one in self.below)]


class Builder:
    """Makes servers of one scenario that share a clock, a step cost, a tally of loads, the remote pool, and host memory
    if so asked."""

    def __init__(
        self,
        clock: Clock,
        scenario: Scenario,
        trace: RequestSource,
        cost: StepCost,
        tally: Tally,
        history: History | None = None,
        *,
        senders: Senders | None = None,
    ) -> None:
        self.clock, self.scenario, self.trace, self.cost, self.tally, self.history = clock, scenario, trace, cost, tally, history
        engine, tiers = scenario.engine, scenario.tiers
        self.token_bytes = bytes_per_token(scenario)
        self.layout = layout(scenario.deployment)
        self.footprint = footprint(self.layout)
        self.pool_token_bytes = self.layout.block_bytes * self.layout.ranks * self.footprint.unit_blocks / self.footprint.unit
        self.below = blocks_below(scenario)
        self.loading, self.overhead = Loading(scenario.deployment, cost), scenario.deployment.overhead
        self.host_token_bytes = self.below.token_bytes
        self.grain = engine.offload.chunk_tokens or engine.block_tokens
        self.senders: Senders = {} if senders is None else senders
        for name, size in (("disk", tiers.disk_bytes), ("remote", tiers.remote_bytes)):
            if size and not tiers.cpu_bytes and not (name == "disk" and engine.offload.lower_direct):
                raise InputError(
                    f"a {name} tier needs a CPU tier in front of it",
                    hint=f"{engine.name} promotes through host memory: add --cpu SIZE",
                )
        engines = scenario.cluster.replicas * scenario.deployment.parallel.dp
        shared = scenario.cluster.shared_cpu and tiers.cpu_bytes
        self._shared_host = self._pool("cpu", tiers.cpu_bytes * engines) if shared else None
        self._remote = self._pool("remote", tiers.remote_bytes) if tiers.remote_bytes else None
        self._remote_rate = PoolRate(scenario.remote.total_Bps)

    @property
    def engine(self) -> EngineSpec:
        """The engine as its scheduler sees it: a step of a pipeline holds a batch for each stage, that of a rank perhaps its share."""
        engine, spread = self.scenario.engine, self.scenario.deployment.parallel
        among = spread.dp if engine.ranks_share_budget else 1
        if spread.pp == among == 1:
            return engine
        return msgspec.structs.replace(engine, step_tokens=max(1, engine.step_tokens // among) * spread.pp)

    def ranks(self, servers: list[Server]) -> list[Server]:
        """The data-parallel ranks of replicas, in order; those of a replica in lock-step where they share experts."""
        deployment = self.scenario.deployment
        for first in range(0, len(servers), deployment.parallel.dp) if deployment.in_lockstep else ():
            group = LockStep(self.clock)
            for server in servers[first : first + deployment.parallel.dp]:
                group.join(server.replica)
        return servers

    def server(self, gpu_bytes: float, recorder: Recorder, done: Any) -> Server:
        """A replica with the scenario's tiers."""
        scenario, engine = self.scenario, self.scenario.engine
        if engine.offload.streamed_share:
            return self._streamed(gpu_bytes, recorder, done)
        gpu = self._gpu(gpu_bytes)
        cache = self._cache(gpu)
        link, below = HostLink(scenario.machine.link), tuple[TierBelow, ...]()
        transfers, files = Transfers(engine.offload), None
        if scenario.tiers.cpu_bytes or scenario.tiers.disk_bytes:
            files = FileThreads(self.clock, self.overhead.disk_file_s) if self.overhead.disk_file_s and self.layout.ranks == 1 else None
            below = (*self._host(link), *self._lower(files))
            transfers = Transfers(engine.offload, *self._moving(gpu, cache, link, below), files=files)
        replica = Replica(self.clock, self.engine, self.cost, cache, transfers, recorder, jump=scenario.run.jump, done=done)
        if files is not None:
            files.begun = replica.wake
        return self._watched(Server(replica, gpu, below))

    def _moving(self, gpu: Tier, cache: GpuCache, link: HostLink, below: tuple[TierBelow, ...]) -> tuple[Stores, Loads]:
        """Stores into the first of some tiers and what is behind it, and loads from there."""
        engine, (host, *lower) = self.scenario.engine, below
        stores = Stores(
            self.clock, engine.offload, self.overhead, gpu, link, host, tuple(lower), block_tokens=engine.block_tokens, drafts=engine.drafts
        )
        return stores, Loads(self.clock, engine, self.overhead, self.loading, cache, host, tuple(lower), self.tally)

    def _host(self, link: HostLink) -> list[TierBelow]:
        """Host memory, where there is any."""
        if not self.scenario.tiers.cpu_bytes:
            return []
        return [self._host_tier(link, self._shared_host or self._pool("cpu", self.scenario.tiers.cpu_bytes))]

    def _host_tier(self, link: HostLink, pool: Pool) -> TierBelow:
        return self._tier_below(pool, HostPath(self.clock, link, self.loading, self.below), CPU)

    def behind_router(self, servers: list[Server]) -> Replicas:
        """Servers of one kind, behind the router that the scenario names."""
        settings, engine = self.scenario.cluster, self.scenario.engine
        if self.scenario.deployment.parallel.dp > 1 and settings.router == "round_robin":  # the engine's own
            settings = msgspec.structs.replace(settings, router=engine.rank_router, stale_s=settings.stale_s or engine.rank_stale_s)
        return Replicas(
            self.clock,
            settings,
            self.overhead,
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
        return self._watched(Server(replica, gpu))

    def decoder(self, gpu_bytes: float, recorder: Recorder, done: Any) -> Server:
        """A replica that only decodes: the KV of a prompt comes over the network from the one that computed it. It may have host memory of
        its own."""
        scenario, port, below = self.scenario, Duplex(1.0), tuple[TierBelow, ...]()
        host_bytes = scenario.cluster.decode_cpu_bytes
        engine = self.engine if host_bytes else msgspec.structs.replace(self.engine, offload=HANDOVER)
        gpu = self._gpu(gpu_bytes)
        cache = self._cache(gpu, finds=engine.decoder_caches)
        network = transfer_network(scenario)
        fetched = Deliveries(self.clock, self.cost, cache, network, port, self.senders, self.tally, token_bytes=self.token_bytes)
        transfers = Transfers(engine.offload, deliveries=fetched)
        if host_bytes:
            link = HostLink(scenario.machine.link)
            below = (self._host_tier(link, self._pool("cpu", host_bytes)),)
            transfers = Transfers(engine.offload, *self._moving(gpu, cache, link, below), deliveries=fetched)
        replica = Replica(self.clock, engine, self.cost, cache, transfers, recorder, jump=scenario.run.jump, done=done)
        return self._watched(Server(replica, gpu, below, port))

    def prefilling(self) -> Builder:
        """A builder of the replicas that only prefill, spread over GPUs as the scenario says."""
        spread = self.scenario.cluster.prefill_parallel
        if spread is None:
            return self
        scenario = self.scenario.changed(parallel=spread)
        return Builder(self.clock, scenario, self.trace, StepCost(scenario.deployment), self.tally, self.history, senders=self.senders)

    def _watched(self, server: Server) -> Server:
        if self.history is not None:
            server.replica.watch = self.history.watch(server.replica.scheduler, server.tiers)
        return server

    def _gpu(self, size: float) -> Tier:
        engine, unit = self.scenario.engine, self.footprint.unit
        blocks = self.layout.blocks(int(size)) - engine.null_blocks
        tokens = blocks * unit // self.footprint.unit_blocks
        return self._tier("gpu", tokens * self.pool_token_bytes, self.pool_token_bytes, engine.gpu_policy, unit)

    def _cache(self, gpu: Tier, *, finds: bool = True) -> GpuCache:
        engine = self.scenario.engine
        cache = GpuCache(
            gpu,
            self.footprint,
            prefix_caching=engine.prefix_caching and finds,
            reserve_full_prompt=engine.reserve_full_prompt,
        )
        cache.reserve_output, cache.drafts, cache.partial_reuse = engine.reserve_output > 0, engine.drafts, engine.partial_reuse
        return cache

    def _lower(self, files: FileThreads | None) -> tuple[TierBelow, ...]:
        """The tiers behind host memory; who handles a disk's files in the engine's own interpreter."""
        scenario, rules, found = self.scenario, self.scenario.engine.offload, list[TierBelow]()
        if scenario.tiers.disk_bytes:
            path = DiskPath(
                self.clock,
                DiskQueue(scenario.machine.disk),
                self.below,
                chunk_tokens=self.grain,
                rules=rules,
                byte_s=self.overhead.disk_byte_s,
                files=files,
            )
            found.append(self._tier_below(self._pool("disk", scenario.tiers.disk_bytes), path, DISK))
        if self._remote is not None:
            network, rate = remote_path(scenario.deployment), self._remote_rate
            remote = RemotePath(self.clock, network, scenario.remote, rate, self.loading, self.below, chunk_tokens=self.grain)
            found.append(self._tier_below(self._remote, remote, REMOTE))
        return tuple(found)

    def _tier_below(self, pool: Pool, path: Path, slot: int) -> TierBelow:
        if self.history is not None:
            path = WatchedPath(path, self.history, self.history.replicas, slot)
        return TierBelow(pool, path, slot)

    def _pool(self, name: str, size: float) -> Pool:
        rules, host = self.scenario.engine.offload, name == "cpu"
        policy = rules.policy if host else rules.disk_policy
        order = rules.job_order if host and policy == "lru" else "position"
        endless = name == "disk" and not self.scenario.engine.abilities.disk_bounded
        stored, counting = (rules.store, rules.store_counts) if host else (rules.lower_store, rules.lower_counts)
        pool = Pool(
            self._tier(name, UNBOUNDED_BYTES if endless else size, self.host_token_bytes, policy, self.grain),
            order=order,
            counting=counting if stored == "selective" else "",
            tick_s=0.0 if host else rules.lower_counts_tick_s,
        )
        pool.endless = endless and rules.lower_store != "on_evict"  # nothing that is evicted comes back there
        if host and rules.sweep_s:
            pool.sweep = Sweep(pool.tier, every_s=rules.sweep_s, full=rules.sweep_full, lost=rules.sweep_lost)
        return pool

    def _tier(self, name: str, size: float, token_bytes: float, policy: str, grain: int) -> Tier:
        capacity = int(size / token_bytes)
        if capacity < grain:
            raise InputError(
                f"the {name} tier of {size:,.0f} bytes holds less than one block of {grain} tokens ({grain * token_bytes:,.0f} bytes)"
            )
        tree = PrefixTree(key_tokens=self.trace.block_tokens, grain_tokens=grain)
        facts = Facts(capacity, self._recompute_s)
        facts.every_touch = self.scenario.engine.offload.arc_every_touch and name == "cpu"
        if policy == "belady":
            facts.next_use_s = Future(tree, self.trace, self.clock, self.scenario.run.speedup).next_use_s
        tier = Tier(name, tree=tree, policy=maker(policy)(facts), capacity_tokens=capacity, grain_tokens=grain, seed=self.scenario.run.seed)
        if self.scenario.engine.whole_nodes and name in ("gpu", "cpu"):
            tier.spill_tokens = self.scenario.engine.step_tokens
        return tier

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
                busy_s=max((one.path.busy_s for server in servers for one in server.below if one.pool.tier.name == name), default=0.0),
            )
        )
    return found


HANDOVER = Offload(load="whole_request", store_generated=False)
"""Rules of a replica that only decodes."""


def transfer_network(scenario: Scenario) -> Network:
    """The way from a prefill to a decode replica."""
    network = scenario.machine.network
    if network is None:
        raise InputError(f"{scenario.machine.name} has no network between prefill and decode replicas", hint="name another machine")
    return msgspec.structs.replace(network, Bps=scenario.cluster.transfer_Bps or network.Bps)


def bytes_per_token(scenario: Scenario) -> float:
    """KV bytes of one token over all layers and ranks, as the GPUs store them."""
    made = layout(scenario.deployment)
    size = sum(one.token_bytes for one in made.types) * made.ranks
    if not size:
        raise InputError(f"{scenario.model.name} keeps no KV per token: there is nothing to offload")
    return size


def blocks_below(scenario: Scenario) -> Below:
    """What the tiers below take, block by block: an engine's chunks are whole blocks."""
    engine = scenario.engine
    by_block = msgspec.structs.replace(engine, offload=msgspec.structs.replace(engine.offload, chunk_tokens=0))
    return below(scenario.deployment.changed(engine=by_block))
