"""Reports in a real browser without a network: panels drawn with data, usable by mouse, keyboard and screen reader, nothing fetched."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kvplan import plan, scenario_of
from kvplan.cli.main import guarded, main
from kvplan.economics.prices import price_source
from kvplan.executor import Executor
from kvplan.report.html.page import html
from kvplan.report.html.pages import page_of
from kvplan.report.html.panel import MOST_PANELS, WebPage
from kvplan.results.plan import PlanTable
from kvplan.results.validate import Check, ClientLag, Errors, Known, LagStats, SentRequests, SentRow, Side, ValidateResult
from kvplan.sim.outcome.compare import compare
from kvplan.sim.simulate import simulate
from kvplan.sweep.question import Options, question_of
from kvplan.sweep.sweep import sweep
from kvplan.traces import open_trace
from kvplan.traces.reuse.curve import curve
from kvplan.traces.shipped import shipped
from tests.report.browser import Browser, found

HOSTILE = "</script><img src=x onerror=\"document.title='owned'\"><b>&amp;{{7*7}}\u2028"


def simulated() -> Any:
    return simulate(scenario_of("chat", limit=80), history=True)[0]


def compared() -> Any:
    wanted = [scenario_of("chat", limit=60, engine=engine) for engine in ("vllm", "lmcache")]
    return compare(wanted, [simulate(one, history=True)[0] for one in wanted])


def swept() -> Any:
    options = Options(
        vary=("cpu=0,8GiB", "speedup=1,4"), sets=("run.limit=40",), front_of="ttft_p95,cost", prices=price_source("public", None)
    )
    return sweep(question_of("chat", options), executor=Executor(workers=1), watch=lambda done, about, word: None)


def validated() -> Any:
    """A server that takes a tenth longer than predicted, more or less."""
    result, record = simulate(scenario_of("chat", limit=60))
    rows = []
    for at, (ttft, e2e) in enumerate(zip(record.columns["ttft_s"], record.columns["e2e_s"], strict=True)):
        times = {"ttft_s": ttft * (1.05 + 0.1 * (at % 2)), "itl_s": 0.011, "e2e_s": e2e * 1.1}
        guesses = {"predicted_ttft_s": ttft, "predicted_itl_s": 0.01, "predicted_e2e_s": e2e, "predicted_cached_tokens": 64}
        rows.append(
            SentRow(
                index=at, intended_s=float(at), sent_s=float(at), prompt_tokens=900, output_tokens=9, cached_tokens=64, **times, **guesses
            )
        )
    side = Side(ttft_s=result.ttft_s, itl_s=result.itl_s, e2e_s=result.e2e_s, cached_tokens=3840, tiers={"gpu": 3840})
    lag = LagStats(p50=1e-4, p99=1e-3, max=2e-3)
    return ValidateResult(
        endpoint="http://localhost:8000",
        requests=SentRequests(total=60, completed=60, failed=0),
        client=ClientLag(send_lag_s=lag, read_lag_s=lag),
        measured=side,
        predicted=side,
        error=Errors(**dict.fromkeys(Errors.__struct_fields__, -0.1)),
        verdict="agrees",
        reason="",
        tolerance=0.15,
        checks=[Check(name="ttft_mean", value=-0.1, limit=0.15, met=True)],
        known=[Known(what="model", value="llama-3.1-8b", source="server")],
        rows=rows,
        provenance={"kvplan": "0", "scenario": result.provenance},
    )


RESULTS: dict[str, Callable[[], Any]] = {
    "simulate": simulated,
    "comparison": compared,
    "plan": lambda: plan("chat", limit=60, emit="vllm"),
    "plans": lambda: PlanTable(rows=tuple(plan("chat", limit=40, machine=machine) for machine in ("l4", "l40s"))),
    "curve": lambda: curve(open_trace(shipped("chat")), policies=["lru", "opt"], model="llama-3.1-8b", tiers=["2GiB", "8GiB"]),
    "validate": validated,
    "sweep": swept,
}
"""Report -> a result that it shows."""


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    return {name: make() for name, make in RESULTS.items()}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = found()
    if path is None:
        pytest.skip("no Chromium on this machine: install the package chromium")
    one = Browser(path)
    yield one
    one.close()


@pytest.fixture
def shown(browser: Browser, tmp_path: Path) -> Callable[..., Browser]:
    def show(page: WebPage, **how: Any) -> Browser:
        path = tmp_path / "report.html"
        path.write_text(html(page), encoding="utf-8")
        browser.open(path, **how)
        return browser

    return show


CONTRAST = (
    "(() => { const light = c => { const [r, g, b] = c.match(/[\\d.]+/g).map(v => { v /= 255; return v <= .03928 ? v / 12.92 : "
    "((v + .055) / 1.055) ** 2.4 }); return .2126 * r + .7152 * g + .0722 * b }; const under = getComputedStyle("
    "document.querySelector('section')).backgroundColor; return [...document.querySelectorAll('p, h2, dt, td, summary, .xtick text')]"
    ".map(e => { const s = getComputedStyle(e), [a, b] = [light(s[e.namespaceURI.endsWith('svg') ? 'fill' : 'color']), light(under)];"
    " return (Math.max(a, b) + .05) / (Math.min(a, b) + .05) }).reduce((a, b) => Math.min(a, b)) })()"
)
"""The smallest contrast of a text with what it stands on."""


FITTED = (
    "new Promise(done => (function wait(left) { const all = [...document.querySelectorAll('.plot')].every("
    "p => [...p.querySelectorAll('.main-svg')].every(s => s.clientWidth <= p.clientWidth)); "
    "all || !left ? done(all) : setTimeout(() => wait(left - 1), 20) })(250))"
)
"""Do all plots fit what they stand in, now or within five seconds."""


@pytest.mark.parametrize("name", RESULTS)
def test_every_panel_is_drawn_and_readable(name: str, results: dict[str, Any], shown: Callable[..., Browser]) -> None:
    page = page_of(results[name], command="kvplan " + "x" * 200)
    assert 1 <= len(page.panels) <= MOST_PANELS
    assert all(panel.title.endswith("?") for panel in page.panels)
    browser = shown(page)
    drawn = browser.run("[...document.querySelectorAll('.plot')].map(p => p.dataset.drawn > 0 && p.querySelectorAll('.trace').length)")
    assert len(drawn) == sum(panel.figure is not None for panel in page.panels) and all(drawn)
    assert browser.run("[...document.querySelectorAll('h1')].length") == 1
    assert browser.run("[...document.querySelectorAll('.plot')].every(plot => plot.getAttribute('aria-label').length > 20)")
    assert browser.run("[...document.querySelectorAll('section')].every(s => !s.querySelector('.plot') || s.querySelector('table'))")
    assert browser.run("document.documentElement.scrollWidth") <= 1200 and browser.run(CONTRAST) >= 4.5
    browser.shape(width=360, height=740, dark=True)
    assert browser.run(FITTED)
    assert browser.run("document.documentElement.scrollWidth") <= 360 and browser.run(CONTRAST) >= 4.5
    if name == "simulate":
        printed = browser.pdf()
        assert printed.startswith(b"%PDF") and len(printed) > 20_000
    if name == "plan":
        _sorts(browser)
    assert browser.complaints() == []
    assert browser.asked_for() == []


def _sorts(browser: Browser) -> None:
    """A table sorts by mouse and by keyboard."""
    order = "[...document.querySelectorAll('table.sorts')][0].tBodies[0].innerText"
    head = "document.querySelectorAll('table.sorts')[0].tHead.rows[0].cells[1]"
    before = browser.run(order)
    assert browser.run(f"{head}.getAttribute('aria-sort')") == "none"
    browser.run(f"{head}.scrollIntoView({{block: 'center'}})")
    place = browser.run(f"(() => {{ const r = {head}.querySelector('button').getBoundingClientRect(); return [r.x + 5, r.y + 5]; }})()")
    browser.click(*place)
    times = browser.run("[...document.querySelectorAll('table.sorts')[0].tBodies[0].rows].map(row => Number(row.cells[1].dataset.value))")
    assert times == sorted(times) and browser.run(f"{head}.getAttribute('aria-sort')") == "ascending"
    browser.run(f"{head}.querySelector('button').focus()")
    browser.key("Enter")
    assert browser.run(f"{head}.getAttribute('aria-sort')") == "descending"
    assert browser.run(order) != before


HOVERED = (
    "(() => { const p = document.querySelector('.plot'); p.scrollIntoView({block: 'center'}); const r = p.querySelector('.nsewdrag')"
    ".getBoundingClientRect(), point = p.querySelector('.scatterlayer path.js-line').getPointAtLength(80);"
    " return [r.left + point.x, r.top + point.y]; })()"
)
HOVER = (
    "new Promise(done => (function wait(left) { const t = document.querySelector('.hovertext'); "
    "t || !left ? done(t && t.textContent) : setTimeout(() => wait(left - 1), 20) })(100))"
)


def test_names_from_outside_stay_text_and_hover_tells_the_numbers(results: dict[str, Any], shown: Callable[..., Browser]) -> None:
    result = results["simulate"]
    provenance = {**result.provenance, "model": {"name": HOSTILE, "source": HOSTILE}}
    hostile = msgspec.structs.replace(result, name=HOSTILE, provenance=provenance, warnings=[HOSTILE])
    browser = shown(page_of(hostile, command=f"kvplan simulate {HOSTILE}"))
    assert browser.run("document.title").startswith("</script><img")
    assert browser.run("document.querySelectorAll('img').length") == 0
    assert browser.run("document.querySelector('h1').textContent") == HOSTILE
    x, y = browser.run(HOVERED)
    browser.move(x - 3, y)
    browser.move(x, y)
    words = browser.run(HOVER)
    assert "% of requests within" in words and "</script><img" in words
    assert browser.complaints() == []


def test_the_command_writes_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a report.html"
    assert main(["simulate", "chat", "--limit", "20", "--html", str(path), "--json"]) == 0
    out = capsys.readouterr()
    assert json.loads(out.out)["timeline"]["queues"] and "a report of" in out.err
    text = path.read_text()
    assert text.count("<!doctype html>") == 1 and 4e6 < len(text) < 6e6


def test_without_the_extra_it_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "plotly", None)
    monkeypatch.setitem(__import__("sys").modules, "plotly.graph_objects", None)
    assert guarded(main, ["simulate", "chat", "--limit", "5", "--html", str(tmp_path / "r.html")]) == 3
    assert "pip install 'kvplan[report]'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_run_that_is_not_asked_remembers_nothing() -> None:
    scenario = scenario_of("chat", limit=30)
    (plain, record), (told, full) = simulate(scenario), simulate(scenario, history=True)
    assert record.history is None and plain.timeline is None and full.history is not None
    assert msgspec.structs.replace(told, timeline=None) == plain


@pytest.mark.parametrize("name", RESULTS)
def test_notebooks_show_tables_and_figures(name: str, results: dict[str, Any]) -> None:
    result = results[name]
    shown = result._repr_html_()
    assert shown.count("<table>") >= 1 and shown.count("<tr>") > 1
    figures = result.figures()
    assert figures and all(figure.data and figure.to_json() for figure in figures.values())


def test_a_hostile_name_stays_text_in_a_notebook(results: dict[str, Any]) -> None:
    assert "<img" not in msgspec.structs.replace(results["simulate"], name=HOSTILE)._repr_html_()


def test_a_run_that_serves_nothing_and_its_comparison_are_pages_too(results: dict[str, Any]) -> None:
    result = results["simulate"]
    nothing = dict.fromkeys(result.ttft_s.__struct_fields__)
    stats = type(result.ttft_s)(**nothing)
    none = msgspec.structs.replace(
        result, requests=msgspec.structs.replace(result.requests, completed=0), ttft_s=stats, ttft_quantiles_s=(), timeline=None
    )
    assert "Nothing is served" in html(page_of(none))
    compared = msgspec.structs.replace(results["comparison"], runs=[none, result])
    assert "serves nothing" in html(page_of(compared))
    assert "None of them serves anything" in html(page_of(msgspec.structs.replace(compared, runs=[none, none])))
