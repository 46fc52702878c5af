"""From a scenario to the space that a plan searches: pool, traffic, closed forms and limits."""

from __future__ import annotations

import msgspec

from kvplan.economics.prices import Prices
from kvplan.errors import InputError
from kvplan.memory.below import below
from kvplan.memory.layout import layout
from kvplan.memory.pool import kv_pool
from kvplan.planning import closed_form
from kvplan.planning.objective import Objective
from kvplan.planning.space import EIGHT_BITS, More, Space
from kvplan.planning.traffic import traffic
from kvplan.results.plan import TierWorth
from kvplan.results.trace import ReadReport
from kvplan.results.traffic import HitPoint
from kvplan.scenario import Scenario, with_setting
from kvplan.sim.simulate import opened
from kvplan.units import format_bytes, format_count

LEAST_DOUBT = 1.5
"""A pool that the user gives is doubted when it is this many times what the engine would leave."""


def space_of(
    scenario: Scenario,
    target: Objective,
    prices: Prices | None,
    max_cpu_bytes: int | None,
    max_disk_bytes: int | None,
    *,
    more: More | None = None,
    allow_wear: bool = False,
) -> tuple[Space, list[str]]:
    """The space of a scenario, and what the user should know about how it came about.

    Limits that are None are the replica's share of the machine. Raises InputError when the weights do not fit, or the goal is a cost that
    nothing is known of.
    """
    if target.goal == "cost" and prices is None:
        raise InputError("the goal `cost` needs prices", hint="add --price gpu=2.5,cpu=0.004,disk=0.0001")
    base, notes = _with_pool(_with_network(_judged_by(scenario, target)))
    base = _within_context(base)
    run, machine = base.run, base.machine
    trace = opened(base)
    token_bytes = tier_token_bytes(base)
    known = traffic(trace, token_bytes)
    share = base.deployment.parallel.gpus / machine.gpus
    if target.saturates and known.span_s:
        base = msgspec.structs.replace(base, run=msgspec.structs.replace(run, speedup=run.speedup * known.span_s))
        notes.append("arrivals are compressed until the machine is the limit: what is compared is what it can serve")
    host_bytes = int(machine.host.memory_bytes * machine.host.usable_fraction * share)
    space = Space(
        base=base,
        traffic=known,
        token_bytes=token_bytes,
        pool_tokens=pool_tokens(base),
        when=(),
        target=target,
        prices=prices,
        cpu_limit_bytes=host_bytes if max_cpu_bytes is None else max_cpu_bytes,
        disk_limit_bytes=int(machine.disk.capacity_bytes * share) if max_disk_bytes is None else max_disk_bytes,
        more=more,
        allow_wear=allow_wear,
    )
    return msgspec.structs.replace(space, when=_when(space)), [*notes, *_left_out(trace.report, base), *trace.report.warnings]


def _left_out(report: ReadReport, base: Scenario) -> list[str]:
    dropped = report.rows("dropped")
    if not dropped:
        return []
    return [
        f"{dropped:,} of {report.rows_read:,} requests are left out: empty, or longer than the {base.run.max_input_tokens:,} tokens taken"
    ]


def tier_token_bytes(scenario: Scenario) -> float:
    """Bytes of a tier below the GPU that one more token takes. Raises InputError for a model that keeps nothing per token."""
    size = below(scenario.deployment).token_bytes
    if not size:
        raise InputError(f"{scenario.model.name} keeps no KV per token: there is nothing to offload")
    return size


def pool_tokens(scenario: Scenario) -> int:
    """Tokens of prefixes that the GPU's pool keeps when no request runs."""
    made = layout(scenario.deployment)
    return made.blocks(scenario.tiers.gpu_kv_bytes) // max(1, made.unit_blocks) * made.unit_tokens


def _when(space: Space) -> tuple[TierWorth, ...]:
    known, machine = space.traffic, space.base.machine
    prefix = known.reused_prefix_tokens or known.median_prompt_tokens
    tiers = [tier for tier in closed_form.RATES if tier != "remote" or machine.network]
    return tuple(closed_form.worth(space.base, tier, prefix) for tier in tiers)


def narrowed(space: Space) -> Space:
    """The same question with an 8-bit KV: every capacity holds more tokens."""
    base = space.base.changed(kv_dtype=EIGHT_BITS)
    token_bytes = tier_token_bytes(base)
    ratio = token_bytes / space.token_bytes
    points = (HitPoint(capacity_bytes=round(one.capacity_bytes * ratio), token_hit=one.token_hit) for one in space.traffic.curve)
    known = msgspec.structs.replace(space.traffic, curve=tuple(points))
    changed = msgspec.structs.replace(space, base=base, token_bytes=token_bytes, pool_tokens=pool_tokens(base), traffic=known)
    return msgspec.structs.replace(changed, when=_when(changed))


def _judged_by(scenario: Scenario, target: Objective) -> Scenario:
    """The scenario whose runs count the requests within the target's limits."""
    clauses = ",".join(f"{one.name}<{one.limit_s!r}s" for one in target.clauses)
    return scenario.changed(run=msgspec.structs.replace(scenario.run, target=clauses))


def _within_context(base: Scenario) -> Scenario:
    """The scenario without the prompts that the model cannot take."""
    longest = min(filter(None, (base.model.max_context_tokens, base.engine.max_context_tokens)), default=0) - 1
    asked = base.run.max_input_tokens
    if longest < 1 or 0 < asked <= longest:
        return base
    return base.changed(run=msgspec.structs.replace(base.run, max_input_tokens=longest))


def _with_network(scenario: Scenario) -> Scenario:
    """The scenario whose way to the remote pool, where it has one of its own, is the machine's network."""
    remote = scenario.remote
    if not scenario.machine.network:
        return scenario
    for name, value in (("Bps", remote.client_Bps), ("latency_s", remote.latency_s)):
        scenario = with_setting(scenario, f"machine.network.{name}", value) if value else scenario
    return scenario.changed(remote=msgspec.structs.replace(remote, client_Bps=0.0, latency_s=0.0))


def _with_pool(scenario: Scenario) -> tuple[Scenario, list[str]]:
    """The scenario with its GPU pool, on as many ranks as the weights need."""
    tp, machine = scenario.deployment.tp, scenario.machine
    if scenario.tiers.gpu_kv_bytes:
        left = kv_pool(scenario.deployment.changed(tp=tp)).kv_bytes
        given = format_bytes(scenario.tiers.gpu_kv_bytes)
        doubt = f"the GPU pool is taken as {given}, but the weights leave {format_bytes(left)}"
        return scenario, [doubt] if scenario.tiers.gpu_kv_bytes > LEAST_DOUBT * left else []
    while tp <= machine.gpus:
        pool = kv_pool(scenario.deployment.changed(tp=tp)).kv_bytes
        if pool > 0:
            notes = [] if tp == scenario.deployment.tp else [f"the weights need {tp} GPUs: planned with run.tp={tp}"]
            tiers = msgspec.structs.replace(scenario.tiers, gpu_kv_bytes=pool)
            return scenario.changed(tiers=tiers, tp=tp), notes
        tp *= 2
    raise InputError(
        f"the weights of {scenario.model.name} leave no room for KV on {format_count(machine.gpus, 'GPU')} of {machine.name}",
        hint="name a larger machine, or a model with narrower weights",
    )
