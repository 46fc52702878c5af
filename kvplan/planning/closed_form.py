"""When loading a prefix beats computing it again, in closed form: per tier, for one request on an idle machine.

Loading n tokens takes the engine's cost of a load, then the tier's link; computing them takes the prefill of n + t
tokens
less that of the t tokens behind them. Both come from the same step costs and links that the simulator uses, so that a
placement which is never worth it here is not worth simulating.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import msgspec

from kvplan.provenance import Z95, Source, relative_sigma
from kvplan.results.plan import Range, TierWorth
from kvplan.scenario import Scenario
from kvplan.sim.build import block_pieces
from kvplan.sim.simulate import bytes_per_token
from kvplan.sim.transfer.links import IN, DiskQueue, HostLink, NetworkQueue
from kvplan.step_time import StepCost

LONGEST_TOKENS = 2**20
TAIL_TOKENS = 64
"""New tokens behind the reused prefix, when the traffic does not say."""


def _host_s(scenario: Scenario, size: float, pieces: int) -> float:
    return HostLink(scenario.machine.link).service_s(IN, round(size / scenario.deployment.tp), pieces * block_pieces(scenario))


def _disk_s(scenario: Scenario, size: float, pieces: int) -> float:
    queue = DiskQueue(scenario.machine.disk)
    return queue.service_s(IN, round(size), pieces, scenario.engine.offload.disk_read_threads)


def _remote_s(scenario: Scenario, size: float, pieces: int) -> float:
    network = scenario.machine.network
    return NetworkQueue(network).service_s(round(size), pieces) if network else math.inf


Seconds = Callable[[Scenario, float, int], float]

WAY: dict[str, tuple[tuple[Seconds, str], ...]] = {
    "cpu": ((_host_s, "machine.link.h2d_Bps"),),
    "disk": ((_disk_s, "machine.disk.read_Bps"), (_host_s, "machine.link.h2d_Bps")),
    "remote": ((_remote_s, "machine.network.Bps"), (_host_s, "machine.link.h2d_Bps")),
}
"""Tier -> the links that its bytes cross one after another on the way to the GPU, each with the number that sets its
speed.
"""

PREFILL = ("machine.gpu.gemm_efficiency", "machine.gpu.attention_efficiency")

FLOORS = (
    ("engine.overhead.launch_layer_s", "engine.overhead.launch_layer_eager_s"),
    ("engine.overhead.load_s",),
    ("engine.overhead.load_block_s",),
)
"""What the engine's CPU side takes however short the prefix: where it decides, rates of the hardware do not."""


