"""How long a step takes: GEMMs by shape, attention apart, decode from memory traffic; all from model x machine.

A GEMM of F FLOPs that moves B bytes takes `a + ((F/P)^q + (B/W)^q)^(1/q)`: a launch cost, and a smooth maximum of compute and weight
traffic. One curve for the whole prompt length would be wrong by a factor of two at 16k tokens when fitted below 4k, because its
quadratic term absorbs the weight-read floor. Attention of n new tokens over a context of c costs `n*c + n^2/2` score pairs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property

from kvplan.deployment import Deployment
from kvplan.hardware.timing import all_reduce_s, elementwise_s, gemm_s, kv_read_s, pair_flops, prefill_attention_s
from kvplan.memory.formats import DTYPE_BYTES, stored_format
from kvplan.memory.kv import token_bytes
from kvplan.memory.weights import part_bits, peak_flops
from kvplan.model import Ffn, Layers, Part

Chunk = tuple[int, int]
"""Tokens computed in this step, and tokens of the same sequence already in the cache."""


class StepCost:
    """Step times of one replica: `tp` tensor-parallel ranks of `machine`'s GPU, each holding 1/tp of the weights."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment, self.tp = deployment, deployment.tp
        self.model, self.machine, self.engine = deployment.model, deployment.machine, deployment.engine
        self.overhead = deployment.overhead
        self.activation_bytes = DTYPE_BYTES[self.model.dtype]
        self.bits = part_bits(self.model, deployment.dtype)
        self.kv_format = stored_format(deployment)
        self._gemm_cache: dict[int, float] = {}

    # -- GEMMs -------------------------------------------------------------------------------------------------------------

    def _roofline(self, flops: float, size: float, part: Part) -> float:
        peak = peak_flops(self.deployment, part)
        return gemm_s(self.machine.gpu, flops, size, peak_flops=peak, kernel_share=self.engine.kernel_share)

    def _weight_bytes(self, part: Part) -> float:
        """Bytes of one weight of a part of the model, scales included."""
        return self.bits[part] / 8

    def _gemm(self, tokens: int, inputs: float, outputs: float, part: Part) -> float:
        """Seconds of one dense GEMM [tokens, inputs] x [inputs, outputs] on one rank."""
        size = inputs * outputs * self._weight_bytes(part) + tokens * (inputs + outputs) * self.activation_bytes
        return self._roofline(2.0 * tokens * inputs * outputs, size, part)

    def _mixer_gemms(self, group: Layers, tokens: int) -> float:
        """Projections into and out of one token mixer (attention or state)."""
        if not group.params:
            return 0.0
        hidden = self.model.hidden
        out = group.query_heads * (group.v_dim or group.k_dim) or hidden
        shared = group.replicated_params
        inner = max(0.0, (group.params - shared - out * hidden) / self.tp + shared) / hidden
        return self._gemm(tokens, hidden, inner, "attention") + self._gemm(tokens, out / self.tp, hidden, "attention")

    def _ffn_gemms(self, group: Ffn, tokens: int) -> float:
        hidden, width, tp = self.model.hidden, group.width / self.tp, self.tp
        into = group.matrices - 1
        if not group.experts:
            return self._gemm(tokens, hidden, into * width, "dense") + self._gemm(tokens, width, hidden, "dense")
        inner = group.inner_hidden or hidden
        active = group.experts * (1 - (1 - group.experts_per_token / group.experts) ** tokens)
        routed = tokens * group.experts_per_token
        weights = group.matrices * inner * width
        size = active * weights * self._weight_bytes("experts") + routed * (inner + width) * 2 * self.activation_bytes
        time = self._roofline(2.0 * routed * weights, size, "experts")
        if group.shared_width:
            shared = group.shared_width / tp
            time += self._gemm(tokens, hidden, into * shared, "shared_experts") + self._gemm(tokens, shared, hidden, "shared_experts")
        return time

    def gemms_s(self, tokens: int) -> float:
        """Seconds of all layers' GEMMs, element-wise work and collectives for `tokens` tokens (without the output head)."""
        found = self._gemm_cache.get(tokens)
        if found is None:
            gpu = self.machine.gpu
            found = sum(group.count * self._mixer_gemms(group, tokens) for group in self.model.layers)
            found += sum(group.count * self._ffn_gemms(group, tokens) for group in self.model.ffn)
            found += self.model.depth * (gpu.layer_overhead_s + self._collective_s(tokens))
            found += elementwise_s(gpu, tokens * self._elementwise_bytes)
            self._gemm_cache[tokens] = found
        return found

    @cached_property
    def _elementwise_bytes(self) -> float:
        """Bytes per token that norms, residuals, rotary and gates move in all layers on one rank, each kernel reading and writing once.

        Two fused add-and-norms of four hidden rows each, rotary on Q and K and the KV write of about three and a half, and the gate of
        two inputs and one output of the feed-forward width.
        """
        hidden_rows = 8.0 + 3.5 / self.tp
        gates = sum(group.count * 3 * (group.width * max(1, group.experts_per_token) + group.shared_width) for group in self.model.ffn)
        return (self.model.depth * hidden_rows * self.model.hidden + gates / self.tp) * self.activation_bytes

    def _collective_s(self, tokens: int) -> float:
        """Two ring all-reduces of the hidden state per layer."""
        link = self.machine.interconnect
        if link is None:
            return 0.0
        return 2 * all_reduce_s(link, self.tp, tokens * self.model.hidden * 2)

    def head_s(self, sequences: int) -> float:
        """Seconds of the output head for the sequences that sample a token."""
        return self._gemm(sequences, self.model.hidden, self.model.vocab / self.tp, "head") if sequences else 0.0

    # -- attention ---------------------------------------------------------------------------------------------------------

    @cached_property
    def _attention_groups(self) -> list[tuple[float, int]]:
        """(FLOPs per score pair over all layers of the group on one rank, window) of every group with scores."""
        found: list[tuple[float, int]] = []
        for group in self.model.layers:
            if group.kind in ("state", "none") or not group.query_heads:
                continue
            v_dim = group.v_dim or group.k_dim
            per_pair = pair_flops(group.k_dim, v_dim) * group.query_heads / self.tp
            found.append((group.count * per_pair, group.window_tokens))
        return found

    def prefill_attention_s(self, new: int, context: int) -> float:
        """Seconds of attention, all layers, for `new` tokens of one sequence after `context` cached ones."""
        return prefill_attention_s(self.machine.gpu, new, context, self._attention_groups, kernel_share=self.engine.kernel_share)

    @cached_property
    def decode_rates(self) -> list[tuple[float, int]]:
        """(seconds per cached token of one decoding sequence, window) by group: its KV bytes over the rate that attention reads them."""
        found: dict[int, float] = {}
        for group in self.model.layers:
            size = group.count * token_bytes(group, self.kv_format, self.tp)
            if size:
                found[group.window_tokens] = found.get(group.window_tokens, 0.0) + kv_read_s(self.machine.gpu, size)
        return [(rate, window) for window, rate in found.items()]

    @cached_property
    def decode_floor_s(self) -> float:
        """Seconds of decode attention that do not depend on the batch: launches of every layer."""
        return self.model.depth * self.machine.gpu.attention_overhead_s

    def decode_attention_s(self, contexts: Iterable[int]) -> float:
        """Seconds of one decode step's attention over sequences of the given context lengths."""
        known = list(contexts)
        return self.decode_attention_of_s(
            [sum(min(context, window) if window else context for context in known) for _, window in self.decode_rates]
        )

    def decode_attention_of_s(self, tokens: Iterable[int]) -> float:
        """The same from the tokens that all sequences read together, for each of `decode_rates`."""
        return self.decode_floor_s + sum(rate * count for (rate, _), count in zip(self.decode_rates, tokens, strict=True))

    # -- steps -------------------------------------------------------------------------------------------------------------

    def step_s(self, chunks: Sequence[Chunk], decodes: int, decode_attention_s: float, sampled: int) -> float:
        """Seconds of one step on its own: its GPU work, or the host's launches when these take longer."""
        return max(self.host_s(chunks, decodes), self.busy_s(chunks, decodes, decode_attention_s, sampled))

    def host_s(self, chunks: Sequence[Chunk], decodes: int) -> float:
        """Least seconds of a step: the host prepares and launches it, and collects the one before.

        Decode steps are captured in CUDA graphs, prefill up to `captured_tokens` piece by piece, larger steps not.
        """
        overhead = self.overhead
        if not chunks:
            return max(overhead.step_s, overhead.collect_s)
        captured = decodes + sum(new for new, _ in chunks) <= overhead.captured_tokens
        layer_s = overhead.launch_layer_s if captured else overhead.launch_layer_eager_s
        return overhead.prepare_s + self.model.depth * layer_s

    def busy_s(self, chunks: Sequence[Chunk], decodes: int, decode_attention_s: float, sampled: int) -> float:
        """Seconds of one step's GPU work, prefill chunks and decoding sequences together, and of the gap before the next.

        `decode_attention_s` is the attention time of the decoding part (kept up to date by the caller), `sampled` how many
        sequences get a token out of this step.
        """
        tokens = decodes + sum(new for new, _ in chunks)
        attention = sum(self.prefill_attention_s(new, context) for new, context in chunks)
        if decodes:
            attention += decode_attention_s  # with its launches, which chunks in the same step share: one call a layer for all sequences
        elif chunks:
            attention += self.decode_floor_s
        overhead = self.overhead
        return self.gemms_s(tokens) + attention + self.head_s(sampled) + overhead.gap_s + overhead.step_sequence_s * sampled

    def prefill_s(self, new: int, context: int, step_tokens: int) -> float:
        """GPU seconds to compute `new` tokens of one sequence after `context` cached ones, in steps of at most `step_tokens`."""
        total = 0.0
        while new > 0:
            chunk = min(new, step_tokens)
            total += self.step_s([(chunk, context)], 0, 0.0, 1 if chunk == new else 0)
            context += chunk
            new -= chunk
        return total
