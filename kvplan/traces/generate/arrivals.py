"""When sessions start: processes of one mean rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from kvplan.errors import InputError, did_you_mean
from kvplan.traces.generate.spec import Client

_CHUNK = 4096


def starts(client: Client, rng: np.random.Generator, duration_s: float) -> Iterator[float]:
    """Times of session starts of a client, in order, before `duration_s`; at most `client.sessions` where that is
    given.
    """
    name = client.arrivals or "poisson"
    if name not in ARRIVALS:
        raise InputError(f"no arrival process named {name!r}", hint=did_you_mean(name, ARRIVALS))
    if name != "at_once" and not client.sessions_per_s:
        raise InputError(f"{name} arrivals need sessions_per_s")
    for number, moment_s in enumerate(ARRIVALS[name](client, rng)):
        if moment_s >= duration_s or (client.sessions and number >= client.sessions):
            return
        yield moment_s


def _gamma(client: Client, rng: np.random.Generator) -> Iterator[float]:
    """Gamma-distributed times between starts: burstier than Poisson where cv is above 1."""
    shape = 1 / client.cv**2
    now_s = 0.0
    while True:
        for gap_s in rng.gamma(shape, 1 / (shape * client.sessions_per_s), _CHUNK).tolist():
            now_s += gap_s
            yield now_s


def _poisson(client: Client, rng: np.random.Generator) -> Iterator[float]:
    now_s = 0.0
    while True:
        for gap_s in rng.exponential(1 / client.sessions_per_s, _CHUNK).tolist():
            now_s += gap_s
            yield now_s


def _diurnal(client: Client, rng: np.random.Generator) -> Iterator[float]:
    """A Poisson process whose rate swings as a sine, by thinning (Lewis and Shedler, 1979); it starts at the mean,
    rising.
    """
    peak = client.sessions_per_s * (1 + client.swing)
    now_s = 0.0
    while True:
        for gap_s, chance in zip(rng.exponential(1 / peak, _CHUNK).tolist(), rng.random(_CHUNK).tolist(), strict=True):
            now_s += gap_s
            rate = client.sessions_per_s * (1 + client.swing * math.sin(2 * math.pi * now_s / client.period_s))
            if chance * peak < rate:
                yield now_s


def _burst(client: Client, rng: np.random.Generator) -> Iterator[float]:
    """Bursts of exponential length at `burst_factor` times the mean rate, and silence between that keeps the mean."""
    quiet_s = client.burst_s * (client.burst_factor - 1)
    rate = client.sessions_per_s * client.burst_factor
    now_s = float(rng.exponential(quiet_s))
    while True:
        end_s = now_s + float(rng.exponential(client.burst_s))
        while (now_s := now_s + float(rng.exponential(1 / rate))) < end_s:
            yield now_s
        now_s = end_s + float(rng.exponential(quiet_s))


def _at_once(client: Client, rng: np.random.Generator) -> Iterator[float]:
    """All at 0: an offline batch."""
    if not client.sessions:
        raise InputError("a batch needs sessions, the number of its requests")
    for _ in range(client.sessions):
        yield 0.0


ARRIVALS: dict[str, Callable[[Client, np.random.Generator], Iterator[float]]] = {
    "poisson": _poisson,
    "gamma": _gamma,
    "diurnal": _diurnal,
    "burst": _burst,
    "at_once": _at_once,
}
"""Name -> endless starts in order."""
