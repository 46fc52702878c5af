"""Money, wear and energy in sentences."""

from __future__ import annotations

from collections.abc import Iterator

from rich.markup import escape

from kvplan.results.economics import Amount, Costs, Energy, Flip, Money, Wear
from kvplan.units import format_traffic

MOST_FLIPS = 3


def lines(found: Costs) -> Iterator[tuple[str, str]]:
    """Label and sentence of each that is known."""
    if found.money:
        yield "costs", money(found.money) + (f"; without: {each(found.money_without)}" if found.money_without else "")
        for flip in found.price_flips[:MOST_FLIPS]:
            yield "price", price_flip(flip)
    if found.wear:
        yield "wear", wear(found.wear)
    if found.energy:
        yield "energy", energy(found.energy)


def money(found: Money) -> str:
    """A month and a million tokens, with their ranges."""
    return f"{amount(found.per_month, found.currency)} a month, {each(found)}"


def each(found: Money | None) -> str:
    """A million output tokens."""
    if found is None or found.per_million_output_tokens is None:
        return "nothing served"
    return f"{amount(found.per_million_output_tokens, found.currency)} a million output tokens"


def amount(found: Amount, unit: str = "") -> str:
    """A figure with its range."""
    shown = f"{found.value:,.3g}" if found.value < 1000 else f"{found.value:,.0f}"
    words = f"{shown} {unit}".rstrip()
    if found.low == found.high:
        return words
    low, high = (f"{one:,.3g}" if one < 1000 else f"{one:,.0f}" for one in (found.low, found.high))
    return f"{words} ({low} to {high})"


def price_flip(flip: Flip) -> str:
    """From which price on another choice is the cheaper one."""
    reach = ", within the range that it has today" if flip.inside else ""
    return f"{NAMES.get(flip.what, flip.what)} at {flip.factor:.2g} times its price{reach}: {escape(flip.to)} is the cheaper one"


NAMES = {"gpu": "GPU time", "cpu": "host memory", "disk": "disk", "remote": "the remote pool", "network": "traffic to the remote pool"}


def wear(found: Wear) -> str:
    """Writes a day, drive writes, years, and the rules that write less."""
    needs = found.drive_writes_per_day
    life = "" if found.years is None else f", {years(found.years.value)} to the rated endurance"
    classes = ", ".join(f"{one.title} ({one.dwpd:g}) {years(one.years.value)}" for one in found.drives)
    others = "".join(f"; {escape(one.name)}: {format_traffic(one.written_bytes_per_day)} a day" for one in found.alternatives[:2])
    return (
        f"{format_traffic(found.written_bytes_per_day)} a day on {format_traffic(found.disk_bytes)}: {needs.value:.2g} drive writes a "
        f"day{life}; by drive class: {classes}{others}"
    )


def years(value: float) -> str:
    """A life in years or days."""
    if value < 1:
        return f"{value * 365.25:,.0f} days"
    return f"{value:,.1f} years" if value < 100 else "over 100 years"


def energy(found: Energy) -> str:
    """Joules a token and a request, and watts of a GPU, as an estimate."""
    if found.per_output_token_J is None or found.per_request_J is None:
        return "nothing served"
    saved = found.saved_prefill_J_per_request
    kept = f"; the hits below the GPU save about {saved.value:,.3g} J of prefill a request" if saved else ""
    return (
        f"about {amount(found.per_output_token_J, 'J')} an output token, {amount(found.per_request_J, 'J')} a request, "
        f"{found.gpu_W.value:,.0f} W a GPU (estimate){kept}"
    )
