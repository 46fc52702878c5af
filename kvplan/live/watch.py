"""A live picture of a server: two readings of its metrics, and what kvplan would have predicted of the transfers between."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from kvplan.errors import InputError
from kvplan.hardware.timing import OUT, transfer_s
from kvplan.live import metrics
from kvplan.live.client import StreamClient
from kvplan.live.compare import HITS
from kvplan.live.prometheus import Page
from kvplan.live.records import Endpoint, Limits
from kvplan.live.world import Given, blank_trace, scenario_of, token_bytes
from kvplan.loading import Loading
from kvplan.results.live import Flow, LiveResult
from kvplan.scenario import Scenario

LARGE_BYTES = 64 * 2**20
"""Above this mean size the rate of transfers is the link's (start-up below 1 %: microseconds of some milliseconds)."""
RESTS = 0.05
"""A direction rests when it moves less than this share of what the other does: both at once run below their rates."""
SETTINGS = {"loads": "machine.link.h2d_Bps", "stores": "machine.link.d2h_Bps"}


def watch(endpoint: Endpoint, metrics_at: str, window_s: float, given: Given) -> LiveResult:
    """Read a server's metrics twice, `window_s` apart. The prediction needs a machine, and a model where the server's is not
    known; without them it is left out and said.

    Raises InputError when the server has no metrics of a known engine.
    """
    served, before, after = asyncio.run(_twice(endpoint, metrics_at, window_s))
    return picture(endpoint.url, served, metrics.window(before, after), *_scenario(given, served))


async def _twice(endpoint: Endpoint, metrics_at: str, window_s: float) -> tuple[metrics.Served, Page, Page]:
    async with StreamClient(endpoint, Limits()) as client:
        served, before = await metrics.ask(client, metrics_at)
        if before is None:
            raise InputError(f"{endpoint.url} has no metrics", hint="name their address: --metrics URL, or start the server with metrics")
        await asyncio.sleep(window_s)
        after = await metrics.read_page(client, served.metrics)
    if after is None:
        raise InputError(f"{endpoint.url}: its metrics went away between the two readings")
    return served, before, after


def _scenario(given: Given, served: metrics.Served) -> tuple[Scenario | None, str]:
    if not given.machine:
        return None, "no prediction beside it: name the machine with --machine NAME"
    with tempfile.TemporaryDirectory(prefix="kvplan-") as folder:
        try:
            return scenario_of(str(blank_trace(Path(folder))), given, served)[0], ""
        except InputError as error:
            return None, f"no prediction beside it: {error.message}"


def picture(url: str, served: metrics.Served, seen: metrics.Counted, scenario: Scenario | None, remark: str) -> LiveResult:
    """The picture of a window; figures that the engine does not count are null and named in `missing`."""
    counted = seen.counted
    tokens = counted.get("prompt_tokens")
    flows = [_flow(what, counted, scenario) for what in ("loads", "stores")]
    warnings = [remark] if remark else []
    if not tokens:
        warnings.append("no request came in the window: there is nothing to see")
    return LiveResult(
        endpoint=url,
        engine=seen.engine,
        version=served.version,
        models=served.models,
        seconds=seen.seconds,
        prompt_tokens=tokens,
        generated_tokens=counted.get("generated_tokens"),
        hit_rate={name: counted[f"{name}_hit_tokens"] / tokens for name in HITS if tokens and f"{name}_hit_tokens" in counted},
        flows=flows,
        queue_s=_mean(counted, "queue_s", "queued"),
        ttft_s=_mean(counted, "first_token_s", "first_tokens"),
        itl_s=_mean(counted, "between_s", "betweens"),
        preemptions=counted.get("preemptions"),
        running=seen.gauges.get("running"),
        waiting=seen.gauges.get("waiting"),
        pool_used=seen.gauges.get("pool_used"),
        settings=_settings(*flows),
        missing=seen.missing,
        warnings=warnings,
    )


def _settings(loads: Flow, stores: Flow) -> dict[str, float]:
    """Rates that may stand for the link's: of large transfers, while the other direction rested."""
    found = {}
    for flow, other in ((loads, stores), (stores, loads)):
        alone = (other.bytes or 0) <= RESTS * (flow.bytes or 0)
        if flow.Bps and alone and (flow.mean_bytes or 0) >= LARGE_BYTES:
            found[SETTINGS[flow.what]] = flow.Bps
    return found


def _mean(counted: dict[str, float], total: str, count: str) -> float | None:
    many = counted.get(count)
    return counted[total] / many if many and total in counted else None


def _flow(what: str, counted: dict[str, float], scenario: Scenario | None) -> Flow:
    stem = what.removesuffix("s")
    count, size, seconds = counted.get(what), counted.get(f"{stem}_bytes"), counted.get(f"{stem}_s")
    mean = size / count if size and count else None
    return Flow(
        what=what,
        count=count,
        bytes=size,
        seconds=seconds,
        mean_bytes=mean,
        Bps=size / seconds if size and seconds else None,
        predicted_Bps=_predicted_Bps(what, mean, scenario) if mean else None,
    )


def _predicted_Bps(what: str, mean_bytes: float, scenario: Scenario | None) -> float | None:
    """The rate of one transfer of this size between GPU and host memory, without what the engine does around it."""
    if scenario is None:
        return None
    loading, tokens = Loading(scenario.deployment), max(1, round(mean_bytes / token_bytes(scenario)))
    if what == "loads":
        return loading.path_Bps("cpu", tokens)
    moved = loading.below.stored(tokens)
    return moved.rank_bytes * scenario.deployment.tp / transfer_s(scenario.machine.link, OUT, moved.rank_bytes, moved.pieces)
