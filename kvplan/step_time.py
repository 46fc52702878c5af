"""How long a step takes: GEMMs by shape, attention apart, decode from memory traffic; all from model x machine.

A GEMM of F FLOPs that moves B bytes takes `a + ((F/P)^q + (B/W)^q)^(1/q)`: a launch cost, and a smooth maximum of compute and weight
traffic. One curve for the whole prompt length would be wrong by a factor of two at 16k tokens when fitted below 4k, because its
quadratic term absorbs the weight-read floor. Attention of n new tokens over a context of c costs `n*c + n^2/2` score pairs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import cached_property

import msgspec

from kvplan.deployment import Deployment
from kvplan.hardware.collectives import collective_s
from kvplan.hardware.timing import elementwise_s, gemm_s, kv_read_s, pair_flops, prefill_attention_s
from kvplan.layer_work import PLAIN_LAUNCHES, PLAIN_SMALL, SANDWICH, launches
from kvplan.memory.formats import DTYPE_BYTES, state_dtype, stored_format
from kvplan.memory.kv import state_bytes, token_bytes
from kvplan.memory.weights import part_bits, peak_flops
from kvplan.model import Ffn, Layers, Part

Chunk = tuple[int, int]
"""Tokens computed in this step, and tokens of the same sequence already in the cache."""


LATENT_SEQUENCE_Bps = 1.3e12
"""Bytes per second at which decode attention reads the latents of one sequence alone (DeepSeek-V2-Lite on one H200 with vLLM 0.24: steps
of one sequence of 1k, 16k and 65k tokens; eight sequences reach the rate of the memory). Taken for other GPUs: assumed."""

UNEVEN_SHARE = 0.27
UNEVEN_TOKENS = 1500
"""How much longer decode attention takes per token when its sequences differ, and the mean shortfall behind the longest at which it is half
of that: steps of equal lengths show nothing of it (Llama-3.1-8B shape on one H200 with vLLM 0.24, 116 requests of 1k to 60k tokens under
load: intervals of every size between tokens are 4 to 13 % longer than without). The figure rests on that load, the form is assumed."""

WIDE_HEAD = 256
WIDE_HEAD_SEQUENCE_Bps = 0.3e12
"""The same for each KV head of so many elements (Gemma-3-12B on one H200 with vLLM 0.24: steps of one sequence of 16k and 65k tokens)."""

FP8_READ_RATE = 0.94
FP8_ATTENTION_RATE = 1.17
"""Of the rates with a bf16 cache, what decode attention reads of an fp8 cache, and at which prefill attention multiplies in fp8
(Llama-3.1-8B shape on one H100 with vLLM 0.24: decode steps of 1k to 65k tokens, cold prompts of 8k to 65k)."""

LATENT_PAIR_SHARE = 0.89
"""Of what a score pair with keys of 192 and values of 128 costs by `pair_flops`, what it takes in prefill (DeepSeek-V2-Lite on one H200
with vLLM 0.24: cold prompts of 16k to 112k tokens)."""

STATE_CHUNK_TOKENS = 64
"""Tokens after which a chunked scan of a recurrent layer writes its state and reads it again: the usual chunk of such kernels, assumed."""


class StepCost:
    """Step times of one replica: `tp` tensor-parallel ranks of `machine`'s GPU, each holding 1/tp of the weights."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment, self.tp = deployment, deployment.tp
        self.model, self.machine, self.engine = deployment.model, deployment.machine, deployment.engine
        self.overhead = deployment.overhead
        self.activation_bytes = DTYPE_BYTES[self.model.dtype]
        self.bits = part_bits(self.model, deployment.dtype)
        self.kv_format = stored_format(deployment)
        self.launches = launches(self.model, self.tp)
        # what lasts under power: as measured on the machine, else as on the one that the engine was measured on
        self.kernel_share = min(self.engine.kernel_share, self.machine.gpu.sustained_fraction)
        self.overhead = deployment.overhead
        self._gemm_cache: dict[int, float] = {}
        self._head_cache: dict[int, float] = {0: 0.0}
        self._even_rates: dict[int, list[float]] = {}  # of decoding, by the number of sequences
        self._peaks: dict[Part, float] = {}

    # -- GEMMs -------------------------------------------------------------------------------------------------------------

    def _peak_flops(self, part: Part) -> float:
        found = self._peaks.get(part)
        if found is None:
            found = self._peaks[part] = peak_flops(self.deployment, part)
        return found

    def _roofline(self, flops: float, size: float, part: Part) -> float:
        peak = self._peak_flops(part)
        return gemm_s(self.machine.gpu, flops, size, peak_flops=peak, kernel_share=self.kernel_share)

    def _weight_bytes(self, part: Part) -> float:
        """Bytes of one weight of a part of the model, scales included."""
        return self.bits[part] / 8

    def _gemm(self, tokens: int, inputs: float, outputs: float, part: Part) -> float:
        """Seconds of one dense GEMM [tokens, inputs] x [inputs, outputs] on one rank."""
        size = inputs * outputs * self._weight_bytes(part) + tokens * (inputs + outputs) * self.activation_bytes
        return self._roofline(2.0 * tokens * inputs * outputs, size, part)

    def _grouped(self, routed: float, active: float, inputs: float, outputs: float) -> float:
        """Seconds of one product of each of `active` experts with its share of `routed` tokens, in one kernel.

        It streams the experts' weights as attention does the KV cache, at more than a small matrix reaches; where it is bound by compute
        it reaches a share of a plain product's rate.
        """
        gpu = self.machine.gpu
        size = active * inputs * outputs * self._weight_bytes("experts") + routed * (inputs + outputs) * self.activation_bytes
        peak = self._peak_flops("experts")
        streamed = msgspec.structs.replace(gpu, weight_read_efficiency=gpu.kv_read_efficiency)
        return gemm_s(
            streamed, 2.0 * routed * inputs * outputs, size, peak_flops=peak, kernel_share=self.kernel_share * self.engine.expert_share
        )

    def _mixer_gemms(self, group: Layers, tokens: int) -> float:
        """Projections into and out of one token mixer (attention or state)."""
        if not group.params:
            return 0.0
        hidden = self.model.hidden
        out = group.query_heads * (group.v_dim or group.k_dim) or hidden
        shared = group.replicated_params
        inner = max(0.0, (group.params - shared - out * hidden) / self.tp + shared) / hidden
        time = self._gemm(tokens, hidden, inner, "attention") + self._gemm(tokens, out / self.tp, hidden, "attention")
        # a latent is projected down beside the queries, and up by products of their own
        return time + (3 * self.machine.gpu.gemm_overhead_s if group.kind == "latent" else 0.0)

    def _ffn_gemms(self, group: Ffn, tokens: int) -> float:
        hidden, width, tp = self.model.hidden, group.width / self.tp, self.tp
        into = group.matrices - 1
        if not group.experts:
            return self._gemm(tokens, hidden, into * width, "dense") + self._gemm(tokens, width, hidden, "dense")
        inner = group.inner_hidden or hidden
        active = group.experts * (1 - (1 - group.experts_per_token / group.experts) ** tokens)
        routed = tokens * group.experts_per_token
        time = self._gemm(tokens, hidden, group.experts, "router")
        time += self._grouped(routed, active, inner, into * width) + self._grouped(routed, active, width, inner)
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
            found += self.launches.small / PLAIN_SMALL * gpu.layer_overhead_s + self.model.depth * self._collective_s(tokens)
            found += elementwise_s(gpu, tokens * self._elementwise_bytes + self._state_bytes * tokens / STATE_CHUNK_TOKENS)
            self._gemm_cache[tokens] = found
        return found

    @cached_property
    def _elementwise_bytes(self) -> float:
        """Bytes per token that norms, residuals, rotary and gates move in all layers on one rank, each kernel reading and writing once.

        Two fused add-and-norms of four hidden rows each, rotary on Q and K and the KV write of about three and a half, the gate of
        two inputs and one output of the feed-forward width, and what the experts of a token give, added up.
        """
        hidden_rows = 8.0 + 3.5 / self.tp
        if self.model.family.startswith(SANDWICH):
            hidden_rows += 4.0  # two norms more, each reads and writes a row
        gates = sum(group.count * 3 * (group.width * max(1, group.experts_per_token) + group.shared_width) for group in self.model.ffn)
        sums = sum(
            group.count * (group.experts_per_token + 2) * (group.inner_hidden or self.model.hidden)
            for group in self.model.ffn
            if group.experts
        )
        return (self.model.depth * hidden_rows * self.model.hidden + sums + gates / self.tp) * self.activation_bytes

    @cached_property
    def _state_bytes(self) -> float:
        """Bytes of all recurrent states of one sequence on one rank, read and written once."""
        default = state_dtype(self.model, self.engine)
        return 2.0 * sum(group.count * state_bytes(group, self.model.dtype, self.tp, default) for group in self.model.layers)

    def _collective_s(self, tokens: int) -> float:
        """Two all-reduces of the hidden state in a layer, by the engine's own kernels."""
        size = tokens * self.model.hidden * self.activation_bytes
        least_s = self.machine.gpu.layer_overhead_s / PLAIN_SMALL
        return 2 * collective_s(self.machine.interconnect, "all_reduce", self.tp, size, library="engine", least_s=least_s)

    def head_s(self, sequences: int) -> float:
        """Seconds of the output head for the sequences that sample a token."""
        found = self._head_cache.get(sequences)
        if found is None:
            found = self._head_cache[sequences] = self._gemm(sequences, self.model.hidden, self.model.vocab / self.tp, "head")
        return found

    # -- attention ---------------------------------------------------------------------------------------------------------

    @cached_property
    def _attention_groups(self) -> list[tuple[float, int]]:
        """(FLOPs per score pair over all layers of the group on one rank, window) of every group with scores."""
        return [(group.count * self._pair_flops(group), group.window_tokens) for group in self._scoring]

    @property
    def _scoring(self) -> list[Layers]:
        return [group for group in self.model.layers if group.kind not in ("state", "none") and group.query_heads]

    def _pair_flops(self, group: Layers) -> float:
        """FLOPs of one score pair over the heads of one layer on one rank."""
        share = LATENT_PAIR_SHARE if group.kind == "latent" else 1.0
        return share * pair_flops(group.k_dim, group.v_dim or group.k_dim) * group.query_heads / self.tp

    def prefill_attention_s(self, new: int, context: int) -> float:
        """Seconds of attention, all layers, for `new` tokens of one sequence after `context` cached ones.

        Few new tokens meet a latent as it is stored; more of them meet its keys and values, to which the cached part is expanded again.
        """
        gpu, absorbed = self.machine.gpu, new <= self.engine.absorbed_tokens
        groups = self._absorbed_groups if absorbed else self._attention_groups
        share = self.kernel_share * (FP8_ATTENTION_RATE if self._fp8_attention else 1.0)
        time = prefill_attention_s(gpu, new, context, groups, kernel_share=share)
        return time if absorbed or not context else time + self._expanded_s(context)

    @property
    def _fp8_attention(self) -> bool:
        return self.kv_format.element_bits == 8 and self.machine.gpu.fp8_flops > 0

    @cached_property
    def _absorbed_groups(self) -> list[tuple[float, int]]:
        """The same with latents read as they are stored: a score pair multiplies with the latent and with its part without rotary."""
        found = []
        for group in self._scoring:
            per_pair = self._pair_flops(group)
            if group.kind == "latent":
                rotary = max(0, group.k_dim - group.v_dim)
                per_pair = 2.0 * (2 * group.latent_dim - rotary) * group.query_heads / self.tp
            found.append((group.count * per_pair, group.window_tokens))
        return found

    def _expanded_s(self, context: int) -> float:
        """Seconds in which the keys and values of `context` latents are made again: one product a layer, which writes them, and the rotary
        part joined to each head's key.
        """
        total = 0.0
        for group in self.model.layers:
            if group.kind == "latent" and group.up_params:
                up = group.up_params / self.tp
                rows = group.query_heads / self.tp * (group.v_dim + 3 * group.k_dim) * self.activation_bytes
                product_s = self._roofline(2.0 * context * up, up * self._weight_bytes("attention"), "attention")
                total += group.count * (product_s + elementwise_s(self.machine.gpu, context * rows))
        return total

    @cached_property
    def decode_rates(self) -> list[tuple[float, int]]:
        """(seconds per cached token of one decoding sequence, window) by group: its KV bytes over the rate that attention reads them."""
        found: dict[int, float] = {}
        for group in self.model.layers:
            size = group.count * token_bytes(group, self.kv_format, self.tp)
            if size:
                narrow = FP8_READ_RATE if self._fp8_attention and group.kind != "latent" else 1.0
                found[group.window_tokens] = found.get(group.window_tokens, 0.0) + kv_read_s(self.machine.gpu, size) / narrow
        return [(rate, window) for window, rate in found.items()]

    def decode_rates_of(self, decodes: int, uneven: Iterable[int]) -> list[float]:
        """Seconds per cached token, for each of `decode_rates`, in a batch of so many sequences, which fall short by `uneven` tokens
        together of all being as long as the longest (0 for windows).

        Few sequences do not keep all of the GPU busy reading wide heads, or a latent, which is one head; of sequences that differ, the
        longest keep a part of it busy.
        """
        count = max(1, decodes)
        rates = self._even_rates.get(count)
        if rates is None:
            least = self._sequence_rate / count
            rates = self._even_rates[count] = [rate if window else max(rate, least) for rate, window in self.decode_rates]
        return [rate * (1 + UNEVEN_SHARE * short / (short + UNEVEN_TOKENS * count)) for rate, short in zip(rates, uneven, strict=True)]

    @cached_property
    def _sequence_rate(self) -> float:
        """Seconds per cached token that one sequence alone takes at least."""
        return sum(
            group.count * token_bytes(group, self.kv_format, self.tp) / self._sequence_Bps(group)
            for group in self.model.layers
            if not group.window_tokens
        )

    def _sequence_Bps(self, group: Layers) -> float:
        if group.kind == "latent":
            return LATENT_SEQUENCE_Bps
        return WIDE_HEAD_SEQUENCE_Bps * max(1, group.kv_heads // self.tp) if group.k_dim >= WIDE_HEAD else math.inf

    @cached_property
    def decode_floor_s(self) -> float:
        """Seconds of decode attention that do not depend on the batch: launches of every layer, and of one that narrows queries."""
        gpu = self.machine.gpu
        attending = sum(group.count for group in self.model.layers if group.kind not in ("state", "none"))
        return attending * (gpu.attention_overhead_s + (gpu.layer_overhead_s / PLAIN_SMALL if self._fp8_attention else 0.0))

    def decode_attention_s(self, contexts: Iterable[int]) -> float:
        """Seconds of one decode step's attention over sequences of the given context lengths."""
        known = list(contexts)
        tokens = [sum(min(context, window) if window else context for context in known) for _, window in self.decode_rates]
        longest = max(known, default=0)
        uneven = [0 if window else longest * len(known) - sum(known) for _, window in self.decode_rates]
        return self.decode_attention_of_s(tokens, uneven, len(known))

    def decode_attention_of_s(self, tokens: Iterable[int], uneven: Iterable[int], decodes: int) -> float:
        """The same from the tokens that all sequences read together, for each of `decode_rates`, and their recurrent states; `uneven` are
        the tokens by which the sequences fall short of all being as long as the longest, 0 for windows.
        """
        reading = sum(rate * count for rate, count in zip(self.decode_rates_of(decodes, uneven), tokens, strict=True))
        return self.decode_floor_s + reading + kv_read_s(self.machine.gpu, decodes * self._state_bytes)

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
        if decodes + sum(new for new, _ in chunks) <= overhead.captured_tokens:
            launch_s = self.model.depth * overhead.launch_layer_s
        else:
            launch_s = self.launches.host / PLAIN_LAUNCHES * overhead.launch_layer_eager_s
        return overhead.prepare_s + launch_s + (overhead.offload_step_s if self.deployment.tiers.cpu_bytes else 0.0)

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