def load_s(scenario: Scenario, tier: str, tokens: int) -> float:
    """Seconds to have `tokens` of a prefix on the GPU from a tier, nothing else going on."""
    overhead, block = scenario.engine.overhead, scenario.engine.block_tokens
    pieces = max(1, tokens // block)
    size = tokens * bytes_per_token(scenario)
    return overhead.load_s + overhead.load_block_s * pieces + sum(seconds(scenario, size, pieces) for seconds, _ in WAY[tier])


def recompute_s(scenario: Scenario, tokens: int, tail_tokens: int = TAIL_TOKENS) -> float:
    """Seconds of prefill that having `tokens` of a prefix saves a request with `tail_tokens` more."""
    cost = step_cost(scenario)
    step = scenario.engine.step_tokens
    return cost.prefill_s(tokens + tail_tokens, 0, step) - cost.prefill_s(tail_tokens, tokens, step)


def step_cost(scenario: Scenario) -> StepCost:
    """The step costs of a scenario."""
    return StepCost(scenario.deployment)


def break_even_tokens(scenario: Scenario, tier: str, tail_tokens: int = TAIL_TOKENS) -> float:
    """The shortest prefix, in whole blocks, that loads faster than it is computed; infinity when none does.

    Found by doubling, then bisection: loading is linear, computing grows at least as fast.
    """
    block = scenario.engine.offload.chunk_tokens or scenario.engine.block_tokens

    def wins(blocks: int) -> bool:
        tokens = blocks * block
        return load_s(scenario, tier, tokens) < recompute_s(scenario, tokens, tail_tokens)

    high = 1
    while not wins(high):
        if high * block >= LONGEST_TOKENS:
            return math.inf
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if wins(middle) else (middle, high)
    return high * block


def break_even_Bps(scenario: Scenario, tier: str, tokens: int, tail_tokens: int = TAIL_TOKENS) -> float:
    """Bytes per second that all links of a tier together would have to reach for a prefix to break even; infinity for
    never.

    The fixed costs of a load are spent first: bytes / (computing - fixed costs).
    """
    overhead = scenario.engine.overhead
    fixed_s = overhead.load_s + overhead.load_block_s * max(1, tokens // scenario.engine.block_tokens)
    left_s = recompute_s(scenario, tokens, tail_tokens) - fixed_s
    return tokens * bytes_per_token(scenario) / left_s if left_s > 0 else math.inf


def worth(scenario: Scenario, tier: str, prefix_tokens: int, tail_tokens: int = TAIL_TOKENS) -> TierWorth:
    """Loading from a tier against computing again, at one prefix length and from which length on, with 95 %
    intervals.
    """
    block = scenario.engine.block_tokens
    prefix = max(block, prefix_tokens // block * block)
    longer = prefix + 16 * block
    moved_s = load_s(scenario, tier, prefix)
    computed_s = recompute_s(scenario, prefix, tail_tokens)
    path = WAY[tier][0][1]
    least = interval(scenario, tier, lambda one: break_even_tokens(one, tier, tail_tokens))
    return TierWorth(
        tier=tier,
        prefix_tokens=prefix,
        load_s=moved_s,
        recompute_s=computed_s,
        load_s_per_token=(load_s(scenario, tier, longer) - moved_s) / (longer - prefix),
        recompute_s_per_token=(recompute_s(scenario, longer, tail_tokens) - computed_s) / (longer - prefix),
        break_even_tokens=least,
        break_even_Bps=interval(scenario, "", lambda one: break_even_Bps(one, tier, prefix, tail_tokens)),
        Bps=prefix
        * bytes_per_token(scenario)
        / sum(seconds(scenario, prefix * bytes_per_token(scenario), max(1, prefix // block)) for seconds, _ in WAY[tier]),
        source=source(scenario, path).kind,
        set_by=_set_by(scenario, least, tail_tokens),
    )


def _set_by(scenario: Scenario, least: Range, tail_tokens: int) -> str:
    """The step in the time to compute at which a break-even length without width lies."""
    if least.value is None or not least.lo == least.value == least.hi:
        return ""
    captured, grain = scenario.engine.overhead.captured_tokens, scenario.engine.offload.chunk_tokens or scenario.engine.block_tokens
    if least.value <= grain:
        return f"the smallest piece that is loaded, {grain} tokens: it already wins"
    if least.value + tail_tokens - grain <= captured < least.value + tail_tokens:
        return (
            f"{scenario.engine.name}'s CUDA graphs, which hold steps of up to {captured} tokens, {tail_tokens} new ones included: "
            "a longer step is launched layer by layer, and loading wins at once, by more than the rates are uncertain"
        )
    return "whole blocks: its uncertainty is less than one"


def ttft_s(scenario: Scenario, prompt_tokens: int, tier: str = "", hit: float = 0.0) -> float:
    """Seconds to the first token of one request on an idle machine that finds a share of its prompt in a tier."""
    overhead, block = scenario.engine.overhead, scenario.engine.block_tokens
    prefix = min(int(prompt_tokens * hit), prompt_tokens - 1) // block * block if tier else 0
    front_s = overhead.request_s + overhead.request_token_s * prompt_tokens + overhead.first_token_s
    moved_s = load_s(scenario, tier, prefix) if prefix else 0.0
    return front_s + moved_s + step_cost(scenario).prefill_s(prompt_tokens - prefix, prefix, scenario.engine.step_tokens)


def prompt_for(scenario: Scenario, tier: str, speedup: float, hit: float = 1.0) -> int | None:
    """The shortest prompt whose first token comes `speedup` times sooner when a share of it lies in a tier.

    None when no prompt that the model can take does. To a sixteenth of an octave: the ratio grows with the length, but
    for steps where launches set the pace.
    """
    longest = scenario.model.max_context_tokens or LONGEST_TOKENS
    lengths = (int(2 ** (octave / 16)) for octave in range(16 * 7, 16 * 21))
    for tokens in lengths:
        if tokens > longest:
            return None
        if ttft_s(scenario, tokens) >= speedup * ttft_s(scenario, tokens, tier, hit):
            return tokens
    return None


def interval(scenario: Scenario, tier: str, answer: Callable[[Scenario], float]) -> Range:
    """An answer with its 95 % interval: each uncertain number, the engine's own costs among them, is moved by 1.96 sigma
    alone, the changes of the answer's logarithm are added in quadrature, upwards and downwards apart.
    """
    value = answer(scenario)
    numbers = [(path,) for _, path in WAY.get(tier, ())] + [PREFILL, *FLOORS]
    up = down = 0.0
    for paths in numbers:
        factor = math.exp(Z95 * sigma(scenario, paths[0]))
        for by in (factor, 1 / factor):
            moved = answer(scaled(scenario, paths, by))
            if math.isinf(value):
                down = math.inf if math.isfinite(moved) else down
            elif moved > value:
                up = math.hypot(up, math.log(moved / value))
            elif moved < value:
                down = math.hypot(down, math.log(value / moved))
    return Range(
        value=_finite(value),
        lo=_finite(value * math.exp(-down)) if math.isfinite(value) else None,
        hi=_finite(value * math.exp(min(up, 700)) if math.isfinite(up) else math.inf),
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def scaled(scenario: Scenario, paths: tuple[str, ...], factor: float) -> Scenario:
    """The scenario with some numbers of its machine or engine multiplied: a thought experiment, which may leave the bounds of real ones."""
    for path in paths:
        room, *names = path.split(".")
        scenario = scenario.changed(**{room: _scaled(getattr(scenario, room), names, factor)})
    return scenario


def _scaled(record: Any, names: list[str], factor: float) -> Any:
    old = getattr(record, names[0])
    return msgspec.structs.replace(record, **{names[0]: _scaled(old, names[1:], factor) if names[1:] else old * factor})


def number(scenario: Scenario, path: str) -> float:
    """The number at a dotted path."""
    value: object = scenario
    for name in path.split("."):
        value = getattr(value, name)
    return float(value)  # type: ignore[arg-type]


def source(scenario: Scenario, path: str) -> Source:
    """Where the number at a dotted path comes from."""
    room, _, rest = path.partition(".")
    return getattr(scenario, room).provenance.get(rest, Source(kind="assumed", source="default of kvplan"))


def sigma(scenario: Scenario, path: str) -> float:
    """The relative standard deviation of the number at a dotted path."""
    return relative_sigma(source(scenario, path), number(scenario, path))
