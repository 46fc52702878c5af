"""How long a step takes: GEMMs by shape, attention apart, decode from memory traffic; all from model x machine.

A GEMM of F FLOPs that moves B bytes takes `a + ((F/P)^q + (B/W)^q)^(1/q)`: a launch cost, and a smooth maximum of compute and weight
traffic. One curve for the whole prompt length would be wrong by a factor of two at 16k tokens when fitted below 4k, because its
quadratic term absorbs the weight-read floor. Attention of n new tokens over a context of c costs `n*c + n^2/2` score pairs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property

import msgspec

from kvplan import kernel_rates
from kvplan.deployment import Deployment
from kvplan.hardware.timing import elementwise_s, gemm_s, kv_read_s
from kvplan.host_time import Chunk, HostTime
from kvplan.layer_work import PLAIN_SMALL, Launches, compressed_queries, elementwise_bytes, launches, narrowed_inputs
from kvplan.memory.formats import DTYPE_BYTES, state_dtype, stored_format
from kvplan.memory.kv import state_bytes, token_bytes
from kvplan.memory.weights import part_bits, peak_flops, widened
from kvplan.model import Ffn, Layers, Part
from kvplan.prefill_attention import PrefillAttention
from kvplan.spread_time import exchanged_layers_s, experts_on_rank, handed_over_s, joint_tokens, passes, reduced_layers_s

PARTS: tuple[Part, ...] = ("attention", "dense", "router", "experts", "shared_experts", "head")
"""Parts of a model that are matrices."""

MULTIPLIED: tuple[Part, ...] = ("attention", "dense", "experts", "shared_experts")
"""Parts of a model whose products may be in a narrow dtype."""


class StepCost:
    """Step times of one replica: `tp` tensor-parallel ranks of `machine`'s GPU, each holding 1/tp of the weights."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment, self.tp = deployment, deployment.tp
        self.model, self.machine, self.engine = deployment.model, deployment.machine, deployment.engine
        self.overhead = deployment.overhead
        self.activation_bytes = DTYPE_BYTES[self.model.dtype]
        bits, self.kv_format = part_bits(self.model, deployment.dtype), stored_format(deployment)
        self.launches = launches(self.model, self.tp)
        self.host = HostTime(deployment)
        # what lasts under power: as measured on the machine, else as on the one that the engine was measured on
        self.kernel_share = min(self.engine.kernel_share, self.machine.gpu.sustained_fraction)
        self.spread, self._stages = deployment.parallel, deployment.parallel.pp
        self.elementwise_bytes = elementwise_bytes(self.model, self.tp, self.activation_bytes)
        self._in_lockstep, self._row_bytes = deployment.in_lockstep, self.model.hidden * self.activation_bytes
        self._gemm_cache, self._together_cache = dict[int, float](), dict[tuple[int, bool], float]()
        self._head_cache: dict[int, float] = {0: 0.0}
        self._whole_steps: dict[tuple[int, int], float] = {}  # of one sequence's prompt, by tokens and context
        self._decode_parts: dict[tuple[int, int], tuple[float, float, float, float, float]] = {}  # of steps that only decode
        self._even_rates: dict[int, tuple[list[float], float, float]] = {}  # of decoding, by the number of sequences
        self._peaks: dict[Part, float] = {part: peak_flops(deployment, part) for part in PARTS}
        self._weight_bytes: dict[Part, float] = {part: bits[part] / 8 for part in PARTS}  # of one weight, scales included
        narrow = [part for part in MULTIPLIED if self._peaks[part] > self.machine.gpu.bf16_flops]
        self._widened = widened(deployment, "experts")
        self._narrow = self.kv_format.element_bits == 8 and self.machine.gpu.fp8_flops > 0  # is attention computed in fp8
        self.attention = PrefillAttention(deployment, kernel_share=self.kernel_share, narrow=self._narrow, product_s=self._expansion_s)
        self.launches += Launches(small=narrowed_inputs(self.model, narrow))

    # -- GEMMs -------------------------------------------------------------------------------------------------------------

    def _product_s(self, flops: float, size: float, part: Part) -> float:
        return gemm_s(self.machine.gpu, flops, size, peak_flops=self._peaks[part], kernel_share=self.kernel_share)

    def _expansion_s(self, flops: float, weights: float) -> float:
        """Seconds of one product with so many weights of the attention part."""
        return self._product_s(flops, weights * self._weight_bytes["attention"], "attention")

    def _gemm(self, tokens: int, inputs: float, outputs: float, part: Part) -> float:
        """Seconds of one dense GEMM [tokens, inputs] x [inputs, outputs] on one rank."""
        size = inputs * outputs * self._weight_bytes[part] + tokens * (inputs + outputs) * self.activation_bytes
        return self._product_s(2.0 * tokens * inputs * outputs, size, part)

    def _grouped(self, routed: float, active: float, inputs: float, outputs: float) -> float:
        """Seconds of one product of each of `active` experts with its share of `routed` tokens, in one kernel.

        It streams the experts' weights as attention does the KV cache, at more than a small matrix reaches; where it is bound by compute
        it reaches a share of a plain product's rate.
        """
        gpu = self.machine.gpu
        size = active * inputs * outputs * self._weight_bytes["experts"] + routed * (inputs + outputs) * self.activation_bytes
        read_rate, share = kernel_rates.EXPERT_READ_RATE * gpu.kv_read_efficiency, self.kernel_share * self.engine.expert_share
        if self._widened:
            read_rate, share = read_rate * kernel_rates.MXFP4_READ_RATE, share * kernel_rates.MXFP4_PRODUCT_RATE
            routed += min(active * kernel_rates.MXFP4_TILE_ROWS, routed) / 2
        streamed = msgspec.structs.replace(gpu, weight_read_efficiency=read_rate)
        return gemm_s(streamed, 2.0 * routed * inputs * outputs, size, peak_flops=self._peaks["experts"], kernel_share=share)

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
        more = 3 + compressed_queries(group, hidden) if group.kind == "latent" else 0
        return time + more * self.machine.gpu.gemm_overhead_s

    def _ffn_gemms(self, group: Ffn, tokens: int, routed_s: float) -> float:
        """The feed-forward part of one layer, whose routed experts take `routed_s`."""
        hidden, width, tp, into = self.model.hidden, group.width / self.tp, self.tp, group.matrices - 1
        if not group.experts:
            return self._gemm(tokens, hidden, into * width, "dense") + self._gemm(tokens, width, hidden, "dense")
        time = self._gemm(tokens, hidden, group.experts, "router") + routed_s
        if group.shared_width:
            shared = group.shared_width / tp
            time += self._gemm(tokens, hidden, into * shared, "shared_experts") + self._gemm(tokens, shared, hidden, "shared_experts")
        return time

    def _routed_s(self, group: Ffn, tokens: int) -> float:
        """Seconds of the routed experts of one layer, on the rank that has most of `tokens`."""
        if not group.experts or not tokens:
            return 0.0
        held = experts_on_rank(self.deployment, group.experts)
        inner, width, into = group.inner_hidden or self.model.hidden, group.width * held.width_share, group.matrices - 1
        active = held.active(group.experts_per_token / group.experts, tokens)
        routed = held.routed(tokens * group.experts_per_token)
        return self._grouped(routed, active, inner, into * width) + self._grouped(routed, active, width, inner)

    def gemms_s(self, tokens: int, together_s: float = 0.0) -> float:
        """Seconds of all layers' GEMMs, element-wise work and collectives for `tokens` tokens (without the output head). What ranks in
        lock-step do together is `together_s`, for their tokens taken together.
        """
        found = self._gemm_cache.get(tokens)
        if found is None:
            gpu, routed = self.machine.gpu, 0 if self._in_lockstep else tokens
            found = sum(group.count * self._mixer_gemms(group, tokens) for group in self.model.layers)
            found += sum(group.count * self._ffn_gemms(group, tokens, self._routed_s(group, routed)) for group in self.model.ffn)
            found += self.launches.small / PLAIN_SMALL * gpu.layer_overhead_s
            found += reduced_layers_s(self.deployment, tokens * self._row_bytes, least_s=gpu.layer_overhead_s / PLAIN_SMALL)
            found += elementwise_s(gpu, tokens * self.elementwise_bytes + self._state_bytes * tokens / kernel_rates.STATE_CHUNK_TOKENS)
            self._gemm_cache[tokens] = found
        return found + together_s

    def together_s(self, joint: int, *, captured: bool) -> float:
        """Seconds of what data-parallel ranks in lock-step do together in all layers: bring `joint` tokens of all of them to the experts
        and back, in a CUDA graph or not, and these compute; 0 for others.
        """
        if not self._in_lockstep:
            return 0.0
        found = self._together_cache.get((joint, captured))
        if found is None:
            found = sum(group.count * self._routed_s(group, joint) for group in self.model.ffn)
            least_s = self.machine.gpu.layer_overhead_s / PLAIN_SMALL
            found += exchanged_layers_s(self.deployment, joint, captured=captured, row_bytes=self._row_bytes, least_s=least_s)
            self._together_cache[joint, captured] = found
        return found

    @cached_property
    def _state_bytes(self) -> float:
        """Bytes of all recurrent states of one sequence on one rank, read and written once."""
        default = state_dtype(self.model, self.engine)
        return 2.0 * sum(group.count * state_bytes(group, self.model.dtype, self.tp, default) for group in self.model.layers)

    def head_s(self, sequences: int) -> float:
        """Seconds of the output head for the sequences that sample a token."""
        found = self._head_cache.get(sequences)
        if found is None:
            found = self._head_cache[sequences] = self._gemm(sequences, self.model.hidden, self.model.vocab / self.tp, "head")
        return found

    # -- attention ---------------------------------------------------------------------------------------------------------

    @cached_property
    def decode_rates(self) -> list[tuple[float, int]]:
        """(seconds per cached token of one decoding sequence, window) by group: its KV bytes over the rate that attention reads them."""
        found: dict[int, float] = {}
        for group in self.model.layers:
            size = group.count * token_bytes(group, self.kv_format, self.tp)
            if size:
                narrow = kernel_rates.FP8_READ_RATE if self._narrow and group.kind != "latent" else 1.0
                found[group.window_tokens] = found.get(group.window_tokens, 0.0) + kv_read_s(self.machine.gpu, size) / narrow
        return [(rate, window) for window, rate in found.items()]

    def reading_s(self, tokens: Iterable[int], uneven: Iterable[int], decodes: int) -> float:
        """Seconds in which so many sequences read `tokens` together, for each of `decode_rates`, and fall short by `uneven` tokens together
        of all being as long as the longest (0 for windows). Of a pipeline's batches each reads its own, one behind the other.

        Few sequences do not keep all of the GPU busy reading wide heads, or a latent, which is one head; of sequences that differ, the
        longest keep a part of it busy.
        """
        rates, even_tokens, _ = self._even_rates.get(decodes) or self._even(decodes)
        total = 0.0
        for rate, short, count in zip(rates, uneven, tokens, strict=True):
            total += rate * (1 + kernel_rates.UNEVEN_SHARE * short / (short + even_tokens)) * count
        return total

    def _even(self, decodes: int) -> tuple[list[float], float, float]:
        """Of so many equally long sequences: seconds per cached token, tokens that unevenness is held against, seconds of their states."""
        batches = max(1, min(self._stages, decodes))
        count = max(1, -(-decodes // batches))
        rates = [(rate if window else max(rate, self._sequence_rate / count)) / batches for rate, window in self.decode_rates]
        states_s = kv_read_s(self.machine.gpu, -(-decodes // batches) * self._state_bytes)
        found = self._even_rates[decodes] = rates, kernel_rates.UNEVEN_TOKENS * count * batches, states_s
        return found

    @cached_property
    def _sequence_rate(self) -> float:
        """Seconds per cached token that one sequence alone takes at least."""
        full = [group for group in self.model.layers if not group.window_tokens]
        sizes = [group.count * token_bytes(group, self.kv_format, self.tp) for group in full]
        return sum(size / kernel_rates.sequence_Bps(group, self.tp) for group, size in zip(full, sizes, strict=True))

    @cached_property
    def decode_floor_s(self) -> float:
        """Seconds of decode attention that do not depend on the batch: launches of every layer, and of one that narrows queries."""
        gpu = self.machine.gpu
        attending = sum(group.count for group in self.model.layers if group.kind not in ("state", "none"))
        return attending * (gpu.attention_overhead_s + (gpu.layer_overhead_s / PLAIN_SMALL if self._narrow else 0.0))

    def decode_attention_s(self, contexts: Iterable[int]) -> float:
        """Seconds of one decode step's attention over sequences of the given context lengths."""
        known = list(contexts)
        tokens = [sum(min(context, window) if window else context for context in known) for _, window in self.decode_rates]
        longest = max(known, default=0)
        uneven = [0 if window else longest * len(known) - sum(known) for _, window in self.decode_rates]
        return self.decode_attention_of_s(tokens, uneven, len(known))

    def decode_attention_of_s(self, tokens: Iterable[int], uneven: Iterable[int], decodes: int) -> float:
        """The same from the tokens that all sequences read together (see reading_s), and their recurrent states."""
        return self.decode_floor_s + self.reading_s(tokens, uneven, decodes) + self._even_rates[decodes][2]

    # -- steps -------------------------------------------------------------------------------------------------------------

    def step_s(self, chunks: Sequence[Chunk], decodes: int, decode_attention_s: float, sampled: int) -> float:
        """Seconds of one step on its own: its GPU work, or the host's launches when these take longer."""
        return max(self.host_s(chunks, decodes), self.busy_s(chunks, decodes, decode_attention_s, sampled))

    def host_s(self, chunks: Sequence[Chunk], decodes: int) -> float:
        """Least seconds of a step: the host prepares and launches it, and collects the one before."""
        return self.host.step_s(chunks, decodes)

    def rows(self, tokens: int) -> int:
        """Rows of the products of a step of so many tokens: what fills its CUDA graph up is computed as well."""
        return self.engine.graph_rows(tokens) if tokens <= self.overhead.captured_tokens else tokens

    def schedule_s(self, admitted: int, new: int) -> float:
        """Seconds of the host in scheduling a step that admits prompts of `admitted` tokens and computes `new` ones."""
        return self.host.schedule_s(admitted, new)

    def busy_s(
        self, chunks: Sequence[Chunk], decodes: int, decode_attention_s: float, sampled: int, together_s: float | None = None
    ) -> float:
        """Seconds of one step's GPU work, prefill chunks and decoding sequences together, and of the gap before the next.

        `decode_attention_s` is the attention time of the decoding part (kept up to date by the caller), `sampled` how many
        sequences get a token out of this step, `together_s` what ranks in lock-step do together (None: all are taken to be like this one).
        Through a pipeline decoding sequences take a whole pass, in batches that fill the stages; prompts alone take a stage's
        time for each batch, and come out `drain_s` later.
        """
        alone = not chunks and together_s is None
        parts = self._decode_parts.get((decodes, sampled)) if alone else None
        if parts is None:
            parts = self._parts(chunks, decodes, sampled, together_s)
            if alone:
                self._decode_parts[decodes, sampled] = parts
        products_s, attention_s, head_s, handed_s, share = parts
        # with its launches, which chunks in the same step share: one call a layer for all sequences
        attention_s += decode_attention_s if decodes else self.decode_floor_s if chunks else 0.0
        pass_s = (products_s + attention_s + head_s + handed_s) * share
        return pass_s + self.overhead.gap_s + self.overhead.step_sequence_s * sampled

    def _parts(
        self, chunks: Sequence[Chunk], decodes: int, sampled: int, together_s: float | None
    ) -> tuple[float, float, float, float, float]:
        """Of a step: seconds of its products, the chunks' attention, the output head, what stages hand over; how much of them one takes."""
        tokens, batches = decodes + sum([new for new, _ in chunks]), 1
        if self._stages > 1:
            batches, tokens = self._passes(tokens, decodes)
        rows = self.rows(tokens)
        if together_s is None and self._in_lockstep:
            captured = not chunks or tokens <= self.overhead.captured_tokens
            joint = joint_tokens(self.spread, rows, -(-decodes // batches) if chunks else rows)
            together_s = self.together_s(joint, captured=captured)
        products_s, head_s = self.gemms_s(rows, together_s or 0.0), self.head_s(-(-sampled // batches))
        attention_s = sum([self.attention.seconds(new, context) for new, context in chunks]) / batches
        if self._stages == 1:
            return products_s, attention_s, head_s, 0.0, 1.0
        handed_s = handed_over_s(self.deployment, tokens, self.model.hidden * self.activation_bytes)
        return products_s, attention_s, head_s, handed_s, 1.0 if decodes else batches / self._stages

    def drain_s(self, chunks: Sequence[Chunk], decodes: int, busy_s: float) -> float:
        """Seconds from when the first stage of a pipeline can take the next step until the results of one of prompts alone are out."""
        if self._stages == 1 or decodes or not chunks:
            return 0.0
        return busy_s / self._passes(sum(new for new, _ in chunks), 0)[0] * (self._stages - 1)

    def _passes(self, tokens: int, decodes: int) -> tuple[int, int]:
        """Batches in which a step passes the stages, and tokens of the largest."""
        return passes(self.spread, tokens, decodes, self.engine.step_tokens)

    def prefill_s(self, new: int, context: int, step_tokens: int) -> float:
        """GPU seconds to compute `new` tokens of one sequence after `context` cached ones, in steps of at most `step_tokens`."""
        total = 0.0
        while new > step_tokens:
            whole_s = self._whole_steps.get((step_tokens, context))
            if whole_s is None:
                whole_s = self._whole_steps[step_tokens, context] = self.step_s([(step_tokens, context)], 0, 0.0, 0)
            total += whole_s
            context += step_tokens
            new -= step_tokens
        if new > 0:
            step_s = self.step_s([(new, context)], 0, 0.0, 1)
            total += step_s + self.drain_s([(new, context)], 0, step_s)
        return total
