"""The answer in one sentence: offload, do not, a tie, stream, or what is missing to say."""

from __future__ import annotations

import math

import msgspec

from kvplan.memory.layout import layout
from kvplan.planning.objective import between, changed
from kvplan.planning.space import Space
from kvplan.results.kinds import KindChoice
from kvplan.results.plan import Option, Pruned, Range, Verdict
from kvplan.results.simulate import Stats
from kvplan.units import format_bytes, format_seconds, format_tokens

WORTH = 0.01
"""A gain below this share is not worth a tier's memory."""


def unnamed(name: str) -> Verdict:
    """The trace holds lengths only."""
    return Verdict(
        kind="cannot_say",
        sentence="Cannot say: the trace holds lengths only, so that nothing is known of what prompts have in common.",
        reason=f"{name} names no content",
        missing="hashes of the prompts' blocks (Mooncake's hash_ids), or the prompts, or sessions (--sessions)",
    )


def refused(reason: str) -> Verdict:
    """Closed forms say no before anything is simulated."""
    return Verdict(kind="do_not_offload", sentence=f"Do not offload: {reason}.", reason=reason)


def all_pruned(pruned: list[Pruned]) -> Verdict:
    """No tier was left to simulate."""
    first = next((one for one in pruned if one.what == "CPU"), pruned[0] if pruned else None)
    if first is None:
        return refused("no tier below the GPU may be used")
    return refused(first.why if first.what == "CPU" else f"{first.what}: {first.why}")


def too_long(space: Space, step_s: float, context_tokens: int, off_bytes: float) -> Verdict:
    """Most prompts do not fit the pool: a prefix cache cannot help, streaming can."""
    pool, size = format_bytes(space.pool_bytes), format_bytes(layout(space.base.deployment).reserved_bytes(context_tokens))
    if off_bytes > space.cpu_limit_bytes:
        return refused(
            f"the KV of {format_tokens(context_tokens)} tokens takes {size}: more than the GPU's pool of {pool} and host memory together"
        )
    return Verdict(
        kind="stream",
        sentence=f"No tier helps: most prompts do not fit the GPU's pool of {pool}; the longest, {format_tokens(context_tokens)} tokens, "
        f"takes {size}. "
        f"Use more GPUs or an 8-bit KV. An engine that streams {format_bytes(off_bytes)} from host memory at each step would take "
        f"{format_seconds(step_s)} a token ({1 / step_s:.3g} tokens/s).",
        reason="engines with a prefix cache need the whole context of a running request on the GPU: no tier "
        "below it lets such a request run",
    )


def judged(space: Space, goal: str, best: Option, without: Option, gain: Range, flips: bool, *, whole: bool = True) -> Verdict:
    """The verdict on the best offloading placement against the same without it; not `whole`: its interval is not known."""
    value, lo, hi = gain.value or 0.0, gain.lo or 0.0, gain.hi or 0.0
    effect = _effect(goal, best, without, space)
    if best.cost_per_hour is not None and without.cost_per_hour is not None and goal != "cost":
        effect += f", for {best.cost_per_hour:.3g} instead of {without.cost_per_hour:.3g} an hour"
    size = f"{changed(goal, value)} ({between(goal, lo, hi)})" if whole else changed(goal, value)
    if value >= WORTH and lo > 0 and not flips:
        how_much = "" if best.rejected < without.rejected else f", {size}"
        sentence = f"Offload to {best.name}: {effect}{how_much}{_missed(best)}."
        return Verdict(kind="offload", sentence=sentence, reservations=_reservations(goal, value, best))
    if hi < WORTH or (value < WORTH and not flips):
        reason = f"with the best tier ({best.name}) {effect}, {size}"
        return Verdict(kind="do_not_offload", sentence=f"Do not offload: {reason}{_missed(without)}.", reason=reason)
    return Verdict(
        kind="tie",
        sentence=f"A tie: with {best.name} {effect}, {size}, which its assumptions do not settle{_missed(best)}.",
        reason="the gain changes its sign within the uncertainty of what it rests on",
    )


def spread(answer: Verdict, choice: KindChoice | None, placed: str, goal: str) -> Verdict:
    """The verdict with the kind of parallelism, and what offloading changes about it; a reservation where another than the placed one is
    better."""
    if choice is None:
        return answer
    sides = {one.spread: one.offload for one in choice.kinds}
    gain = 1 - sides[choice.best].score / sides[placed].score if sides[placed].score else 0.0
    named = msgspec.structs.replace(answer, sentence=f"{answer.sentence} {choice.words}.")
    if choice.best == placed or gain < WORTH:
        return named
    return msgspec.structs.replace(named, reservations=(*answer.reservations, f"{choice.best} on the same GPUs: {changed(goal, gain)}"))


SMALL, MANY_LOSING = 0.05, 0.25
"""A gain below the first share, or so many losing loads, is worth saying before a tier is bought."""


def _reservations(goal: str, value: float, best: Option) -> tuple[str, ...]:
    found = []
    if value < SMALL:
        found.append(f"the gain is small: {changed(goal, value)}")
    if best.loads.losing > MANY_LOSING * best.loads.count:
        found.append(f"{best.loads.losing:,} of {best.loads.count:,} loads take longer than computing again")
    return tuple(found)


def _missed(option: Option) -> str:
    return f"; the target is missed: {', '.join(option.missed)}" if option.missed else ""


def _effect(goal: str, best: Option, without: Option, space: Space) -> str:
    if best.rejected < without.rejected:
        return f"it serves {without.rejected - best.rejected:,} requests more"
    if goal in ("throughput", "cost"):
        words = f"{best.requests_per_s:.3g} requests/s instead of {without.requests_per_s:.3g}"
        if goal == "cost":
            words = f"{best.score:.3g} instead of {without.score:.3g} for a million output tokens, {words}"
        return words
    if goal == "limits":
        worst = max(space.target.clauses, key=lambda one: _of(without, one.metric, one.statistic) / one.limit_s)
        return f"{worst.name} {_pair(_of(best, worst.metric, worst.statistic), _of(without, worst.metric, worst.statistic))}"
    return f"mean time to first token {_pair(best.ttft_s.mean or 0.0, without.ttft_s.mean or 0.0)}"


def _pair(now: float, before: float) -> str:
    return f"{format_seconds(now)} instead of {format_seconds(before)}"


def _of(option: Option, metric: str, statistic: str) -> float:
    stats: Stats | None = getattr(option, f"{metric}_s", None)
    value = getattr(stats, statistic) if stats else None
    return math.inf if value is None else value
