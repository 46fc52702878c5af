"""What a comparison of simulations answers; its JSON is this record."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from kvplan.figures import bars, curves, times
from kvplan.figures.base import Figure
from kvplan.results import frames, notebook
from kvplan.results.simulate import QUANTILE_SHARES, SimResult

if TYPE_CHECKING:
    from pandas import DataFrame


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """One setting or figure that is not the same in all runs, in the order of the runs, and why it matters or where it
    comes from."""

    what: str
    values: list[str | int | float | bool | None]
    reason: str


class Handover(msgspec.Struct, frozen=True, kw_only=True):
    """Prefill on replicas of its own against a run without: what the mean request gains, and the network that it takes.

    To first order: a request's time is the rest plus its prompt's KV at the network's rate.
    """

    name: str
    against: str
    prompt_bytes: float  # KV of the mean prompt
    Bps: float  # of the network in this run
    transfer_s: float  # of the mean prompt at that rate
    gain_s: float  # mean end-to-end time without less with the hand-over, both as simulated
    break_even_Bps: float | None  # network rate at which the gain is zero; None: at no rate does it gain


class RuleEffect(msgspec.Struct, frozen=True, kw_only=True):
    """What one kind of another engine's rules changes."""

    rule: str
    settings: list[str]  # of the engine, that differ
    change_s: float  # of the mean time to first token


class Parting(msgspec.Struct, frozen=True, kw_only=True):
    """Why an engine differs from the first one, which takes over this engine's rules one kind after the other: changes add up, the largest
    first. In another order they would be others.
    """

    name: str
    against: str
    ttft_mean_s: float | None
    against_ttft_mean_s: float | None
    rules: list[RuleEffect]


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of `kvplan simulate` for several scenarios or engines."""

    schema: str = "kvplan.compare/1"
    names: list[str]
    settings: list[Compared]  # what was put in differently
    differences: list[Compared] = msgspec.field(name="figures")  # what came out differently, the largest ratio first
    handovers: list[Handover] = []
    partings: list[Parting] = []  # where they were asked for
    same: list[str]  # figures that are equal in all runs
    runs: list[SimResult]

    def to_frame(self) -> DataFrame:
        """One row a run, with all its figures by dotted names."""
        return frames.rows({"run": name, **frames.flat(run)} for name, run in zip(self.names, self.runs, strict=True))

    def _repr_html_(self) -> str:
        rows = []
        for name, run in zip(self.names, self.runs, strict=True):
            times = map(notebook.seconds, (run.ttft_s.mean, run.ttft_s.p95, run.itl_s.mean, run.itl_s.p95))
            rows.append([name, *times, f"{run.throughput.requests_per_s:,.3g}", f"{run.token_shares()['computed']:.1%}"])
        heads = ("run", "first token, mean", "p95", "between tokens, mean", "p95", "requests/s", "computed")
        return notebook.tables("Runs compared", (heads, rows))

    def figures(self) -> dict[str, Figure]:
        """What `--html` draws of it, as plotly figures by name; those over time where the runs were asked to remember it."""
        runs = dict(zip(self.names, self.runs, strict=True))
        ideal = {name: run.ideal_hit_rate for name, run in runs.items() if run.ideal_hit_rate is not None}
        found = {
            "ttft": curves.distribution(
                {name: run.ttft_quantiles_s for name, run in runs.items()}, QUANTILE_SHARES, what="time to first token"
            ),
            "tokens": bars.token_sources({name: run.token_shares() for name, run in runs.items()}, ideal=ideal),
        }
        told = {name: run.timeline for name, run in runs.items() if run.timeline is not None}
        if told:
            found["over_time"] = times.side_by_side(told)
        rows = {name: one.phases[0].seconds for name, one in told.items() if one.phases}
        if rows:
            found["phases"] = bars.phases(rows, without=("decoding",))
        return found
