"""Prefill and decode on different replicas: what was computed on one is fetched by the other over the network."""

from __future__ import annotations

from kvplan.hardware.spec import Network
from kvplan.hardware.timing import network_s
from kvplan.sim.cache.gpu_cache import GpuCache
from kvplan.sim.cache.prefix import Node
from kvplan.sim.clock import Clock, Steps
from kvplan.sim.replica.sequence import Sequence
from kvplan.sim.transfer.links import IN, OUT, Duplex
from kvplan.sim.transfer.loads import Outcome
from kvplan.sim.transfer.prefetch import Done
from kvplan.sim.transfer.tally import Tally
from kvplan.step_time import StepCost

Senders = dict[Sequence, Duplex]
"""Prompts that are computed and not yet fetched, and the network port of the replica that has them."""


class Deliveries:
    """What a replica that only decodes gets instead of loads: whole prompts of `token_bytes` a token, once each, through the port of the
    sender and its own, whatever its own host memory holds (vLLM 0.24, MultiConnector: the first connector that has tokens brings them). A
    prompt that is lost by a preemption comes from there, or is computed again."""

    def __init__(
        self,
        clock: Clock,
        cost: StepCost,
        gpu: GpuCache,
        network: Network,
        port: Duplex,
        senders: Senders,
        tally: Tally,
        *,
        token_bytes: float,
    ) -> None:
        self.clock, self.cost, self.gpu, self.tally = clock, cost, gpu, tally
        self.network, self.port, self.senders, self.token_bytes = network, port, senders, token_bytes

    def begin(self, seq: Sequence, leaf: Node, reach: int, done: Done) -> Outcome:
        """Fetch what the GPU lacks of a prompt, once there is room for it."""
        sender = self.senders.get(seq)
        if sender is None or reach >= seq.prompt:
            return Outcome.NOTHING
        if not self.gpu.hold(seq, leaf, reach, seq.prompt):
            return Outcome.NO_ROOM
        del self.senders[seq]
        seq.waiting_for_remote_kv = True
        size = self._left(seq, (seq.prompt - reach) * self.token_bytes, sender)
        start_s = max(self.clock.now, sender.free_at[OUT], self.port.free_at[IN])
        for port, direction in ((sender, OUT), (self.port, IN)):
            port.send(direction, start_s, size / self.network.Bps)
        self.clock.process(self._fetching(seq, reach, start_s + network_s(self.network, size), done))
        return Outcome.WAITS

    def _left(self, seq: Sequence, size: float, sender: Duplex) -> float:
        """Of the bytes of a prompt, those that are still to be sent when it is computed: all, or the last chunk and what the sender's port,
        once it had sent the prompts before, did not manage while the others were computed.
        """
        if self.cost.engine.hands_over == "whole":
            return size
        step, rate = self.cost.engine.step_tokens, self.network.Bps
        last = size * min(1.0, ((seq.prompt - 1) % step + 1) / seq.prompt)
        left = max(last, size - max(0.0, self.clock.now - max(seq.admit_s, sender.free_at[OUT])) * rate)
        sender.busy_s[OUT] += (size - left) / rate
        return left

    def _fetching(self, seq: Sequence, reach: int, done_s: float, done: Done) -> Steps:
        began_s = self.clock.now
        yield self.clock.until(done_s)
        seq.computed = seq.prompt
        self.gpu.share(seq)
        seq.computed = seq.prompt - 1
        seq.load_s += self.clock.now - began_s
        again_s = self.cost.prefill_s(seq.prompt - reach, reach, self.cost.engine.step_tokens)
        self.tally.weigh(seq, seq.prompt - reach, self.clock.now - began_s, again_s, done_s)
        seq.waiting_for_remote_kv = False
        done(True)
