"""The pictures of reports in docs/: `python -m tests.report.pictures` takes them anew. Needs Chromium."""

from __future__ import annotations

import base64
import tempfile
from pathlib import Path
from typing import Any

from kvplan import plan, scenario_of
from kvplan.report.html.page import html
from kvplan.report.html.pages import page_of
from kvplan.sim.simulate import simulate
from tests.report.browser import Browser, found

DOCS = Path(__file__).resolve().parents[2] / "docs"
WIDTH = 1040


def busy() -> Any:
    """A disk that is asked for more than it can read."""
    return simulate(scenario_of("slow-disk", gpu_kv="8GiB", cpu="24GiB", disk="200GiB"), history=True)[0]


PICTURES = {"report-plan.webp": (lambda: plan("chat"), 0, 2, 1.4), "report-simulate.webp": (busy, 4, 5, 1.0)}
"""File -> its result, the panels from and to which it shows (from 0: from the top of the page), and its scale."""


def take(browser: Browser, result: Any, first: int, last: int, scale: float) -> bytes:
    """A part of a page as WebP."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.html"
        path.write_text(html(page_of(result)), encoding="utf-8")
        browser.open(path, width=WIDTH)
        browser.run("document.head.insertAdjacentHTML('beforeend', '<style>.modebar, details { display: none !important }</style>')")
        top, bottom = browser.run(
            f"[{first} ? document.querySelector('#panel-{first}').parentElement.getBoundingClientRect().top - 12 : 0,"
            f" document.querySelector('#panel-{last}').parentElement.getBoundingClientRect().bottom + 12]"
        )
    clip = {"x": 0, "y": top, "width": WIDTH, "height": bottom - top, "scale": scale}
    answer = browser.send("Page.captureScreenshot", format="webp", quality=82, captureBeyondViewport=True, clip=clip)
    return base64.b64decode(answer["data"])


if __name__ == "__main__":
    path = found()
    assert path, "no Chromium on this machine"
    chromium = Browser(path)
    for name, (make, *what) in PICTURES.items():
        (DOCS / name).write_bytes(take(chromium, make(), *what))
    chromium.close()
