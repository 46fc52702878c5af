"""How long attention takes over prompts: score pairs at a share of the peak, and what latents cost more."""

from __future__ import annotations

from collections.abc import Callable

from kvplan import kernel_rates
from kvplan.deployment import Deployment
from kvplan.hardware.timing import elementwise_s, pair_flops, prefill_attention_s
from kvplan.memory.formats import DTYPE_BYTES
from kvplan.model import Layers


class PrefillAttention:
    """Of one replica, on one of its tensor-parallel ranks. `kernel_share`: of the peak, what the engine's kernels reach; `narrow`: in fp8;
    `product_s` are seconds of a product of so many FLOPs with so many weights.
    """

    def __init__(self, deployment: Deployment, *, kernel_share: float, narrow: bool, product_s: Callable[[float, float], float]) -> None:
        self._gpu, self._tp, self._absorbed_tokens = deployment.machine.gpu, deployment.tp, deployment.engine.absorbed_tokens
        self._share = kernel_share * (kernel_rates.FP8_ATTENTION_RATE if narrow else 1.0)
        self._element_bytes, self._product_s = DTYPE_BYTES[deployment.model.dtype], product_s
        scoring = [group for group in deployment.model.layers if group.kind not in ("state", "none") and group.query_heads]
        # (FLOPs per score pair over all layers of the group, window) of every group with scores: as computed, with latents read as stored
        self._groups = [(group.count * self._pair_flops(group), group.window_tokens) for group in scoring]
        self._absorbed = [(group.count * self._absorbed_flops(group), group.window_tokens) for group in scoring]
        self._latents = [group for group in deployment.model.layers if group.kind == "latent" and group.up_params]

    def seconds(self, new: int, context: int) -> float:
        """All layers, for `new` tokens of one sequence after `context` cached ones.

        Few new tokens meet a latent as it is stored; more of them meet its keys and values, to which the cached part is expanded again.
        """
        if new <= self._absorbed_tokens:
            return prefill_attention_s(self._gpu, new, context, self._absorbed, kernel_share=self._share)
        time = prefill_attention_s(self._gpu, new, context, self._groups, kernel_share=self._share)
        return time + self._expanded_s(context) if context and self._latents else time

    def _pair_flops(self, group: Layers) -> float:
        """FLOPs of one score pair over the heads of one layer."""
        share = kernel_rates.LATENT_PAIR_SHARE if group.kind == "latent" else 1.0
        return share * pair_flops(group.k_dim, group.v_dim or group.k_dim) * group.query_heads / self._tp

    def _absorbed_flops(self, group: Layers) -> float:
        """The same where a latent is read as it is stored: a pair multiplies with the latent and with its part without rotary."""
        if group.kind != "latent":
            return self._pair_flops(group)
        rotary = max(0, group.k_dim - group.v_dim)
        return 2.0 * (2 * group.latent_dim - rotary) * group.query_heads / self._tp

    def _expanded_s(self, context: int) -> float:
        """Seconds in which the keys and values of `context` latents are made again: one product a layer, which writes them, and the rotary
        part joined to each head's key.
        """
        total = 0.0
        for group in self._latents:
            up = group.up_params / self._tp
            rows = group.query_heads / self._tp * (group.v_dim + 3 * group.k_dim) * self._element_bytes
            total += group.count * (self._product_s(2.0 * context * up, up) + elementwise_s(self._gpu, context * rows))
        return total
