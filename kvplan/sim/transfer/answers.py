"""How long a request waits until the scheduler knows what the tiers below have of it."""

from __future__ import annotations

from kvplan.engine.spec import EngineSpec, Overhead
from kvplan.sim.clock import Clock
from kvplan.sim.replica.sequence import Sequence
from kvplan.sim.transfer.prefetch import Done


class Answers:
    """Of one replica: asked for chunk by chunk where there are lower tiers (`probe_s`), or by messages that are looked for once a
    scheduling pass (`lookup_passes`), or known at once."""

    def __init__(self, clock: Clock, engine: EngineSpec, overhead: Overhead, *, lower: bool) -> None:
        self.clock, self.overhead = clock, overhead
        self.chunk_tokens = engine.offload.chunk_tokens or engine.block_tokens
        self.probe_s = overhead.probe_s if lower else 0.0
        self.passes = engine.offload.lookup_passes
        self._probed_s = 0.0  # when lower tiers have been asked for all chunks so far

    def wait(self, seq: Sequence, held: int, busy_until_s: float, done: Done) -> bool:
        """Does a request wait, of whose prompt host memory has `held` tokens; `done` is called when it should ask again."""
        if seq.passes < self.passes:
            seq.passes += 1
            if busy_until_s <= self.clock.now:  # nothing runs that would bring the next pass
                self.clock.after(self.overhead.empty_pass_s, lambda: done(False))
            return True
        if self.probe_s and not seq.probed:
            self._probe(seq, held, done)
            return True
        return False

    def _probe(self, seq: Sequence, held: int, done: Done) -> None:
        """Lower tiers are asked for every chunk behind a host-memory hit; the answer comes when all before have been asked for."""
        seq.probed = seq.waiting_for_remote_kv = True
        chunks = max(1, (seq.prompt - held) // self.chunk_tokens)
        self._probed_s = max(self.clock.now, self._probed_s) + chunks * self.probe_s

        def answered() -> None:
            seq.waiting_for_remote_kv = False
            done(False)

        self.clock.at(self._probed_s, answered)
