"""What a server says about itself: engine, version, model, pool, tiers, and its counters by kvplan's names."""

from __future__ import annotations

import functools
import time
from importlib import resources
from typing import Any

import msgspec

from kvplan.errors import InputError
from kvplan.live.client import StreamClient
from kvplan.live.prometheus import Page, parse
from kvplan.units import GiB


class Names(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one engine calls its figures, from version `since` on."""

    name: str
    since: str
    prefix: str
    version: list[str] = []
    config: dict[str, list[str]] = {}
    counters: dict[str, list[str]] = {}
    gauges: dict[str, list[str]] = {}


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    engine: list[Names]


class Served(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a server told of itself; what it did not tell is absent, and named in `unknown`."""

    engine: str = ""
    version: str = ""
    models: list[str] = []  # names under which it serves, then the paths behind them
    context_tokens: int = 0
    block_tokens: int = 0
    pool_tokens: int = 0
    pool_bytes: int = 0
    kv_dtype: str = ""
    gpu_fraction: float = 0.0
    cpu_bytes: int = 0
    cpu_tokens: int = 0
    step_tokens: int = 0
    max_batch: int = 0
    tp: int = 0
    prefix_caching: bool = True
    metrics: str = ""  # address of its metrics; empty: none were found
    unknown: list[str] = []


@functools.cache
def known() -> tuple[Names, ...]:
    """The engines' names, from metrics.toml beside this file."""
    text = resources.files("kvplan.live").joinpath("metrics.toml").read_text("utf-8")
    return tuple(msgspec.toml.decode(text, type=_File).engine)


def engine_of(page: Page) -> Names | None:
    """The engine whose names stand on a page; a front end only where no engine behind it is seen."""
    found = [names for names in known() if any(name.startswith(names.prefix) for name in (*page.series, *page.announced))]
    return found[0] if found else None


def all_engines_of(page: Page) -> list[Names]:
    """Every engine, front end or cache whose names stand on a page."""
    return [names for names in known() if any(name.startswith(names.prefix) for name in (*page.series, *page.announced))]


async def read_page(client: StreamClient, address: str) -> Page | None:
    """The metrics at an address; None where there are none."""
    status, text = await client.get(address)
    if status != 200:
        return None
    page = parse(text.decode(errors="replace"), time.perf_counter())
    return page if page.series or page.announced else None


async def ask(client: StreamClient, metrics_at: str = "") -> tuple[Served, Page | None]:
    """Ask a server what it is. Raises InputError when it cannot be reached or refuses the key."""
    models, context_tokens = await _models(client)
    addresses = [metrics_at] if metrics_at else ["/metrics", "/prometheus/metrics"]
    page, at = None, ""
    for address in addresses:
        page = await read_page(client, address)
        if page is not None:
            at = address
            break
    if metrics_at and page is None:
        raise InputError(f"{metrics_at}: no metrics there", hint="leave --metrics out, or give the address of a Prometheus page")
    names = engine_of(page) if page is not None else None
    if page is None or names is None:
        missing = "its metrics (no Prometheus page at /metrics)" if page is None else "its engine (no known names on its metrics page)"
        return Served(models=models, context_tokens=context_tokens, metrics=at, unknown=[missing]), page
    told = await _config(client, page, names)
    return _served(names, told, models, context_tokens, at, page), page


async def _models(client: StreamClient) -> tuple[list[str], int]:
    status, text = await client.get("/v1/models")
    if status in (401, 403):
        raise InputError(f"the server refuses the key (HTTP {status})", hint="name the variable that holds it: --key-env NAME")
    try:
        rows = msgspec.json.decode(text)["data"] if status == 200 else []
        names = [str(row["id"]) for row in rows] + [str(row["root"]) for row in rows if row.get("root")]
        return names, max((int(row.get("max_model_len") or 0) for row in rows), default=0)
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError, ValueError):
        raise InputError("/v1/models is not what an OpenAI-compatible server answers", hint="is the address right, without /v1?") from None


async def _config(client: StreamClient, page: Page, names: Names) -> dict[str, str]:
    """The configuration as text, field by field."""
    pages: dict[str, Any] = {}
    told: dict[str, str] = {}
    for field, places in {"version": names.version, **names.config}.items():
        for place in places:
            name, _, key = place.partition("#")
            if name.startswith("/"):
                if name not in pages:
                    pages[name] = await _json(client, name)
                value = _dig(pages[name], key)
            elif key:
                value = page.label(name, key)
            else:
                value = page.value(name)
            if value is not None and str(value) not in ("", "None"):
                told[field] = str(value)
                break
    return told


