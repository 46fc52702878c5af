"""What offload frees: placements of a batch's KV over GPU, host memory and disk, with the price of each kind of
offload.
"""

from __future__ import annotations

from collections.abc import Callable

from kvplan.engine.spec import KvFormat
from kvplan.hardware.spec import Machine
from kvplan.memory.formats import logical_format
from kvplan.memory.kv import kept_tokens, sequence_bytes, state_bytes, token_bytes
from kvplan.results.size import Placement, Price
from kvplan.sizing.question import Question
from kvplan.step_time import StepCost
from kvplan.units import format_tokens


def placements(question: Question, keep_tokens: int) -> tuple[Placement, ...]:
    """The placement table of the batch, against everything on the GPU in the question's KV dtype.

    Sizes are logical: K and V once, without the engine's rounding, so that shares are comparable between engines.
    """
    whole = _off_gpu(question, question.kv_name)
    rows = [("all on GPU", question.kv_name, 0, 0.0)]
    if not whole:  # a recurrent state never leaves
        return (_placement(question, "all on GPU", question.kv_name, 0, 0.0, question.batch * question.sequence_bytes),)
    if keep_tokens < question.context_tokens:
        kept = _kept_bytes(question, keep_tokens)
        rows.append((f"last {format_tokens(keep_tokens)} on GPU", question.kv_name, whole - kept, 0.0))
    rows += [(name, question.kv_name, round(share * whole), disk) for name, share, disk in _SHARES]
    for dtype in ("fp8", "int8", "int4"):
        if logical_format(dtype).element_bits < question.format.element_bits:
            narrow = _off_gpu(question, dtype)
            rows += [("all on GPU", dtype, 0, 0.0), ("80 % on CPU", dtype, round(0.8 * narrow), 0.0)]
    baseline = question.batch * question.sequence_bytes
    return tuple(_placement(question, name, dtype, off, disk, baseline) for name, dtype, off, disk in rows)


_SHARES = (
    ("80 % on CPU", 0.80, 0.0),
    ("95 % on CPU", 0.95, 0.0),
    ("40 % CPU, 40 % disk", 0.80, 0.5),
)
"""Name, share of the tokens' bytes that leaves the GPU, and share of those that lies on disk."""


def _off_gpu(question: Question, dtype: str) -> int:
    """Bytes of the batch that can leave the GPU: all but recurrent states, which every step rewrites."""
    return question.batch * (_total(question, logical_format(dtype, question.engine)) - _states(question))


def _total(question: Question, fmt: KvFormat) -> int:
    return sequence_bytes(question.model, question.context_tokens, fmt, state_dtype=question.engine.memory_rules.state_dtype)


def _states(question: Question) -> int:
    rules = question.engine.memory_rules
    return sum(layer.count * state_bytes(layer, question.model.dtype, 1, rules.state_dtype) for layer in question.model.layers)


def _kept_bytes(question: Question, keep_tokens: int) -> int:
    """Bytes of the batch's last `keep_tokens` tokens."""
    return question.batch * sum(
        layer.count * min(keep_tokens, kept_tokens(layer, question.context_tokens)) * token_bytes(layer, question.format)
        for layer in question.model.layers
    )


def _placement(question: Question, name: str, dtype: str, off_bytes: int, disk_share: float, baseline: int) -> Placement:
    total = question.batch * _total(question, logical_format(dtype, question.engine))
    disk = round(off_bytes * disk_share)
    gpu = total - off_bytes
    price = price_of(question.changed(kv_dtype=dtype), off_bytes, disk) if question.machine and off_bytes else None
    return Placement(
        placement=name,
        kv_dtype=dtype,
        gpu_bytes=gpu,
        cpu_bytes=off_bytes - disk,
        disk_bytes=disk,
        saved_fraction=1 - gpu / baseline if baseline else 0.0,
        price=price,
    )


def price_of(question: Question, off_bytes: int, disk_bytes: int) -> Price:
    """Seconds of both kinds of offload for a batch with `off_bytes` off the GPU, `disk_bytes` of them on disk."""
    machine, engine = question.machine, question.engine
    assert machine is not None
    cost = StepCost(question.deployment)
    per_sequence, disk_per_sequence = off_bytes / question.batch, disk_bytes / question.batch
    tokens = max(1, round(question.context_tokens * per_sequence / max(1, question.sequence_bytes)))

    def reload_s(prefix_tokens: int) -> float:
        share, blocks = prefix_tokens / tokens, -(-prefix_tokens // engine.block_tokens)
        fixed = engine.overhead.load_s + engine.overhead.load_block_s * blocks
        return fixed + load_s(question, per_sequence * share, disk_per_sequence * share)

    def recompute_s(prefix_tokens: int) -> float:
        return cost.prefill_s(prefix_tokens, 0, engine.step_tokens)

    streamed = load_s(question, off_bytes, disk_bytes)
    attention = cost.decode_attention_s([question.context_tokens] * question.batch)
    step = cost.step_s([], question.batch, attention, question.batch)
    return Price(
        idle_reload_s=reload_s(tokens),
        idle_recompute_s=recompute_s(tokens),
        idle_break_even_tokens=_break_even(reload_s, recompute_s, tokens),
        streamed_added_s=streamed,
        streamed_tokens_per_s=question.batch / (step + streamed),
    )


def load_s(question: Question, off_bytes: float, disk_bytes: float) -> float:
    """Seconds to bring bytes from host memory and disk to the GPUs: each GPU over its own link, a latent vector to
    every rank.
    """
    machine: Machine = question.machine  # type: ignore[assignment]
    copies = question.deployment.tp if any(layer.kind == "latent" for layer in question.model.layers) else 1
    host = off_bytes * copies / (machine.link.h2d_Bps * question.deployment.parallel.gpus)
    return host + (machine.disk.latency_s + disk_bytes / machine.disk.read_Bps if disk_bytes else 0.0)


def _break_even(reload_s: Callable[[int], float], recompute_s: Callable[[int], float], limit: int) -> int | None:
    """The shortest prefix that returns faster than it is recomputed, by bisection: reload is linear, recompute
    grows at least as fast.
    """
    if reload_s(limit) > recompute_s(limit):
        return None
    low, high = 0, limit
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reload_s(middle) <= recompute_s(middle) else (middle, high)
    return high
