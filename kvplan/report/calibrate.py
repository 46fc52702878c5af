"""The closing table of a calibration, and of a comparison: readable in ten seconds."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from kvplan.report.tables import print_rows
from kvplan.results.calibrate import CalibrateResult, CompareResult, Figure, FromLogResult
from kvplan.units import format_bytes, format_rate, format_seconds, format_tokens


def _number(value: float, unit: str) -> str:
    if unit == "B/s":
        return format_rate(value)
    if unit in ("s", "s/GiB"):
        return format_seconds(value)
    if unit == "B":
        return format_bytes(value)
    if unit.startswith("tokens"):
        return f"{format_tokens(value)} {unit}"
    return f"{value:,.0f}{unit}" if unit == "/s" else f"{value:.3g}"


def _interval(figure: Figure) -> str:
    """Half of the interval's width in percent of the value; both ends where that is wide."""
    half = (figure.hi - figure.lo) / (2 * figure.value) if figure.value else 0.0
    if half >= 0.5:
        return f"{_number(figure.lo, figure.unit)} to {_number(figure.hi, figure.unit)}"
    return f"±{half:.1%}" if half else ""


def render(result: CalibrateResult, console: Console) -> None:
    """Figures with their interval and the datasheet beside them, then what is odd."""
    rows = [["", "measured", "95%", "datasheet", "reached"]]
    part = ""
    for figure in result.figures:
        if figure.part != part:
            part = figure.part
            rows.append([f"[bold]{part}[/]", "", "", "", ""])
        promised = _number(figure.datasheet, figure.unit) if figure.datasheet else ""
        reached = f"{figure.value / figure.datasheet:.0%}" if figure.datasheet else ""
        rows.append([f"  {escape(figure.name)}", _number(figure.value, figure.unit), _interval(figure), promised, reached])
    console.print(f"[bold]{escape(result.machine.title)}[/] · {result.mode}")
    console.print()
    print_rows(console, rows)
    console.print()
    _probes(result, console)
    _quality(result, console)
    for remark in result.warnings:
        if remark.level != "note":
            console.print(f"! {remark.code}: {escape(remark.text)}", soft_wrap=True)
    notes = sum(remark.level == "note" for remark in result.warnings)
    if notes:
        console.print(f"{notes} notes on precision and fit are in the profile under calibration.warnings.")
    if result.profile:
        where = f"{result.profile} (the one of that name was replaced)" if result.replaced else result.profile
        console.print(f"wrote {where}: use it with --machine {result.profile}", soft_wrap=True)
    elif not result.problem:
        console.print("not saved: -o FILE writes it", soft_wrap=True)


def _probes(result: CalibrateResult, console: Console) -> None:
    done = sum(p.status == "done" for p in result.probes)
    console.print(f"{done} of {len(result.probes)} probes done in {format_seconds(result.duration_s)}.")
    for probe in result.probes:
        if probe.status != "done":
            console.print(f"  {probe.status}: {probe.name} ({escape(probe.reason)})", soft_wrap=True)


def _quality(result: CalibrateResult, console: Console) -> None:
    quality = result.quality
    if not quality.points:
        console.print("No points were held out: nothing says how well this profile predicts.")
        return
    each = ", ".join(f"{name} {error:.1%}" for name, error in quality.errors.items())
    console.print(f"Median error on {quality.points} points that the fit did not see: {each}.", soft_wrap=True)


def render_compare(result: CompareResult, console: Console) -> None:
    """Two profiles side by side; a number agrees when the intervals overlap."""
    rows = [["", "first", "second", "ratio", ""]]
    for row in result.differences:
        mark = "agree" if row.agree else "differ"
        rows.append([escape(row.name), _number(row.first, row.unit), _number(row.second, row.unit), f"{row.ratio:.3f}", mark])
    console.print(f"first:  {escape(result.first)}", soft_wrap=True)
    console.print(f"second: {escape(result.second)}", soft_wrap=True)
    console.print()
    print_rows(console, rows)
    differing = sum(not row.agree for row in result.differences)
    console.print()
    if differing:
        console.print(f"{differing} of {len(result.differences)} measured numbers differ by more than their intervals.")
    else:
        console.print(f"All {len(result.differences)} measured numbers agree within their intervals.")


def render_log(result: FromLogResult, console: Console) -> None:
    """Figures from logs, and how to use them."""
    rows = [["", "from the log", "95%", "source"]]
    for figure in result.figures:
        rows.append([f"{figure.part}: {escape(figure.name)}", _number(figure.value, figure.unit), _interval(figure), escape(figure.source)])
    print_rows(console, rows)
    if result.settings:
        console.print()
        console.print(
            "use them: " + " ".join(f"--set {path}={value:.4g}" for path, value in result.settings.items()),
            soft_wrap=True,
        )
    for note in result.notes:
        console.print(f"! {escape(note)}", soft_wrap=True)
