"""From the front end to a replica, and from a replica that prefills to one that decodes."""

from __future__ import annotations

from collections.abc import Sequence as Listing
from functools import partial

from kvplan.engine.spec import Overhead
from kvplan.errors import InputError, did_you_mean
from kvplan.scenario import Cluster
from kvplan.sim.clock import Clock
from kvplan.sim.cluster.front_end import Stage
from kvplan.sim.cluster.router import ROUTERS, Fleet, Router
from kvplan.sim.replica.replica import Replica
from kvplan.sim.replica.sequence import Sequence
from kvplan.sim.transfer.disaggregated import Senders
from kvplan.sim.transfer.links import Duplex


class Replicas:
    """Replicas of one kind behind a router, each with an input thread in front of its scheduler.

    `cache_tokens` is what the caches of one replica can hold.
    """

    def __init__(
        self, clock: Clock, settings: Cluster, overhead: Overhead, replicas: Listing[Replica], *, key_tokens: int, cache_tokens: int
    ) -> None:
        if settings.router not in ROUTERS:
            raise InputError(f"no router named {settings.router!r}", hint=did_you_mean(settings.router, ROUTERS))
        self._overhead, self._replicas = overhead, replicas
        self._inputs = [Stage(clock) for _ in replicas]
        self._entering = [0] * len(replicas)
        self._router: Router | None = None
        if len(replicas) > 1:
            fleet = Fleet(
                clock,
                lambda: [replica.load + entering for replica, entering in zip(replicas, self._entering, strict=True)],
                replicas=len(replicas),
                key_tokens=key_tokens,
                cache_tokens=cache_tokens,
                stale_s=settings.stale_s,
            )
            self._router = ROUTERS[settings.router](fleet)

    def submit(self, job: Sequence) -> None:
        """To the replica that the router chooses."""
        place = self._router.choose(job.request) if self._router is not None else 0
        self._entering[place] += 1
        overhead = self._overhead
        seconds = overhead.input_s + overhead.input_token_s * job.prompt
        self._inputs[place].after(seconds, partial(self._enter, place, job), latency_s=overhead.transit_s)

    def _enter(self, place: int, job: Sequence) -> None:
        self._entering[place] -= 1
        self._replicas[place].submit(job)


class Dispatch:
    """Requests go to a replica of `serving`; with `prefilling`, to one of those first, which then hands them over."""

    def __init__(self, serving: Replicas, prefilling: Replicas | None, senders: Senders) -> None:
        self._serving, self._prefilling, self._senders = serving, prefilling, senders

    def submit(self, job: Sequence) -> None:
        """A request leaves the front end."""
        if self._prefilling is None:
            self._serving.submit(job)
            return
        first = Sequence(job.request, 1, job.enter_s)
        first.whole = job
        self._prefilling.submit(first)

    def hand_over(self, first: Sequence, port: Duplex) -> None:
        """A prompt is computed, on the replica with this network port: the request goes on where it is decoded."""
        job = first.whole
        assert job is not None
        job.hits, job.counted = first.hits, True
        self._senders[job] = port
        job.admit_s, job.load_s, job.weighed_s = first.admit_s, first.load_s, first.load_s
        self._serving.submit(job)
