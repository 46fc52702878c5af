"""Several runs side by side: what was put in differently, what came out differently, and the cause of each difference
in one line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from kvplan import units
from kvplan.results.compare import Compared, Comparison, Handover
from kvplan.results.simulate import SimResult
from kvplan.scenario import Scenario
from kvplan.sim.build import bytes_per_token, transfer_network

Value = str | int | float | bool | None

MEANING = {
    "engine.offload.store": "write_through copies all blocks, selective those asked for again, on_evict those given up",
    "engine.offload.load": "whole_request loads before scheduling, blocking stops the step, layerwise overlaps",
    "engine.offload.chunk_tokens": "what ends inside a chunk is neither stored nor found (0: the engine's block)",
    "engine.offload.store_generated": "are answers stored below the GPU as well",
    "engine.offload.exclusive": "does content leave a tier when it moves up: more room, but it must be stored again",
    "engine.offload.lower_store": "what goes on from host memory to disk and remote pool, and when",
    "engine.offload.prefetch": "are lower tiers read while a request is queued",
    "engine.offload.policy": "which content host memory gives up first",
    "engine.offload.loads_exclude_steps": "do loads and steps add up instead of overlapping",
    "engine.offload.outputs_behind_stores": "do sampled tokens wait behind stores on the copy engine",
    "engine.offload.copy_layers": "one: a block crosses the link in a piece per layer, each with its cost",
    "engine.offload.streamed_share": "share of active sequences that crosses the link at every step",
    "engine.block_tokens": "granularity of sharing on the GPU",
    "engine.max_batch": "most sequences that decode together",
    "engine.scheduling": "who is admitted and preempted first: by arrival, or by each request's priority",
    "engine.plan_ahead": "is a step planned while the one before it runs",
    "tiers.gpu_kv_bytes": "room for active sequences and for the first level of reuse",
    "tiers.cpu_bytes": "room for reuse behind the GPU",
    "tiers.disk_bytes": "room for reuse behind host memory",
    "tiers.remote_bytes": "room for reuse that all replicas share",
    "cluster.router": "which replica a request goes to, and so whose cache it meets",
    "cluster.prefill_replicas": "more servers that only prefill: long prompts leave the decode steps, and KV crosses the network",
    "cluster.transfer_Bps": "network from a prefill to a decode replica",
    "cluster.decode_cpu_bytes": "host memory of a replica that only decodes",
    "cluster.replicas": "servers that share the load, each with caches of its own",
}
"""Setting -> what it decides."""


def compare(scenarios: Sequence[Scenario], results: Sequence[SimResult]) -> Comparison:
    """Runs side by side, in the order given."""
    figures, same, names = [], [], _names(scenarios)
    for name, figure in FIGURES.items():
        values = [figure(result) for result in results]
        if all(value == values[0] for value in values):
            same.append(name)
        else:
            figures.append((_spread(values), Compared(what=name, values=list(values), reason=_cause(name, values, results, names))))
    figures.sort(key=lambda pair: -pair[0])
    return Comparison(
        names=names,
        settings=_settings(scenarios),
        differences=[difference for _, difference in figures],
        handovers=_handovers(scenarios, results),
        same=same,
        runs=list(results),
    )


def _names(scenarios: Sequence[Scenario]) -> list[str]:
    """What tells the runs apart: their names, or their engines where these are the same."""
    names, engines = [scenario.name for scenario in scenarios], [scenario.engine.name for scenario in scenarios]
    return engines if len(set(names)) < len(set(engines)) == len(engines) else names


def _handovers(scenarios: Sequence[Scenario], results: Sequence[SimResult]) -> list[Handover]:
    """One for each run that prefills apart, against the first that does not."""
    names, apart = _names(scenarios), [bool(scenario.cluster.prefill_replicas) for scenario in scenarios]
    if all(apart):
        return []
    other = apart.index(False)
    pairs = zip(names, scenarios, results, apart, strict=True)
    return [_handover(name, scenario, result, names[other], results[other]) for name, scenario, result, is_apart in pairs if is_apart]


def _handover(name: str, scenario: Scenario, result: SimResult, against: str, other: SimResult) -> Handover:
    network = transfer_network(scenario)
    rates = result.throughput  # of the requests after the warm-up
    size = bytes_per_token(scenario) * rates.prompt_tokens_per_s / max(1e-12, rates.requests_per_s)
    gain_s = (other.e2e_s.mean or 0.0) - (result.e2e_s.mean or 0.0)
    slack_s = size / network.Bps + gain_s
    return Handover(
        name=name,
        against=against,
        prompt_bytes=size,
        Bps=network.Bps,
        transfer_s=network.latency_s + size / network.Bps,
        gain_s=gain_s,
        break_even_Bps=size / slack_s if slack_s > 0 else None,
    )


def _settings(scenarios: Sequence[Scenario]) -> list[Compared]:
    flat = [_flat(scenario) for scenario in scenarios]
    found = []
    for path in dict.fromkeys(path for one in flat for path in one):
        values = [one.get(path) for one in flat]
        if any(value != values[0] for value in values) and path not in (
            "name",
            "engine.name",
            "engine.base",
            "engine.version",
        ):
            found.append(Compared(what=path, values=values, reason=MEANING.get(path, "")))
    return sorted(found, key=lambda difference: not difference.reason)


def _flat(record: Any, path: str = "") -> dict[str, Value]:
    """Leaves of nested records by dotted path; where numbers come from, lists and tables are left out."""
    if not isinstance(record, msgspec.Struct):
        return {path: record} if record is None or isinstance(record, str | int | float) else {}
    found: dict[str, Value] = {}
    for name in record.__struct_fields__:
        shown = {"server": "machine", "deployment": ""}.get(name, name)  # as --set writes it
        found |= _flat(getattr(record, name), ".".join(filter(None, (path, shown))))
    return found


# -- figures ---------------------------------------------------------------------------------------------------------

Figure = Callable[[SimResult], float | None]


def _hit(tier: str) -> Figure:
    return lambda result: getattr(result.prompt_tokens, f"{tier}_hit") / max(1, result.prompt_tokens.total)


def _traffic(name: str) -> Figure:
    return lambda result: float(sum(getattr(tier, name) for tier in result.tiers if tier.name != "gpu"))


FIGURES: dict[str, Figure] = {
    "ttft_mean_s": lambda result: result.ttft_s.mean,
    "ttft_p95_s": lambda result: result.ttft_s.p95,
    "itl_mean_s": lambda result: result.itl_s.mean,
    "itl_p95_s": lambda result: result.itl_s.p95,
    "requests_per_s": lambda result: result.throughput.requests_per_s,
    "gpu_hit_rate": _hit("gpu"),
    "cpu_hit_rate": _hit("cpu"),
    "disk_hit_rate": _hit("disk"),
    "remote_hit_rate": _hit("remote"),
    "computed_share": lambda result: result.prompt_tokens.computed / max(1, result.prompt_tokens.total),
    "stored_bytes": _traffic("stored_bytes"),
    "loaded_bytes": _traffic("loaded_bytes"),
    "preempted": lambda result: float(result.requests.preempted),
    "rejected": lambda result: float(result.requests.rejected),
}
"""Figure -> how it is read from a result."""


def _spread(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    if len(known) < 2 or max(known) <= 0:
        return 0.0
    return max(known) / max(min(known), 1e-3 * max(known))


def _cause(name: str, values: Sequence[float | None], results: Sequence[SimResult], names: Sequence[str]) -> str:
    """Where the runs with the lowest and the highest value part, and which those are."""
    known = [(value, result, run) for value, result, run in zip(values, results, names, strict=True) if value is not None]
    if len(known) < 2:
        return "not measured in some run"
    low, high = min(known, key=lambda one: one[0]), max(known, key=lambda one: one[0])
    return f"{CAUSES[name](low[1], high[1])} ({low[2]} against {high[2]})"


def _waits(low: SimResult, high: SimResult) -> str:
    """The part of the time to first token that differs most."""

    def parts(result: SimResult) -> dict[str, float]:
        queue = result.queue_s.mean or 0.0
        loads = result.loads.stall_s / max(1, result.requests.completed)
        return {
            "queueing": queue,
            "loads": loads,
            "prefill and front end": max(0.0, (result.ttft_s.mean or 0.0) - queue - loads),
        }

    ours, theirs = parts(low), parts(high)
    largest = max(ours, key=lambda part: theirs[part] - ours[part])
    return f"mostly {largest}: {units.format_seconds(ours[largest])} against {units.format_seconds(theirs[largest])}"


def _intervals(low: SimResult, high: SimResult) -> str:
    stall = [result.loads.stall_s / max(1e-9, result.duration_s) for result in (low, high)]
    computed = [result.prompt_tokens.computed for result in (low, high)]
    if computed[1] > 1.02 * computed[0]:
        return f"more prefill between decode steps: {computed[0]:,} against {computed[1]:,} prompt tokens computed"
    return f"steps wait for loads: {stall[0]:.1%} against {stall[1]:.1%} of the time"


def _rate(low: SimResult, high: SimResult) -> str:
    computed = [result.prompt_tokens.computed for result in (low, high)]
    seconds = f"{low.duration_s:,.0f} against {high.duration_s:,.0f} s"
    return f"{computed[0]:,} against {computed[1]:,} prompt tokens computed, in {seconds}"


def _hits(low: SimResult, high: SimResult) -> str:
    def evicted(result: SimResult) -> str:
        return ", ".join(f"{tier.name} {units.format_bytes(tier.evicted_bytes)}" for tier in result.tiers)

    return f"evicted {evicted(low)} against {evicted(high)}"


def _moved(low: SimResult, high: SimResult) -> str:
    def moves(result: SimResult) -> str:
        return ", ".join(
            f"{tier.name} {units.format_bytes(tier.stored_bytes)} in, {units.format_bytes(tier.loaded_bytes)} out"
            for tier in result.tiers
            if tier.name != "gpu"
        )

    return f"{moves(low) or 'nothing'} against {moves(high) or 'nothing'}"


def _pressed(low: SimResult, high: SimResult) -> str:
    """Requests are preempted or refused where the pool is too small for what runs or comes."""
    size = [next(tier.capacity_bytes for tier in result.tiers if tier.name == "gpu") for result in (low, high)]
    if abs(size[0] - size[1]) < 0.01 * max(size):
        queued = [units.format_seconds(result.queue_s.mean or 0.0) for result in (low, high)]
        pools = f"equal GPU pools of {units.format_bytes(size[0])}"
        return f"{pools}: more sequences in them at once, after {queued[0]} against {queued[1]} of queueing"
    return f"a GPU pool of {units.format_bytes(size[0])} against {units.format_bytes(size[1])}"


CAUSES: dict[str, Callable[[SimResult, SimResult], str]] = {
    "ttft_mean_s": _waits,
    "ttft_p95_s": _waits,
    "itl_mean_s": _intervals,
    "itl_p95_s": _intervals,
    "requests_per_s": _rate,
    "gpu_hit_rate": _hits,
    "cpu_hit_rate": _hits,
    "disk_hit_rate": _hits,
    "remote_hit_rate": _hits,
    "computed_share": _hits,
    "stored_bytes": _moved,
    "loaded_bytes": _moved,
    "preempted": _pressed,
    "rejected": _pressed,
}
"""Figure -> the line that tells the runs with its lowest and highest value apart."""
