"""What fits into the pool, and what would make it fit: every way out is the same question asked again."""

from __future__ import annotations

from collections.abc import Iterator

from kvplan.errors import InputError
from kvplan.hardware.spec import Machine
from kvplan.memory.pool import profiled_batch
from kvplan.results.size import Fit, WayOut
from kvplan.sizing.offload import price_of
from kvplan.sizing.question import Question
from kvplan.units import format_bytes, format_seconds

MAX_WAYS = 4
MOST_FRACTION = 0.95
"""The largest share of GPU memory that is proposed: what is left is the driver's and other processes', by assumption."""


FEWER_SEQUENCES = (512, 256, 128, 64)
"""Numbers of sequences at once that are proposed where fewer leave room for KV."""


def fit(question: Question) -> Fit:
    """How the batch fits; all null when there is no pool to fit into."""
    if question.kv_pool_bytes is None:
        return Fit()
    fits = question.max_sequences >= question.batch
    longest, limited = longest_context(question)
    pool = question.pool
    return Fit(
        fits=fits,
        kv_pool_bytes=question.kv_pool_bytes,
        kv_pool_bytes_per_gpu=question.kv_pool_bytes // question.deployment.parallel.gpus,
        max_sequences=question.max_sequences,
        max_context_tokens=longest,
        limited_by_model=limited,
        missing_bytes=question.missing_bytes,
        gpu={
            "total": pool.gpu_bytes,
            "kept_free": pool.gpu_bytes - pool.usable_bytes,
            "weights": pool.weight_bytes,
            "activations": pool.activation_bytes,
            "overhead": pool.overhead_bytes,
            "kv_pool": max(0, pool.rank_kv_bytes),
        }
        if pool and not question.given_pool_bytes
        else {},
        ways_out=() if fits else ways_out(question),
    )


def longest_context(question: Question) -> tuple[int, bool]:
    """The longest context at which the whole batch fits, and whether the model's own limit cut it."""
    limit = max(question.model.max_context_tokens or 2**24, 1)
    share = question.blocks // question.batch

    def holds(tokens: int) -> bool:
        return question.layout.request_blocks(tokens) <= share

    if not share or not holds(1):
        return 0, False
    if holds(limit):
        return limit, bool(question.model.max_context_tokens)
    low, high = 1, limit
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low, False


def ways_out(question: Question) -> tuple[WayOut, ...]:
    """Two to four changes, each evaluated: of every kind the least that fits, else the nearest miss."""
    extra = [way for way in (_fewer(question), _offload(question)) if way]
    fitting: list[tuple[dict[str, object], WayOut]] = []
    missing: list[WayOut] = []
    for kind in _kinds(question):
        tried = [(changes, way) for changes in kind if (way := _evaluate(question, changes))]
        fits = next(((changes, way) for changes, way in tried if way.fits), None)
        if fits and not any(other.items() <= fits[0].items() for other, _ in fitting):
            fitting.append(fits)
        elif tried and not fits:
            missing.append(min((way for _, way in tried), key=lambda way: way.missing_bytes))
    missing.sort(key=lambda way: way.missing_bytes)
    ways = [way for _, way in fitting] + missing[: max(0, 2 - len(fitting))]
    return tuple(ways[: MAX_WAYS - len(extra)] + extra)


def _kinds(question: Question) -> Iterator[list[dict[str, object]]]:
    """Kinds of change, those that ask least of the user first; each a list from the smallest change to the largest."""
    narrow: dict[str, object] = {"kv_dtype": "fp8"} if question.format.element_bits > 8 else {}
    engine = question.engine
    if question.machine and engine.memory.fraction_of == "total" and engine.gpu_fraction < MOST_FRACTION and not question.given_pool_bytes:
        yield [{"gpu_fraction": MOST_FRACTION}]
    if question.machine and not question.given_pool_bytes:
        most = profiled_batch(engine, question.machine.gpu)
        fewer: list[dict[str, object]] = [{"max_batch": size} for size in FEWER_SEQUENCES if question.batch <= size < most]
        if fewer:
            yield fewer
    smaller = _narrower_weights(question)
    ranks: list[dict[str, object]] = [{"tp": tp} for tp in _more_ranks(question)]
    for base in (narrow, smaller, narrow | smaller if narrow and smaller else {}):
        if base:
            yield [base]
    yield ranks
    for base in (narrow, smaller):
        if base:
            yield [base | more for more in ranks]


def _narrower_weights(question: Question) -> dict[str, object]:
    """fp8 weights where the checkpoint is wider and the machine has fp8 units."""
    wide = not question.deployment.dtype and question.model.quantization is None
    return {"dtype": "fp8"} if wide and question.machine and question.machine.gpu.fp8_flops and not question.given_pool_bytes else {}


def _more_ranks(question: Question) -> list[int]:
    if question.machine is None or question.given_pool_bytes:
        return []
    ranks, tp = [], question.deployment.tp * 2
    while tp * question.deployment.parallel.pp <= question.machine.gpus:
        ranks.append(tp)
        tp *= 2
    return ranks


def _evaluate(question: Question, changes: dict[str, object]) -> WayOut | None:
    try:
        changed = question.changed(**changes)
        return WayOut(
            change=" ".join(f"--{name.replace('_', '-')} {value}" for name, value in changes.items()),
            fits=changed.max_sequences >= changed.batch,
            max_sequences=changed.max_sequences,
            missing_bytes=changed.missing_bytes,
        )
    except InputError:  # these ranks cannot split the model
        return None


def _fewer(question: Question) -> WayOut | None:
    """Fewer sequences, or for a single one a shorter context."""
    if question.max_sequences:
        return WayOut(change=f"--batch {question.max_sequences}", fits=True, max_sequences=question.max_sequences, missing_bytes=0)
    longest, _ = longest_context(question)
    if not longest:
        return None
    shorter = question.changed(context_tokens=longest)
    return WayOut(change=f"--ctx {longest}", fits=True, max_sequences=shorter.max_sequences, missing_bytes=0)


def _offload(question: Question) -> WayOut | None:
    """What does not fit goes to host memory: whole sequences that take turns, or a part of one that is streamed at
    every step.
    """
    machine = question.machine
    if machine is None or not question.blocks:
        return None
    room = int(machine.host.memory_bytes * machine.host.usable_fraction)
    parked = question.missing_bytes
    if question.max_sequences:
        parked = (question.batch - question.max_sequences) * question.sequence_bytes
    if parked > room:
        note = f"{format_bytes(parked)} exceed the {format_bytes(room)} that the host can pin"
        return WayOut(change="offload", fits=False, max_sequences=question.max_sequences, missing_bytes=parked - room, note=note)
    note = _turns(question, machine, parked) if question.max_sequences else _stream(question, parked)
    return WayOut(change="offload", fits=True, max_sequences=question.max_sequences, missing_bytes=0, note=note)


def _turns(question: Question, machine: Machine, parked: int) -> str:
    """A sequence that waits does not decode."""
    links = question.deployment.parallel.gpus
    swap_s = question.sequence_bytes * (1 / machine.link.d2h_Bps + 1 / machine.link.h2d_Bps) / links
    running = question.max_sequences
    return (
        f"{running} of {question.batch} decode, {question.batch - running} wait in host memory "
        f"({format_bytes(parked)}); a turn costs {format_seconds(swap_s)}"
    )


def _stream(question: Question, parked: int) -> str:
    price = price_of(question, parked, 0)
    return f"{format_bytes(parked)} in host memory cross the link at every step: {price.streamed_tokens_per_s:.2g} tokens/s for the batch"
