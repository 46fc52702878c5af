"""Reports in a real browser without a network: panels drawn with data, usable by mouse, keyboard and screen reader, nothing fetched."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kvplan import scenario_of
from kvplan.cli.main import guarded, main
from kvplan.report.html.page import html
from kvplan.report.html.pages import page_of
from kvplan.report.html.panel import MOST_PANELS, WebPage
from kvplan.sim.simulate import simulate
from tests.report.browser import Browser, found

HOSTILE = "</script><img src=x onerror=\"document.title='owned'\"><b>&amp;{{7*7}}\u2028"


def simulated(limit: int = 80) -> Any:
    return simulate(scenario_of("chat", limit=limit), history=True)[0]


RESULTS: dict[str, Callable[[], Any]] = {"simulate": simulated}
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


@pytest.mark.parametrize("name", RESULTS)
def test_every_panel_is_drawn_with_data_and_nothing_is_asked_for(name: str, results: dict[str, Any], shown: Callable[..., Browser]) -> None:
    page = page_of(results[name], command="kvplan …")
    assert 1 <= len(page.panels) <= MOST_PANELS
    assert all(panel.title.endswith("?") for panel in page.panels)
    browser = shown(page)
    drawn = browser.run(
        "[...document.querySelectorAll('.plot')].map(plot => [plot.dataset.drawn > 0, plot.querySelectorAll('.trace').length])"
    )
    assert len(drawn) == sum(panel.figure is not None for panel in page.panels)
    assert all(ready and traces for ready, traces in drawn)
    assert browser.complaints() == []
    assert browser.asked_for() == []
    assert browser.run("[...document.querySelectorAll('h1, h2')].map(head => head.tagName)").count("H1") == 1
    assert browser.run("[...document.querySelectorAll('.plot')].every(plot => plot.getAttribute('aria-label').length > 20)")
    assert browser.run("[...document.querySelectorAll('section')].every(s => !s.querySelector('.plot') || s.querySelector('table'))")


@pytest.mark.parametrize("name", RESULTS)
def test_a_phone_scrolls_down_only(name: str, results: dict[str, Any], shown: Callable[..., Browser]) -> None:
    browser = shown(page_of(results[name], command="kvplan " + "x" * 200), width=360, height=740, dark=True)
    assert browser.run("document.documentElement.scrollWidth") <= 360
    assert browser.complaints() == []


def test_hover_tells_the_numbers(results: dict[str, Any], shown: Callable[..., Browser]) -> None:
    browser = shown(page_of(results["simulate"]))
    place = browser.run(
        "(() => { const p = document.querySelector('.plot'); p.scrollIntoView({block: 'center'}); const r = p.querySelector('.nsewdrag')"
        ".getBoundingClientRect(), point = p.querySelector('.scatterlayer path.js-line').getPointAtLength(80);"
        " return [r.left + point.x, r.top + point.y]; })()"
    )
    browser.move(place[0] - 3, place[1])
    browser.move(*place)
    words = browser.run(
        "new Promise(done => (function wait(left) { const t = document.querySelector('.hovertext'); "
        "t || !left ? done(t && t.textContent) : setTimeout(() => wait(left - 1), 20) })(100))"
    )
    assert "% of requests within" in words


def test_names_from_outside_stay_text(results: dict[str, Any], shown: Callable[..., Browser]) -> None:
    result = results["simulate"]
    provenance = {**result.provenance, "model": {"name": HOSTILE, "source": HOSTILE}}
    hostile = msgspec.structs.replace(result, name=HOSTILE, provenance=provenance, warnings=[HOSTILE])
    browser = shown(page_of(hostile, command=f"kvplan simulate {HOSTILE}"))
    assert browser.run("document.title").startswith("</script><img")
    assert browser.run("document.querySelectorAll('img').length") == 0
    assert browser.run("document.querySelector('h1').textContent") == HOSTILE
    assert browser.complaints() == []


def test_light_and_dark_are_readable(results: dict[str, Any], shown: Callable[..., Browser]) -> None:
    contrast = (
        "(() => { const light = c => { const [r, g, b] = c.match(/[\\d.]+/g).map(v => { v /= 255; return v <= .03928 ? v / 12.92 : "
        "((v + .055) / 1.055) ** 2.4 }); return .2126 * r + .7152 * g + .0722 * b }; const under = getComputedStyle("
        "document.querySelector('section')).backgroundColor; return [...document.querySelectorAll('p, h2, dt, td, summary, .xtick text')]"
        ".map(e => { const s = getComputedStyle(e), [a, b] = [light(s[e.namespaceURI.endsWith('svg') ? 'fill' : 'color']), light(under)];"
        " return (Math.max(a, b) + .05) / (Math.min(a, b) + .05) }).reduce((a, b) => Math.min(a, b)) })()"
    )
    for dark in (False, True):
        assert shown(page_of(results["simulate"]), dark=dark).run(contrast) >= 4.5


def test_it_prints(results: dict[str, Any], shown: Callable[..., Browser]) -> None:
    printed = shown(page_of(results["simulate"]), dark=True).pdf()
    assert printed.startswith(b"%PDF") and len(printed) > 20_000


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
