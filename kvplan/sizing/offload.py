"""What offload frees: placements of a batch's KV over GPU, host memory and disk, with the price of each kind of
offload.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec

from kvplan.engine.spec import KvFormat
from kvplan.hardware.timing import IN, disk_s, transfer_s
from kvplan.loading import Loading
from kvplan.memory.formats import logical_format, state_dtype
from kvplan.memory.kv import kept_tokens, sequence_bytes, state_bytes, token_bytes
from kvplan.memory.pinned import host_memory
from kvplan.results.size import OffloadRow, Price
from kvplan.sizing.question import Question
from kvplan.step_time import StepCost
from kvplan.units import format_tokens


def placements(question: Question, keep_tokens: int) -> tuple[OffloadRow, ...]:
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
    return _folded(_placement(question, name, dtype, off, disk, baseline) for name, dtype, off, disk in rows)


def _folded(rows: Iterable[OffloadRow]) -> tuple[OffloadRow, ...]:
    """Rows of the same bytes as one (8-bit dtypes differ in nothing but their scales); the first names the others."""
    found: dict[tuple[str, int, int, int], OffloadRow] = {}
    for row in rows:
        key = (row.placement, row.gpu_bytes, row.cpu_bytes, row.disk_bytes)
        known = found.get(key)
        found[key] = msgspec.structs.replace(known, same=(*known.same, row.kv_dtype)) if known else row
    return tuple(found.values())


_SHARES = (
    ("80 % on CPU", 0.80, 0.0),
    ("95 % on CPU", 0.95, 0.0),
    ("all on CPU", 1.0, 0.0),
    ("80 % on disk", 0.80, 1.0),
    ("95 % on disk", 0.95, 1.0),
    ("40 % CPU, 40 % disk", 0.80, 0.5),
)
"""Name, share of the tokens' bytes that leaves the GPU, and share of those that lies on disk."""


def _off_gpu(question: Question, dtype: str) -> int:
    """Bytes of the batch that can leave the GPU: all but recurrent states, which every step rewrites."""
    return question.batch * (_total(question, logical_format(dtype, question.engine)) - _states(question))


def _total(question: Question, fmt: KvFormat) -> int:
    return sequence_bytes(question.model, question.context_tokens, fmt, state_dtype=state_dtype(question.model, question.engine))


def _states(question: Question) -> int:
    dtype = state_dtype(question.model, question.engine)
    return sum(layer.count * state_bytes(layer, question.model.dtype, 1, dtype) for layer in question.model.layers)


def _kept_bytes(question: Question, keep_tokens: int) -> int:
    """Bytes of the batch's last `keep_tokens` tokens."""
    return question.batch * sum(
        layer.count * min(keep_tokens, kept_tokens(layer, question.context_tokens)) * token_bytes(layer, question.format)
        for layer in question.model.layers
    )


def _placement(question: Question, name: str, dtype: str, off_bytes: int, disk_share: float, baseline: int) -> OffloadRow:
    total = question.batch * _total(question, logical_format(dtype, question.engine))
    disk = round(off_bytes * disk_share)
    gpu = total - off_bytes
    asked = question.changed(kv_dtype=dtype)
    host = host_memory(asked.deployment, off_bytes - disk, lower_tier=bool(disk)) if off_bytes else None
    price = price_of(asked, off_bytes, disk) if question.machine and off_bytes else None
    return OffloadRow(
        placement=name,
        kv_dtype=dtype,
        gpu_bytes=gpu,
        cpu_bytes=off_bytes - disk,
        disk_bytes=disk,
        saved_fraction=1 - gpu / baseline if baseline else 0.0,
        host_bytes=host.taken_bytes // asked.deployment.parallel.dp if host else 0,
        limit_bytes=host.limit_bytes if host else 0,
        price=price,
    )


def price_of(question: Question, off_bytes: int, disk_bytes: int) -> Price:
    """Seconds of both kinds of offload for a batch with `off_bytes` off the GPU, `disk_bytes` of them on disk."""
    cost = StepCost(question.deployment)
    loading = Loading(question.deployment, cost)
    tokens = max(1, round(question.context_tokens * off_bytes / question.batch / max(1, question.sequence_bytes)))
    tier, share = ("disk", disk_bytes / off_bytes) if disk_bytes else ("cpu", 1.0)
    even = loading.break_even_tokens(tier, share=share)
    streamed = streamed_s(question, off_bytes, disk_bytes)
    attention = cost.decode_attention_s([question.context_tokens] * question.batch)
    step = cost.step_s([], question.batch, attention, question.batch)
    return Price(
        idle_reload_s=loading.load_s(tier, tokens, share),
        idle_recompute_s=loading.recompute_s(tokens),
        idle_break_even_tokens=int(even) if math.isfinite(even) else None,
        streamed_added_s=max(0.0, streamed - step),
        streamed_tokens_per_s=question.batch / max(step, streamed),
    )


def streamed_s(question: Question, off_bytes: int, disk_bytes: int) -> float:
    """Seconds of the links at every step: from disk, then from host memory to the GPUs, a piece for each layer and sequence; each GPU over
    its own link, a latent vector to every rank. The next layer's part comes while one computes, so that a step takes the longer of both
    (on one H100, an 8B shape at 32k and 64k tokens with 50 to 97 % in host memory: within 1 %).
    """
    machine, spread = question.deployment.machine, question.deployment.parallel
    pieces = question.batch * question.model.depth
    copies = spread.tp if any(layer.kind == "latent" for layer in question.model.layers) else 1
    threads = question.engine.offload.disk_read_threads
    return transfer_s(machine.link, IN, off_bytes * copies / spread.gpus, pieces) + disk_s(machine.disk, IN, disk_bytes, pieces, threads)
