"""A comparison as a person reads it."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape

from kvplan import units
from kvplan.report.tables import Rows, print_rows, say, seconds
from kvplan.results.compare import Comparison, Handover, Parting

WORDS = {
    "ttft_mean_s": "time to first token, mean",
    "ttft_p95_s": "time to first token, p95",
    "itl_mean_s": "between tokens, mean",
    "itl_p95_s": "between tokens, p95",
    "requests_per_s": "requests/s",
    "gpu_hit_rate": "GPU hits",
    "cpu_hit_rate": "CPU hits",
    "disk_hit_rate": "disk hits",
    "remote_hit_rate": "remote hits",
    "computed_share": "computed",
    "stored_bytes": "stored below the GPU",
    "loaded_bytes": "loaded from below",
    "preempted": "preempted requests",
    "rejected": "rejected requests",
}
"""Figure -> its name for people."""


def show(console: Console, comparison: Comparison, notes: Sequence[str] = ()) -> None:
    """Print every run in a row; then what differs most, each with its reason; then the settings behind it."""
    print_rows(console, overview(comparison))
    for note in notes:
        say(console, f"[dim]{escape(note)}[/]")
    for name, run in zip(comparison.names, comparison.runs, strict=True):
        missed = [check.name for check in run.targets if not check.met]
        if missed:
            console.print(f"[red]✗[/] {escape(name)} misses its target: {', '.join(missed)}")
        if not run.requests.completed:
            console.print(f"[red]✗[/] {escape(name)} serves nothing")
    for handover in comparison.handovers:
        console.print(escape(handover_words(handover)))
    console.print("\n[bold]Why[/], the largest difference first")
    for one in comparison.differences[:WHYS]:
        say(console, f"{WORDS.get(one.what, one.what)}: {escape(one.reason)}", indent=2, hang=2)
    for parting in comparison.partings:
        say(console, escape(parting_words(parting)), indent=2, hang=2)
    explained = [difference for difference in comparison.settings if difference.reason]
    if explained:
        console.print()
        rows: Rows = [["put in differently", *(escape(name) for name in comparison.names)]]
        rows += [[one.what.removeprefix("engine."), *(escape(shown(one.what, value)) for value in one.values)] for one in explained]
        print_rows(console, rows)
        for one in explained:
            console.print(f"[dim]{escape(one.what.removeprefix('engine.'))}: {escape(one.reason)}[/]")


WHYS = 5


def overview(comparison: Comparison) -> Rows:
    """One row a run."""
    rows: Rows = [["", "TTFT", "p95", "ITL", "p95", "requests/s", "GPU hits", "below", "computed"]]
    for name, run in zip(comparison.names, comparison.runs, strict=True):
        total = max(1, run.prompt_tokens.total)
        below = run.prompt_tokens.cpu_hit + run.prompt_tokens.disk_hit + run.prompt_tokens.remote_hit
        times = [seconds(value) for value in (run.ttft_s.mean, run.ttft_s.p95, run.itl_s.mean, run.itl_s.p95)]
        shares = [f"{tokens / total:.1%}" for tokens in (run.prompt_tokens.gpu_hit, below, run.prompt_tokens.computed)]
        mark = "[red]overloaded[/] " if run.overload else ""
        rows.append([f"{mark}{escape(name)}", *times, units.format_number(run.throughput.requests_per_s), *shares])
    return rows


def handover_words(found: Handover) -> str:
    """What prefill apart gains, in a sentence."""
    verb = "gains" if found.gain_s >= 0 else "loses"
    moved = f"{units.format_bytes(round(found.prompt_bytes))} a prompt in {units.format_seconds(found.transfer_s)}"
    ends = "no network makes it gain"
    if found.break_even_Bps is not None:
        ends = f"break-even at {units.format_rate(found.break_even_Bps)}"
    return f"prefill apart ({found.name}) {verb} {units.format_seconds(abs(found.gain_s))} a request: {moved}; {ends}"


def parting_words(found: Parting) -> str:
    """Which rules make an engine differ, in a sentence."""
    ours, theirs = found.ttft_mean_s, found.against_ttft_mean_s
    if ours is None or theirs is None:
        return f"{found.name} against {found.against}: nothing was served"
    said = f"{found.name} against {found.against}: {seconds(ours)} to the first token, {seconds(theirs)}"
    moving = [one for one in found.rules if abs(one.change_s) > MOVES * min(ours, theirs)][:MOVING]
    if not moving:
        return f"{said}; no kind of rule moves it by {MOVES:.0%}"
    effects = [f"{one.rule} {_signed(one.change_s)} ({', '.join(one.settings[:NAMED])})" for one in moving]
    return f"{said}; taking over its rules one kind after the other: {'; '.join(effects)}"


def _signed(change_s: float) -> str:
    return ("+" if change_s >= 0 else "-") + seconds(abs(change_s))


MOVES = 0.01
"""A rule that changes the mean time to first token by less is not worth a word."""

MOVING = 4
NAMED = 3


def shown(what: str, value: object) -> str:
    """A setting or figure in its unit, without markup."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    assert isinstance(value, int | float)
    if what.endswith("_bytes") and not value:
        return "derived" if what.endswith("gpu_kv_bytes") else "none"
    if what.endswith("_bytes"):
        return units.format_bytes(int(value))
    if what.endswith("_per_s"):
        return units.format_number(value)
    if what.endswith("_s"):
        return units.format_seconds(value)
    if what.endswith(("_rate", "_share")):
        return f"{value:.1%}"
    return f"{value:,g}"
