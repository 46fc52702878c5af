"""How well predictions hold: effects of a tier as right, sign only or wrong, and measured means inside the printed intervals."""

from __future__ import annotations

import json
import math
import statistics
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from kvplan import catalog, scenario
from kvplan.deployment import Deployment
from kvplan.memory.layout import layout
from kvplan.results.simulate import SimResult
from kvplan.sim.simulate import simulate
from tests.fidelity.replay import KEY, MEASURED, Case, _medians, _repetitions, _row, _sizes, as_sent

CLOSE = 1.25
"""An effect is right when it is predicted within this factor."""

LEVEL = 0.02
"""Within 2 % there is no effect."""


AGREED = 0.75
"""Share of the pairs of repetitions with and without that must agree on the sign of an effect, for it to be judged."""


class Effect(NamedTuple):
    """A time without a tier over the time with it, or a rate the other way round: above 1 the tier pays."""

    name: str
    measured: float
    predicted: float | None
    why: str = ""  # it cannot be said


class Mean(NamedTuple):
    """A measured mean in seconds, and the 95 % interval that the simulator prints; None where it printed none."""

    name: str
    measured: float
    interval: tuple[float, float] | None


def verdict(effect: Effect) -> str:
    if effect.predicted is None:
        return "cannot say"
    if _sign(effect.measured) != _sign(effect.predicted):
        return "wrong"
    return "right" if abs(math.log(effect.predicted / effect.measured)) <= math.log(CLOSE) else "sign only"


def _sign(effect: float) -> int:
    return 0 if abs(effect - 1) <= LEVEL else 1 if effect > 1 else -1


def lines(effects: Iterable[Effect], means: Iterable[Mean]) -> list[str]:
    """The card: one line an effect and a mean, and the counts."""
    effects, means = list(effects), list(means)
    found = [f"{one.name:44} measured {one.measured:7.2f}  predicted {_shown(one.predicted)}  {_said(one)}" for one in effects]
    counts = Counter(map(verdict, effects))
    found.append(
        ", ".join(f"{counts[word]} {word}" for word in ("right", "sign only", "wrong", "cannot say")) + f" of {len(effects)} effects"
    )
    for one in means:
        if not inside(one):
            found.append(f"{one.name:44} measured {one.measured * 1e3:8.1f} ms outside {_ends(one)}")
    found.append(
        f"{share_inside(means):.0%} of {len(means)} measured means lie in their 95 % interval; its median width is {width(means):.2f} x"
    )
    return found


def _said(effect: Effect) -> str:
    return verdict(effect) + (f": {effect.why}" if effect.why else "")


def _shown(value: float | None) -> str:
    return "      -" if value is None else f"{value:7.2f}"


def _ends(mean: Mean) -> str:
    return "nothing" if mean.interval is None else "{:.1f} to {:.1f} ms".format(*(end * 1e3 for end in mean.interval))


def inside(mean: Mean) -> bool:
    return mean.interval is not None and mean.interval[0] <= mean.measured <= mean.interval[1]


def share_inside(means: list[Mean]) -> float:
    return sum(map(inside, means)) / len(means)


def width(means: list[Mean]) -> float:
    """Upper over lower end, the median."""
    return statistics.median(one.interval[1] / one.interval[0] for one in means if one.interval is not None)


# -- measured ----------------------------------------------------------------------------------------------------------


def _result(case: Case, rows: list[dict[str, Any]], warm: float, tiers: dict[str, str]) -> SimResult:
    """The result of a replay whose leading share of requests is warm-up."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in ({"kvplan": "trace/1", "block_tokens": KEY}, *rows)))
        loaded = scenario.load(
            str(path), model=case.model, machine=case.machine, engine=case.engine, tiers=tiers, run={"warmup": warm}, sets=case.sets
        )
        return simulate(loaded)[0]


def single(case: Case, kind: str, tokens: int) -> SimResult:
    """One request alone: cold, or with all but its last key on the GPU or only in host memory."""
    measured = case.load()
    cached, sizes = tokens - KEY, _sizes(measured)
    if kind == "cold":
        return _result(case, [_row(0, tokens, 0)], 0.0, sizes)
    rows = [_row(0, cached, 0)]
    if kind == "cpu_hit":  # two other prompts push it out of a pool of little more than one; host memory keeps all three
        rows += [_row(at, cached, at * 10**6) for at in (1, 2)]
        sizes = {"gpu_kv": f"{1.25 * _pool_bytes(case, tokens + KEY):.0f}B", "cpu": "512GiB"}
    rows.append(_row(3, tokens, 0, own=(10**8,)))
    return _result(case, rows, 1 - 0.5 / len(rows), sizes)


def _pool_bytes(case: Case, tokens: int) -> int:
    """What one request takes of the GPU pool."""
    engine, server = catalog.engine(case.engine), catalog.machine(case.machine)
    return layout(Deployment(model=catalog.model(case.model), engine=engine, server=server)).reserved_bytes(tokens)


def singles(name: str, case: Case) -> Iterator[tuple[str, int, float, SimResult]]:
    """Kind, tokens, measured seconds and result of each request that was measured alone."""
    measured = case.load()
    for kind in ("cold", "gpu_hit", "cpu_hit"):
        for tokens, seconds in _medians(measured, kind).items():
            yield kind, tokens, seconds, single(case, kind, tokens)


def measured_singles(name: str, case: Case) -> tuple[list[Effect], list[Mean]]:
    """Every length alone; a hit is an effect against the same length cold."""
    found, measured = list(singles(name, case)), case.load()
    cold = {tokens: (seconds, result.ttft_s.mean) for kind, tokens, seconds, result in found if kind == "cold"}
    repeated = {kind: _repetitions(measured, kind) for kind in ("cold", "cpu_hit")}
    means = [Mean(f"{name}, {kind} {tokens:,}", seconds, result.interval.ttft_mean_s) for kind, tokens, seconds, result in found]
    effects = []
    for kind, tokens, seconds, result in found:
        without = cold.get(tokens - KEY)
        if kind == "cpu_hit" and without is not None:
            told = without[1] / result.ttft_s.mean if result.ttft_s.mean and without[1] else None
            pairs = list(product(repeated["cold"][tokens - KEY], repeated["cpu_hit"][tokens]))
            wins = sum(alone > loaded for alone, loaded in pairs)
            torn = max(wins, len(pairs) - wins) < AGREED * len(pairs)
            why = f"{wins} of {len(pairs)} pairs of its repetitions are a win" if torn else ""
            effects.append(Effect(f"{name}, {tokens - KEY:,} tokens from host memory", without[0] / seconds, None if torn else told, why))
    return effects, means


def replayed(name: str, case: Case, trace: str, tiers: dict[str, str]) -> tuple[float, float, SimResult]:
    """Measured mean times to first token and between tokens of a replay, and the result."""
    truth = case.load()["replay"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in as_sent(case, MEASURED / trace)))
        loaded = scenario.load(str(path), model=case.model, machine=case.machine, engine=case.engine, tiers=tiers, sets=case.sets)
        result = simulate(loaded)[0]
    tokens = sum(row["out"] - 1 for row in truth)
    between = sum(row["itl"] * (row["out"] - 1) for row in truth) / tokens
    return statistics.mean(row["ttft"] for row in truth), between, result
