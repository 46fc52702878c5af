"""A page as one HTML file: every text escaped, styles, scripts and data inside, nothing fetched from anywhere."""

from __future__ import annotations

from html import escape
from importlib.resources import files

from kvplan import outputs
from kvplan.figures.base import script
from kvplan.report.html.panel import Cell, Grid, KeyNumber, Panel, WebPage

MARKS = {"yes": "✓", "no": "✗", "maybe": "~", "none": "·"}
SPOKEN = {"yes": "yes", "no": "no", "maybe": "with reservations", "none": ""}

POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'"
)
"""What a browser lets the page do: run what is in it, and ask nobody for anything."""


def check(path: str) -> None:
    """Raise InputError or MissingError now, before the work, when a report cannot be written there."""
    outputs.check(path) if path != outputs.STDOUT else None
    script()


def write(path: str, page: WebPage) -> int:
    """Write a page; returns its bytes."""
    content = html(page).encode()
    outputs.write(path, content)
    return len(content)


def html(page: WebPage) -> str:
    """The whole file."""
    panels = "".join(_panel(number, panel) for number, panel in enumerate(page.panels, start=1))
    drawn = any(panel.figure is not None for panel in page.panels)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="color-scheme" content="light dark">
<title>{escape(page.title)} · kvplan {escape(page.kind)}</title>
<style>{_asset("page.css")}</style>
</head>
<body>
<a class="skip" href="#answers">To the answers</a>
<header>
<p class="kind">kvplan {escape(page.kind)}</p>
<h1>{escape(page.title)}</h1>
<p class="subject">{escape(page.subject)}</p>
{_answer(page)}
{_listed(page.caveats, "caveats")}
{_numbers(page.numbers)}
</header>
<main id="answers">
{panels}{_repeat(page)}</main>
<footer><p>{escape(page.foot)}</p></footer>
{f"<script>{script()}</script>" if drawn else ""}
<script>{_asset("page.js")}</script>
</body>
</html>
"""


def _asset(name: str) -> str:
    return files("kvplan.report.html").joinpath(name).read_text(encoding="utf-8")


def _answer(page: WebPage) -> str:
    spoken = f'<span class="unseen">{SPOKEN[page.mark]}: </span>' if SPOKEN[page.mark] else ""
    mark = f'<span class="mark" aria-hidden="true">{MARKS[page.mark]}</span>'
    return f'<p class="answer {page.mark}">{mark}<span>{spoken}{escape(page.answer)}</span></p>'


def _numbers(numbers: tuple[KeyNumber, ...]) -> str:
    items = "".join(
        f"<div><dt>{escape(one.name)}</dt><dd><strong>{escape(one.value)}</strong><small>{escape(one.beside)}</small></dd></div>"
        for one in numbers
    )
    return f'<dl class="numbers">{items}</dl>' if items else ""


def _panel(number: int, panel: Panel) -> str:
    name = f"panel-{number}"
    lead = f"<p>{escape(panel.lead)}</p>" if panel.lead else ""
    plot = ""
    if panel.figure is not None:
        data = panel.figure.to_json().replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
        plot = (
            f'<div class="plot" id="{name}-plot" role="img" aria-label="{escape(f"{panel.title} {panel.lead}".strip())}"'
            f' style="min-height:{panel.figure.layout.height}px"></div>'
            f'<script type="application/json" id="{name}-data">{data}</script>'
        )
    table = ""
    if panel.grid is not None:
        table = _grid(panel.grid)
        if panel.figure is not None and not panel.shown:
            table = f"<details><summary>The numbers as a table</summary>{table}</details>"
    more = "".join(f"<details><summary>{escape(one.caption)}</summary>{_grid(one)}</details>" for one in panel.more)
    more += "".join(f'<h3>{escape(name)}</h3><pre tabindex="0"><code>{escape(text)}</code></pre>' for name, text in panel.texts)
    head = f'<h2 id="{name}">{escape(panel.title)}</h2>'
    return f'<section aria-labelledby="{name}">{head}{lead}{plot}{table}{more}{_listed(panel.notes, "notes")}</section>\n'


def _listed(texts: tuple[str, ...], kind: str) -> str:
    return f'<ul class="{kind}">{"".join(f"<li>{escape(text)}</li>" for text in texts)}</ul>' if texts else ""


def _grid(grid: Grid) -> str:
    heads = "".join(_head(at, head, grid) for at, head in enumerate(grid.heads))
    rows = "".join(
        f"<tr{' class=marked' if at == grid.marked else ''}>{''.join(_cell(column, cell, grid) for column, cell in enumerate(row))}</tr>"
        for at, row in enumerate(grid.rows)
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(grid.caption)}"><table{" class=sorts" if grid.sorts else ""}>'
        f'<caption class="unseen">{escape(grid.caption)}</caption><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'
    )


def _kind(at: int, grid: Grid) -> str:
    return "" if at == 0 or grid.heads[at] in grid.words else ' class="n"'


def _head(at: int, head: str, grid: Grid) -> str:
    text = f'<button type="button">{escape(head) or "name"}</button>' if grid.sorts else escape(head)
    return f'<th scope="col"{_kind(at, grid)}{" aria-sort=none" if grid.sorts else ""}>{text}</th>'


def _cell(at: int, cell: Cell, grid: Grid) -> str:
    tag = 'th scope="row"' if at == 0 else "td"
    value = f' data-value="{cell.value!r}"' if cell.value is not None else ""
    return f"<{tag}{_kind(at, grid)}{value}>{escape(cell.text)}</{tag[:2]}>"


def _repeat(page: WebPage) -> str:
    if not page.command:
        return ""
    return (
        '<section aria-labelledby="repeat" class="repeat"><h2 id="repeat">How is it repeated?</h2>'
        f'<pre tabindex="0"><code>{escape(page.command)}</code></pre></section>\n'
    )