async def _json(client: StreamClient, path: str) -> Any:
    status, text = await client.get(path)
    try:
        return msgspec.json.decode(text) if status == 200 else {}
    except msgspec.DecodeError:
        return {}


def _dig(document: Any, key: str) -> Any:
    """A key of a JSON document, or of the arguments that it repeats inside."""
    if not isinstance(document, dict):
        return None
    inner = document.get("server_args")
    return document.get(key, inner.get(key) if isinstance(inner, dict) else None)


_REQUIRED = {
    "version": "its version",
    "block_tokens": "the size of its blocks",
    "pool_tokens": "the size of its KV pool",
    "kv_dtype": "the KV dtype",
}


def _served(names: Names, told: dict[str, str], models: list[str], context_tokens: int, at: str, page: Page) -> Served:
    def number(field: str) -> float:
        try:
            return max(0.0, float(told.get(field, 0)))
        except ValueError:
            return 0.0

    block, blocks = int(number("block_tokens")), int(number("gpu_blocks"))
    pool_tokens = int(number("pool_tokens")) or block * blocks
    cpu_bytes = int(number("cpu_bytes")) or round(number("cpu_gib") * GiB)
    found = Served(
        engine=names.name,
        version=told.get("version", ""),
        models=models,
        context_tokens=context_tokens or int(number("context_tokens")),
        block_tokens=block,
        pool_tokens=pool_tokens,
        pool_bytes=int(number("pool_bytes")),
        kv_dtype=told.get("kv_dtype", ""),
        gpu_fraction=number("gpu_fraction"),
        cpu_bytes=cpu_bytes,
        cpu_tokens=int(number("cpu_tokens")),
        step_tokens=int(number("step_tokens")),
        max_batch=int(number("max_batch")),
        tp=int(number("tp")),
        prefix_caching=told.get("prefix_caching", "True") != "False",
        metrics=at,
    )
    return msgspec.structs.replace(found, unknown=[words for field, words in _REQUIRED.items() if not getattr(found, field)])


# -- counters over a window ------------------------------------------------------------------------------------------------


class Counted(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine counted between two readings, by kvplan's names; `missing` are the figures that its page does not hold."""

    engine: str
    seconds: float
    counted: dict[str, float]
    gauges: dict[str, float]
    missing: list[str]


def window(before: Page, after: Page) -> Counted:
    """The difference of two readings of one server.

    Raises InputError when a counter went back, which is a restart, or the page holds no known engine's names.
    """
    engines = all_engines_of(after)
    if not engines:
        raise InputError("the metrics page names no engine that kvplan knows", hint=f"known: {', '.join(n.name for n in known())}")
    counted: dict[str, float] = {}
    gauges: dict[str, float] = {}
    missing: list[str] = []
    for names in engines:
        for figure, selectors in names.counters.items():
            value = _difference(before, after, selectors)
            if value is None and figure not in counted:
                missing.append(f"{figure} ({selectors[0].partition('{')[0]})")
            elif value is not None:
                counted.setdefault(figure, value)
        for figure, selectors in names.gauges.items():
            found = next((value for selector in selectors if (value := after.value(selector)) is not None), None)
            if found is not None:
                gauges.setdefault(figure, found)
    counted = _parted(counted)
    missing = [text for text in missing if text.split()[0] not in counted]
    return Counted(engine=engines[0].name, seconds=after.moment_s - before.moment_s, counted=counted, gauges=gauges, missing=missing)


def _difference(before: Page, after: Page, selectors: list[str]) -> float | None:
    for selector in selectors:
        value = after.value(selector)
        if value is not None:
            moved = value - (before.value(selector) or 0.0)
            if moved < -1e-6:
                raise InputError(f"{selector} went back between the two readings: the server was started anew")
            return moved
    return None


def _parted(counted: dict[str, float]) -> dict[str, float]:
    """What an engine counts below the GPU without naming the tier is the CPU's where nothing lies below it."""
    below = [counted.get(name, 0.0) for name in ("cpu_hit_tokens", "disk_hit_tokens", "remote_hit_tokens")]
    if counted.get("lower_hit_tokens") is not None and not any(below):
        return {**counted, "cpu_hit_tokens": counted["lower_hit_tokens"]}
    return counted
