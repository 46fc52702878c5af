"""When loading a prefix beats computing it again: per tier, for one request on an idle machine, with what the answer hangs on.

The seconds are those of `kvplan.loading`, which the simulator uses as well, so that a placement which is never worth it here is not worth
simulating.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import msgspec

from kvplan.loading import LONGEST_TOKENS, TAIL_TOKENS, Loading
from kvplan.provenance import Z95, Source, relative_sigma
from kvplan.results.plan import Range, TierWorth
from kvplan.scenario import Scenario
from kvplan.units import first_true

RATES = {
    "cpu": ("machine.link.h2d_Bps",),
    "disk": ("machine.disk.read_Bps", "machine.link.h2d_Bps"),
    "remote": ("machine.network.Bps", "machine.link.h2d_Bps"),
}
"""Tier -> the numbers that set the speed of its way to the GPU, its own link first."""

PREFILL = ("machine.gpu.gemm_efficiency", "machine.gpu.attention_efficiency")

FLOORS = (
    ("engine.overhead.launch_layer_s", "engine.overhead.launch_layer_eager_s"),
    ("engine.overhead.load_s",),
    ("engine.overhead.load_block_s",),
)
"""What the engine's CPU side takes however short the prefix: where it decides, rates of the hardware do not."""


def worth(scenario: Scenario, tier: str, prefix_tokens: int, tail_tokens: int = TAIL_TOKENS) -> TierWorth:
    """Loading from a tier against computing again, at one prefix length and from which length on, with 95 %
    intervals.
    """
    loading = Loading(scenario.deployment)
    grain = loading.grain_tokens
    prefix = max(grain, prefix_tokens // grain * grain)
    longer = prefix + 16 * grain
    moved_s = loading.load_s(tier, prefix)
    computed_s = loading.recompute_s(prefix, tail_tokens)
    least = interval(scenario, tier, lambda one: Loading(one.deployment).break_even_tokens(tier, tail_tokens))
    return TierWorth(
        tier=tier,
        prefix_tokens=prefix,
        load_s=moved_s,
        recompute_s=computed_s,
        load_s_per_token=(loading.load_s(tier, longer) - moved_s) / (longer - prefix),
        recompute_s_per_token=(loading.recompute_s(longer, tail_tokens) - computed_s) / (longer - prefix),
        break_even_tokens=least,
        break_even_Bps=interval(scenario, "", lambda one: Loading(one.deployment).break_even_Bps(prefix, tail_tokens)),
        Bps=loading.path_Bps(tier, prefix),
        source=source(scenario, RATES[tier][0]).kind,
        set_by=_set_by(scenario, least, tail_tokens, grain),
    )


def _set_by(scenario: Scenario, least: Range, tail_tokens: int, grain: int) -> str:
    """The step in the time to compute at which a break-even length without width lies."""
    if least.value is None or not least.lo == least.value == least.hi:
        return ""
    captured = scenario.engine.overhead.captured_tokens
    if least.value <= grain:
        return f"loading wins from the smallest piece on, {grain} tokens"
    if least.value + tail_tokens - grain <= captured < least.value + tail_tokens:
        engine = scenario.engine.title or scenario.engine.name
        return (
            f"{engine}: steps of up to {captured} tokens start at a small fixed cost, longer ones at a higher one, so that loading wins "
            "from there on, whatever the rates"
        )
    return "the uncertainty is less than one block"


def ttft_s(scenario: Scenario, prompt_tokens: int, tier: str = "", hit: float = 0.0, *, loading: Loading | None = None) -> float:
    """Seconds to the first token of one request on an idle machine that finds a share of its prompt in a tier."""
    overhead, loading = scenario.deployment.overhead, loading or Loading(scenario.deployment)
    prefix = loading.below.whole(min(int(prompt_tokens * hit), prompt_tokens - 1)) if tier else 0
    front_s = overhead.entry_s(prompt_tokens) + overhead.first_token_s
    moved_s = loading.load_s(tier, prefix) if prefix else 0.0
    return front_s + moved_s + loading.cost.prefill_s(prompt_tokens - prefix, prefix, scenario.engine.step_tokens)


def prompt_for(scenario: Scenario, tier: str, speedup: float, hit: float = 1.0) -> int | None:
    """The shortest prompt whose first token comes `speedup` times sooner when a share of it lies in a tier.

    None when no prompt that the model can take does. To a sixteenth of an octave, by bisection: the ratio grows with the length.
    """
    longest = scenario.model.max_context_tokens or LONGEST_TOKENS
    loading = Loading(scenario.deployment)

    def sooner(step: int) -> bool:
        tokens = int(2 ** (step / 16))
        return ttft_s(scenario, tokens, loading=loading) >= speedup * ttft_s(scenario, tokens, tier, hit, loading=loading)

    highest = int(16 * math.log2(longest))
    found = first_true(16 * 7, highest, sooner)
    return int(2 ** (found / 16)) if found <= highest else None


def interval(scenario: Scenario, tier: str, answer: Callable[[Scenario], float]) -> Range:
    """An answer with its 95 % interval: each uncertain number, the engine's own costs among them, is moved by 1.96 sigma
    alone, the changes of the answer's logarithm are added in quadrature, upwards and downwards apart.
    """
    value = answer(scenario)
    numbers = [(path,) for path in RATES.get(tier, ())] + [PREFILL, *FLOORS]
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
